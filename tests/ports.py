"""Ports for servers that are told where to listen."""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
#: Where the kernel's own begin on a machine that does not say.
_USUAL = 32_768


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment.

    It is below those that the kernel gives to whoever names none, so that no connection or server of another test has
    taken it when a server listens there a second later, and again after each restart.
    """
    lowest_of_kernel = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _USUAL
    # A kernel that gives away nearly all ports leaves none that are safe.
    ports = range(_LOWEST, lowest_of_kernel if lowest_of_kernel > 2 * _LOWEST else _USUAL)
    while True:
        port = SystemRandom().choice(ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
