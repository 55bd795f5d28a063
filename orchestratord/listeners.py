"""The ports that a site is served on: opened from their descriptions, told by their addresses, and closed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from orchestratord.options import TLS_PREFIX
from orchestratord.tls import ServerFiles, ServerTls
from orchestratord.tls_transport import TlsFactory
from orchestratord.welcome import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IListeningPort, IProtocolFactory

    from orchestratord.settings import Settings

#: Connections that may wait to be accepted; the kernel may allow fewer (net.core.somaxconn).
BACKLOG = 4096


class Listeners:
    """Listens by endpoint descriptions, those with `tls:` before them in TLS, for which there is a `tls` then."""

    def __init__(
        self, reactor: Any, descriptions: Sequence[str], factory: IProtocolFactory, tls: ServerTls | None
    ) -> None:
        self._reactor = reactor
        self._descriptions = descriptions
        self._factory = factory
        self._tls = tls
        self._opened: list[_Listener] = []

    def open(self) -> None:
        """Open the ports; SystemExit if one cannot be opened."""
        for description in self._descriptions:
            self._opened.append(_Listener(description, self._listen(description)))

    async def close(self) -> None:
        """Accept no connection any more; those that there are go on."""
        for listener in self._opened:
            closed = listener.port.stopListening()
            if closed is not None:
                await closed

    @property
    def addresses(self) -> list[str]:
        """Where they listen, for people."""
        return [listener.address for listener in self._opened]

    @property
    def places(self) -> list[Place]:
        """Where they listen, for programs."""
        return [
            Place(port.getHost(), tls=description.startswith((TLS_PREFIX, "ssl:")))
            for description, port in self._opened
        ]

    def own_address(self) -> str:
        """Return `HOST:PORT` under which this very machine reaches the first TCP listener without TLS."""
        for description, port in self._opened:
            host: Any = port.getHost()
            if description.startswith((TLS_PREFIX, "ssl:")):
                continue
            if getattr(host, "type", None) == "TCP":
                local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.host)  # noqa: S104 - read, not bound
                name = local or (f"[{host.host}]" if ":" in host.host else host.host)
                return f"{name}:{host.port}"
        raise RuntimeError("settings promise a tcp: listener")  # pragma: no cover - checked at the start

    def _listen(self, description: str) -> IListeningPort:
        factory = self._factory
        if self._tls is not None and description.startswith(TLS_PREFIX):
            factory = TlsFactory(self._tls, factory, self._reactor)
        endpoint = serverFromString(self._reactor, description.removeprefix(TLS_PREFIX))
        opened: list[Any] = []
        endpoint.listen(factory).addCallback(_with_backlog, description).addBoth(opened.append)
        if isinstance(opened[0], Failure):
            raise _cannot_listen(description, opened[0])
        port: IListeningPort = opened[0]
        return port


class _Listener(NamedTuple):
    """An open port, and the endpoint description that it was opened by."""

    description: str
    port: IListeningPort

    @property
    def address(self) -> str:
        host: Any = self.port.getHost()
        name = f"{host.host}:{host.port}" if hasattr(host, "port") else str(getattr(host, "name", host))
        return f"{name} (TLS)" if self.description.startswith(TLS_PREFIX) else name


def server_tls(settings: Settings, expires: Callable[[float], object]) -> ServerTls | None:
    """Return what `tls:` listeners serve with, if the settings have it; `expires` as ServerTls calls it."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = ServerFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return ServerTls(time.monotonic, files, expires)


def _with_backlog(port: Any, description: str) -> Any:
    """Let more connections wait to be accepted than Twisted's 50: a fleet reports at the same moment."""
    if "backlog=" not in description and hasattr(port, "socket"):
        port.socket.listen(BACKLOG)
    return port


def _cannot_listen(description: str, failure: Any) -> SystemExit:
    error = failure.value
    reason = str(error.socketError.strerror if isinstance(error, CannotListenError) else error)
    return SystemExit(f"orchestratord: cannot listen on {description}: {reason}")
