"""Connections in TLS fit into their part of the memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from twisted.logger import capturedLogs, formatEvent

from orchestratord.config.loader import load
from orchestratord.runtime.memory_limit import TLS_BYTES, TLS_PART, memory_limit, tls_connections_that_fit

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 2**20


def test_a_quarter_of_the_memory() -> None:
    """At its bound TLS takes a quarter; a pod of 1 GiB has room for 4,700 connections, one of 4 GiB for all."""
    most = load({}, {}).max_connections
    for memory, fit in ((GIB, 4793), (2 * GIB, 9586), (4 * GIB, most)):
        assert tls_connections_that_fit(most, memory) == fit
        assert fit * TLS_BYTES <= memory / TLS_PART
    assert tls_connections_that_fit(100, GIB) == 100
    assert tls_connections_that_fit(100, 1) == 1


def test_what_does_not_fit_is_said() -> None:
    """In one line, where TLS is served."""
    with capturedLogs() as logs:
        tls_connections_that_fit(16_384, GIB, serves_tls=False)
        tls_connections_that_fit(4000, GIB)
        tls_connections_that_fit(16_384, GIB)
    (line,) = map(formatEvent, logs)
    assert line == (
        "--max-connections: 16384 is lowered to 4793 for TLS: each takes 56 kB, and a quarter of the memory limit of"
        " 1074 MB is for them"
    )


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        ("0::/a/b\n", {"memory.max": "max\n", "a/memory.max": f"{64 * MIB}\n", "a/b/memory.max": "max\n"}, 64 * MIB),
        ("0::/a/b\n", {"memory.max": f"{32 * MIB}\n", "a/memory.max": f"{64 * MIB}\n"}, 32 * MIB),
        ("0::/elsewhere\n", {"memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{64 * MIB}\n"}, 64 * MIB),
        ("4:cpu,memory:/a\n", {"memory/memory.limit_in_bytes": f"{64 * MIB}\n"}, 64 * MIB),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("nonsense\n", {}, MACHINE),
        (None, {}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str | None, files: dict[str, str], limit: int) -> None:
    """Of both versions of control groups, of those above it, and of the machine."""
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert memory_limit(tmp_path) == limit


def test_this_process_has_a_limit() -> None:
    """Whatever it is run in."""
    assert 0 < memory_limit() <= MACHINE
