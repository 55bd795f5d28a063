"""IPv4 and IPv6: ports that serve both, and addresses as people write them."""

from __future__ import annotations

import errno
import re
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.error import CannotListenError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Between the parts of an endpoint description; a backslash takes the meaning away.
_PARTS = re.compile(r"(?<!\\):")
#: How often another port is tried if the kernel's choice for IPv4 is taken for IPv6.
_TRIES = 10
#: What a kernel says of a family of addresses that it does not have.
_ABSENT = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_MAPPED = "::ffff:"


def is_for_all(description: str) -> bool:
    """Return whether an endpoint description is a TCP port on all addresses: it names no interface."""
    kind, *parts = _PARTS.split(description)
    named = [part for part in parts if "=" in part]
    return kind == "tcp" and len(parts) - len(named) <= 1 and not any(part.startswith("interface=") for part in named)


def open_for_all(
    open_four: Callable[[], Any], open_six: Callable[[socket.socket], Any], port: int, backlog: int
) -> list[Any]:
    """Open a port for IPv4 and IPv6, as far as the machine has them; 0 is one of the kernel's choice, for both.

    Two sockets: on one for both each IPv4 client would have an IPv6 address, and Twisted takes longer for those.
    `open_four` opens the port for IPv4, `open_six` makes one of a socket that listens, which it copies. Raises
    CannotListenError.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            four = open_four()
        except CannotListenError as error:
            if error.socketError.errno not in _ABSENT:
                raise
            return [_opened(open_six, port, backlog)]
        number = four.getHost().port
        try:
            return [four, _opened(open_six, number, backlog)]
        except CannotListenError as error:
            if error.socketError.errno in _ABSENT:
                return [four]
            four.stopListening()
            if port or not tries_left or error.socketError.errno != errno.EADDRINUSE:
                raise
    raise AssertionError  # pragma: no cover - the last try returns or raises


def _opened(open_six: Callable[[socket.socket], Any], port: int, backlog: int) -> Any:
    try:
        with socket.socket(socket.AF_INET6) as six:
            six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::", port))
            six.listen(backlog)
            six.setblocking(False)
            return open_six(six)
    except OSError as error:
        raise CannotListenError("::", port, error) from None


def loopback() -> str:
    """Return the loopback address of this machine: 127.0.0.1, or ::1 where there is only IPv6."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError:
        return "::1"
    return "127.0.0.1"


def joined(host: str, port: int) -> str:
    """Return an address and a port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(host: str) -> str:
    """Return an address as its owner knows it: that of an IPv4 client of an IPv6 socket is ::ffff:192.0.2.1."""
    return host.removeprefix(_MAPPED) if "." in host else host


def port_of(description: str) -> int:
    """Return the port of the description of a TCP endpoint."""
    parts = (part.rpartition("=") for part in _PARTS.split(description)[1:])
    return next((int(value) for name, _, value in parts if name in {"", "port"}), 0)
