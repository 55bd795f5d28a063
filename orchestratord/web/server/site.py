"""The HTTP server: a resource tree on connections with deadlines, and a clean end."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import http, server

from orchestratord.web.server.channel import BoundedChannel
from orchestratord.web.server.request import BoundedRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.web.resource import Resource

    from orchestratord.web.server.connection_limit import RefusingProtocol
    from orchestratord.web.server.context import ServerContext

log = Logger()


class OrchestratorSite(server.Site):
    """Serves a resource tree within the limits of `context`. Belongs to the reactor thread."""

    # Not Twisted's proxy of a channel: it only adds HTTP/2, and costs a call for each packet.
    protocol = BoundedChannel  # type: ignore[assignment]

    def __init__(self, resource: Resource, context: ServerContext) -> None:
        # Twisted would parse every POST's Content-Type as an e-mail header, half of a report's time. The query
        # routes read their forms themselves.
        super().__init__(resource, BoundedRequest, timeout=None, reactor=context.reactor, parsePOSTFormSubmission=False)
        self.context = context
        self._deadlines = LoopingCall(self._check_deadlines)
        self._deadlines.clock = context.reactor

    def startFactory(self) -> None:
        """Start to check deadlines. Twisted's own would open an access log and start a clock for it."""
        if not self._deadlines.running:
            self._deadlines.start(1, now=False)

    def stopFactory(self) -> None:
        """Do nothing: the port is closed, and deadlines are checked until `drain` is over."""

    def acceptableProtocols(self) -> list[bytes]:
        """Return what TLS clients may negotiate."""
        return [b"http/1.1"]

    def getContentFile(self, length: int | None) -> BytesIO:
        """Return where a body is kept: in memory, since it has a limit. Twisted would use a file from 100 kB on."""
        del length
        return BytesIO()

    def log(self, request: http.Request) -> None:
        """Count a request; Twisted calls this at its end."""
        assert isinstance(request, BoundedRequest)  # noqa: S101 - requestFactory makes no other
        self.context.count(request, request.code)

    def buildProtocol(self, addr: IAddress | None) -> BoundedChannel | RefusingProtocol | None:  # type: ignore[override]
        """Return the channel of a connection, or a protocol that refuses it over the limit; None: close it."""
        if self.context.connections.full:
            return self.context.connections.refusal(self.reactor)
        channel: BoundedChannel = super().buildProtocol(addr)
        channel.context = self.context
        return channel

    async def drain(self, seconds: float) -> None:
        """Let the requests in flight finish, for so many seconds at most, and end every connection."""
        self.context.closing = True
        for channel in list(self.context.channels):
            channel.close_when_idle()
        await self.context.emptied(seconds)
        for channel in list(self.context.channels):
            channel.abort()
        if self._deadlines.running:
            self._deadlines.stop()

    def _check_deadlines(self) -> None:
        now = self.reactor.seconds()
        self.context.readers.check()
        channels = self.context.channels
        for channel in [channel for channel in channels if channel.deadline <= now or channel.taken_by <= now]:
            try:
                channel.timeoutConnection()
            except Exception:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
                log.failure("a connection could not be ended")
