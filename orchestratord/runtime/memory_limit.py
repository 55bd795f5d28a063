"""How much memory the process may have, and how many connections in TLS fit into their part of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

log = Logger()

#: What a connection takes, in bytes: in clear, and in TLS. Of the latter 27 kB are there after the handshake, nearly
#: all of it OpenSSL's own; the rest comes with the first large answer, and stays.
CLEAR_BYTES, TLS_BYTES = 3_000, 56_000
#: The part of the memory that connections in TLS may take: one of so many.
TLS_PART = 4


def memory_limit(root: Path = Path("/")) -> int:
    """Return the least of the limits of this process' control groups and the machine's memory, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                limits += _limits(groups, path, "memory.max")
            elif "memory" in controllers.split(","):
                limits += _limits(groups / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def tls_connections_that_fit(wanted: int, memory: int, *, serves_tls: bool = True) -> int:
    """Return how many connections in TLS there may be, of so many that there may be in all.

    Fewer are said in a line of the log, if TLS is served at all.
    """
    fit = max(1, min(wanted, memory // TLS_PART // TLS_BYTES))
    if fit < wanted and serves_tls:
        log.warn(
            "--max-connections: {wanted} is lowered to {fit} for TLS: each takes {size:.0f} kB, and a quarter of the"
            " memory limit of {memory:.0f} MB is for them",
            wanted=wanted,
            fit=fit,
            size=TLS_BYTES / 1000,
            memory=memory / 1e6,
        )
    return fit


def _limits(groups: Path, path: str, name: str) -> list[int]:
    """Return the limits of a control group and of those above it; in a container its own may be the topmost."""
    found = []
    group = groups / path.lstrip("/")
    for place in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int((place / name).read_text()))
        if place == groups:
            break
    return found
