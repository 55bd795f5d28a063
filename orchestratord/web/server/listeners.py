"""The ports of a site: opened from endpoint descriptions, described by their addresses, and closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from orchestratord.runtime.ip_families import is_for_all, joined, loopback, open_for_all, port_of
from orchestratord.security.tls import TLS_PREFIX
from orchestratord.web.server.start_message import Place
from orchestratord.web.server.tls_transport import TlsFactory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IListeningPort, IProtocolFactory

    from orchestratord.security.tls import ServerTls
    from orchestratord.web.server.tls_transport import TlsLimit

#: Connections that may wait to be accepted; the kernel may allow fewer (net.core.somaxconn).
BACKLOG = 4096


class Listeners:
    """Listens on endpoint descriptions; those that begin with `tls:` serve TLS, and need `tls`.

    A TCP port without an interface is opened for IPv4 and for IPv6 if the machine has both.
    """

    def __init__(
        self,
        reactor: Any,
        descriptions: Sequence[str],
        factory: IProtocolFactory,
        tls: ServerTls | None,
        limit: TlsLimit,
    ) -> None:
        self._reactor = reactor
        self._descriptions = descriptions
        self._factory = factory
        self._tls = tls
        self._limit = limit
        self._opened: list[_Listener] = []

    def open(self) -> None:
        """Open the ports; SystemExit if one cannot be opened."""
        for description in self._descriptions:
            try:
                ports = self._ports(description)
            except Exception as error:  # noqa: BLE001 - a plugin's endpoint may raise anything
                raise _cannot_listen(description, error) from None
            self._opened += [_Listener(description, port) for port in ports]

    async def close(self) -> None:
        """Accept no more connections; existing ones go on."""
        for listener in self._opened:
            closed = listener.port.stopListening()
            if closed is not None:
                await closed

    @property
    def addresses(self) -> list[str]:
        """The addresses, for the log."""
        return [listener.address for listener in self._opened]

    @property
    def places(self) -> list[Place]:
        """The addresses as Twisted has them, and whether each serves TLS."""
        return [
            Place(port.getHost(), tls=description.startswith((TLS_PREFIX, "ssl:")))
            for description, port in self._opened
        ]

    def own_address(self) -> str:
        """Return the `HOST:PORT` at which this machine itself reaches the first TCP listener without TLS."""
        for description, port in self._opened:
            host: Any = port.getHost()
            if description.startswith((TLS_PREFIX, "ssl:")):
                continue
            if getattr(host, "type", None) == "TCP":
                four = loopback() if is_for_all(description) else "127.0.0.1"
                local = {"0.0.0.0": four, "::": "::1"}.get(host.host, host.host)  # noqa: S104 - read, not bound
                return joined(local, host.port)
        raise RuntimeError("settings promise a tcp: listener")  # pragma: no cover - checked at the start

    def _ports(self, description: str) -> list[IListeningPort]:
        inner = description.removeprefix(TLS_PREFIX)
        factory = self._factory
        if self._tls is not None and inner != description:
            factory = TlsFactory(self._tls, factory, self._reactor, self._limit)
        backlog = re.search(r":backlog=(\d+)", inner)

        endpoint = serverFromString(self._reactor, inner)

        def listen() -> IListeningPort:
            opened: list[Any] = []
            endpoint.listen(factory).addBoth(opened.append)
            if isinstance(opened[0], Failure):
                opened[0].raiseException()
            port: Any = opened[0]
            # More connections may wait to be accepted than Twisted's 50: a fleet reports at the same moment.
            if backlog is None and hasattr(port, "socket"):
                port.socket.listen(BACKLOG)
            return cast("IListeningPort", port)

        if not is_for_all(inner):
            return [listen()]
        return open_for_all(
            listen,
            lambda six: self._reactor.adoptStreamPort(six.fileno(), six.family, factory),
            port_of(inner),
            BACKLOG if backlog is None else int(backlog[1]),
        )


class _Listener(NamedTuple):
    """An open port, and the endpoint description that it was opened from."""

    description: str
    port: IListeningPort

    @property
    def address(self) -> str:
        host: Any = self.port.getHost()
        name = joined(host.host, host.port) if hasattr(host, "port") else str(getattr(host, "name", host))
        return f"{name} (TLS)" if self.description.startswith(TLS_PREFIX) else name


def _cannot_listen(description: str, error: Exception) -> SystemExit:
    reason = str(error.socketError.strerror if isinstance(error, CannotListenError) else error)
    return SystemExit(f"orchestratord: cannot listen on {description}: {reason}")
