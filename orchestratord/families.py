"""IPv4 and IPv6: ports that serve both, and addresses as people write them."""

from __future__ import annotations

import errno
import re
import socket
from typing import Any, Protocol

from twisted.internet.error import CannotListenError

#: Between the parts of an endpoint description; a backslash takes the meaning away.
_PARTS = re.compile(r"(?<!\\):")
#: How often another port is tried if the kernel's choice for IPv6 is taken for IPv4.
_TRIES = 10
#: What a kernel says of a port that is not to be had, whatever the family.
_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EPERM})
_MAPPED = "::ffff:"


class Open(Protocol):
    """Opens the port of an endpoint description."""

    def __call__(self, description: str) -> Any:
        """Return the port; raise CannotListenError."""
        ...


def is_for_all(description: str) -> bool:
    """Return whether an endpoint description is a TCP port on all addresses: it names no interface."""
    kind, *parts = _PARTS.split(description)
    named = [part for part in parts if "=" in part]
    return kind == "tcp" and len(parts) - len(named) <= 1 and not any(part.startswith("interface=") for part in named)


def open_for_all(open_port: Open, description: str) -> list[Any]:
    """Open a port that `is_for_all` for IPv4 and IPv6, as far as the machine has them.

    It is one socket, unless the system keeps IPv6 apart (net.ipv6.bindv6only). Raises CannotListenError.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            port = open_port(rf"{description}:interface=\:\:")
        except CannotListenError as error:
            if error.socketError.errno in _TAKEN:
                raise
            return [open_port(description)]
        if not port.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            return [port]
        try:
            return [port, open_port(_with_port(description, port.getHost().port))]
        except CannotListenError as error:
            if error.socketError.errno not in _TAKEN:
                return [port]
            port.stopListening()
            if port.getHost().port == _port(description) or not tries_left:
                raise
    raise AssertionError  # pragma: no cover - the last try returns or raises


def serves_both(port: Any) -> bool:
    """Return whether a port takes connections of both families."""
    taken: socket.socket = port.socket
    return taken.family == socket.AF_INET6 and not taken.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


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


def _port(description: str) -> int | None:
    """Return the port of a TCP endpoint description."""
    for part in _PARTS.split(description)[1:]:
        name, _, value = part.rpartition("=")
        if name in {"", "port"}:
            return int(value)
    return None


def _with_port(description: str, port: int) -> str:
    kind, *parts = _PARTS.split(description)
    others = [part for part in parts if "=" in part and not part.startswith("port=")]
    return ":".join([kind, str(port), *others])
