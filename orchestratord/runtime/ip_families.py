"""IPv4 and IPv6: ports that serve both, and the text of addresses."""

from __future__ import annotations

import errno
import re
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.error import CannotListenError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Separates the parts of an endpoint description, except after a backslash.
_PARTS = re.compile(r"(?<!\\):")
#: How many ports are tried if the one that the kernel chose for IPv4 is in use for IPv6.
_TRIES = 10
#: The errors of a kernel without the address family.
_ABSENT = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_MAPPED = "::ffff:"


def is_for_all(description: str) -> bool:
    """Return whether an endpoint description is a TCP port on all addresses: one that names no interface."""
    kind, *parts = _PARTS.split(description)
    named = [part for part in parts if "=" in part]
    return kind == "tcp" and len(parts) - len(named) <= 1 and not any(part.startswith("interface=") for part in named)


def open_for_all(
    open_four: Callable[[], Any], open_six: Callable[[socket.socket], Any], port: int, backlog: int
) -> list[Any]:
    """Open a port for IPv4 and IPv6, if the machine has both. With port 0 the kernel chooses one, the same for both.

    There are two sockets: on one for both families each IPv4 client would have an IPv6 address, for which Twisted takes
    longer. `open_four` opens the port for IPv4; `open_six` makes a port of a listening socket, which it copies. Raises
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
    """Return an IPv4 address that an IPv6 socket shows as ::ffff:192.0.2.1 in its usual form; others unchanged."""
    return host.removeprefix(_MAPPED) if "." in host else host


def port_of(description: str) -> int:
    """Return the port of the description of a TCP endpoint."""
    parts = (part.rpartition("=") for part in _PARTS.split(description)[1:])
    return next((int(value) for name, _, value in parts if name in {"", "port"}), 0)
