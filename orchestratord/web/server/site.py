"""The HTTP server: what its connections share, the count of requests, the access log, and a clean end."""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import http, server

from orchestratord.runtime.ip_families import plain
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.security.gate import Role
from orchestratord.web.server.channel import BoundedChannel
from orchestratord.web.server.request import BoundedRequest
from orchestratord.web.server.slow_readers import WAITING_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IAddress
    from twisted.web.resource import Resource

    from orchestratord.errors import Fault
    from orchestratord.security.gate import Gate
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.server.connection_limit import ConnectionLimit, RefusingProtocol
    from orchestratord.web.server.fast_path import FastPath
    from orchestratord.web.server.slow_readers import SlowReaders

log = Logger()


class OrchestratorSite(server.Site):
    """Serves a resource tree within bounds.

    `express` answers plain reports, if there is one; `hot` are leaves, by their whole path, reached past the tree;
    `gate` says who may have what; `redacted` takes tokens out of what is to be logged. `max_body` is in bytes;
    `arriving` the memory for all requests that arrive; `connections` counts with those of other sites, and `readers`
    are the slow ones of all of them.
    `request_timeout`, for a whole request to arrive, a TLS handshake before it included, `idle_timeout`, for a
    kept-alive connection between requests, and `answer_timeout`, for a client to take an answer, are in seconds.
    `settle` is called before an answer is written that might go out in this very turn of the reactor.
    Belongs to the reactor thread.
    """

    # Not Twisted's proxy of a channel, which would only add HTTP/2, at the price of a call more for each packet.
    protocol = BoundedChannel  # type: ignore[assignment]

    def __init__(
        self,
        resource: Resource,
        telemetry: SelfMetrics,
        reactor: Any,
        *,
        hot: Mapping[bytes, Resource],
        fast_path: FastPath | None,
        gate: Gate,
        redacted: Callable[[bytes], bytes] = bytes,
        max_body: int,
        arriving: MemoryBudget,
        connections: ConnectionLimit,
        readers: SlowReaders,
        request_timeout: float,
        idle_timeout: float,
        answer_timeout: float,
        access_log: bool = False,
        flush: Callable[[], None] | None = None,
    ) -> None:
        # Twisted would parse every POST's Content-Type as an e-mail header, which takes half of all time; the query
        # routes read their forms themselves.
        super().__init__(resource, BoundedRequest, timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        self.telemetry = telemetry
        self.hot = hot
        self.fast_path = fast_path
        self.gate = gate
        self.redacted = redacted
        self.max_body = max_body
        self.request_timeout = request_timeout
        self.idle_timeout = idle_timeout
        self.answer_timeout = answer_timeout
        self.arriving = arriving
        self.connections = connections
        self.readers = readers
        #: Memory for answers, or the rest of them, that wait for slow readers and are in no other bound.
        self.waiting = MemoryBudget(WAITING_BYTES, readers.free_memory)
        self.access_log = access_log
        self.flush = flush
        self.channels: set[BoundedChannel] = set()
        self.closing = False
        self._emptied: Deferred[None] | None = None
        self._deadlines = LoopingCall(self._check_deadlines)
        self._deadlines.clock = reactor

    def startFactory(self) -> None:
        """Look after the deadlines; without the access log of Twisted's own, and its clock."""
        if not self._deadlines.running:
            self._deadlines.start(1, now=False)

    def stopFactory(self) -> None:
        """Let go of the port; the deadlines hold until `drain` is over."""

    def acceptableProtocols(self) -> list[bytes]:
        """Return what TLS clients may negotiate."""
        return [b"http/1.1"]

    def getContentFile(self, length: int | None) -> BytesIO:
        """Return where a body goes: memory, since it is bounded; Twisted would put 100 kB and more into a file."""
        del length
        return BytesIO()

    def log(self, request: http.Request) -> None:
        """Count a request; Twisted calls this at its end."""
        assert isinstance(request, BoundedRequest)  # noqa: S101 - requestFactory makes no other
        self.count(request, request.code)

    def admit(self, request: BoundedRequest) -> str | None:
        """Return the one node that the client may report, None for any; raise a Fault if it may not do what it asks."""
        if request.route is None:
            return None
        values = request.requestHeaders.getRawHeaders(b"Authorization")
        return self.gate.admit(request.route.role, b", ".join(values) if values else None, basic=request.basic)

    def refused(self, request: BoundedRequest, fault: Fault) -> None:
        """Count a report that was refused before it was looked at."""
        if request.route is not None and request.route.role is Role.REPORT:
            self.telemetry.reports(fault.outcome)
        if self.access_log:
            log.info("request from {client} refused: {reason}", client=client_of(request), reason=str(fault))

    def count(self, request: BoundedRequest, code: int) -> None:
        """Count a request under a status code, and log it if that is wanted."""
        seconds = time.perf_counter() - request.arrived
        request.arrived = 0.0
        self.telemetry.request(request.label, request.method, code, seconds)
        if self.access_log:
            log.info(
                '{client} "{method} {uri}" {code} {size} B {milliseconds:.1f} ms',
                client=client_of(request),
                method=_printable(self.redacted(request.method)),
                uri=_printable(self.redacted(request.uri)),
                code=code,
                size=request.sentLength,
                milliseconds=seconds * 1000,
            )

    def buildProtocol(self, addr: IAddress | None) -> BoundedChannel | RefusingProtocol | None:  # type: ignore[override]
        """Return a connection's channel, or what refuses one that is one too many."""
        if self.connections.full:
            return self.connections.refusal(self.reactor)
        channel: BoundedChannel = super().buildProtocol(addr)
        return channel

    def channel_made(self, channel: BoundedChannel) -> None:
        """Take note of a connection."""
        self.channels.add(channel)
        self.connections.open += 1

    def channel_lost(self, channel: BoundedChannel) -> None:
        """Forget a connection that has ended."""
        self.channels.discard(channel)
        self.connections.open -= 1
        if self._emptied is not None and not self.channels:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    async def drain(self, seconds: float) -> None:
        """Let the requests in flight finish, for so long at most, and end every connection."""
        self.closing = True
        for channel in list(self.channels):
            channel.close_when_idle()
        if self.channels and seconds > 0:
            self._emptied = Deferred()
            self._emptied.addTimeout(seconds, self.reactor, onTimeoutCancel=lambda *_: None)
            await self._emptied
            self._emptied = None
        for channel in list(self.channels):
            channel.abort()
        if self._deadlines.running:
            self._deadlines.stop()

    def _check_deadlines(self) -> None:
        now = self.reactor.seconds()
        self.readers.check()
        for channel in [channel for channel in self.channels if channel.deadline <= now or channel.taken_by <= now]:
            try:
                channel.timeoutConnection()
            except Exception:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
                log.failure("a connection could not be ended")


def client_of(request: http.Request) -> str:
    """Return the address that a request came from, for people; `-` on a UNIX socket."""
    return plain(getattr(request.client, "host", "-"))


def _printable(data: bytes) -> str:
    """Return what came from outside such that it cannot forge a line of the log."""
    return ascii(data[:2000].decode("latin-1"))[1:-1]
