"""The memory limit of the process, and how many TLS connections fit into their part of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

log = Logger()

#: Bytes of a connection without and with TLS. With TLS it takes 27 kB after the handshake, nearly all of it in OpenSSL;
#: the rest comes with the first large answer, and stays.
CLEAR_BYTES, TLS_BYTES = 3_000, 56_000
#: TLS connections may take one part in TLS_PART of the memory.
TLS_PART = 4


def memory_limit(root: Path = Path("/")) -> int:
    """Return the least of the limits of this process' control groups and of the machine's memory, in bytes."""
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
    """Return how many of `wanted` connections may use TLS; `memory` is the limit in bytes.

    If it is fewer, and TLS is served, that is logged.
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
    """Return the limits of a control group and of its parents, as far as they can be seen from a container."""
    found = []
    group = groups / path.lstrip("/")
    for place in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int((place / name).read_text()))
        if place == groups:
            break
    return found
