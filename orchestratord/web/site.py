"""The HTTP server: bounds of body and time, the count of requests, the access log, and a clean end."""

from __future__ import annotations

import math
import time
from enum import Enum
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web import http, server
from twisted.web.resource import Resource

from orchestratord.access import Role, rule
from orchestratord.errors import BodyTooLarge, Fault
from orchestratord.web.answers import fault_body, fault_headers
from orchestratord.web.express import Answered, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import ITCPTransport
    from twisted.python.failure import Failure

    from orchestratord.access import Gate, Rule
    from orchestratord.telemetry import Telemetry
    from orchestratord.web.express import Express

log = Logger()

#: How long a client whose body was refused may go on sending it: a reset at once would take the answer from it.
LINGER_SECONDS = 5.0


class BoundedRequest(server.Request):
    """A request whose body never takes more than the site's limit.

    `route` is the pattern of the path, under which the request is counted; whoever answers it sets it. `rule` is what
    the table of `orchestratord.access` says of it, None where there is no such route.
    """

    route = "other"
    rule: Rule | None = None
    #: The one node that the client may report; None: any.
    node: str | None = None
    channel: BoundedChannel
    #: When it had wholly arrived, by `time.perf_counter`.
    arrived = 0.0
    _refused = False
    _forbidden: Fault | None = None
    _received = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse whom the gate does not let in, and a body that says it is too long, before any of it is read."""
        super().gotLength(length)
        self.method, self.uri = self.channel.request_line
        self.rule = rule(self.method, self.uri)
        try:
            self.node = self.channel.site.admit(self)
        except Fault as fault:
            self._forbidden = fault  # answered in `process`, if there is no body to be kept out
            if length != 0:
                self._refuse(fault)
            return
        if length is not None and length > self.channel.site.max_body:
            self._refuse(self._too_large())

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body; refuse one that does not say its length as soon as it is too long."""
        if self._refused:
            return
        self._received += len(data)
        if self._received > self.channel.site.max_body:
            self._refuse(self._too_large())
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Process a request that has wholly arrived; if it was refused, it was answered already."""
        if self._refused:
            self.channel.loseConnection()
            return
        self.arrived = time.perf_counter()
        if self.channel.site.closing:
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """Go straight to a hot leaf: the way through the tree takes 70 us, and Klein's routing most of it."""
        self.site = self.channel.site
        leaf = self.site.hot.get(self.path) if self._forbidden is None else _Refusal(self._forbidden)
        if leaf is None:
            super().process()
        else:
            self.setHeader(b"Date", http.datetimeToString())
            self.render(leaf)

    def getRequestHostname(self) -> bytes:
        """Return a name that is not the client's: no answer depends on it, and Klein's routing fails at an odd one."""
        return b"orchestrator"

    def body(self) -> bytes:
        """Return the whole body, as it was sent."""
        assert self.content is not None  # noqa: S101 - there from gotLength to the end
        body: bytes = self.content.read()
        return body

    def connectionLost(self, reason: Failure) -> None:
        """Count a request whose client left before the answer."""
        site = self.channel.site
        super().connectionLost(reason)
        if self.arrived:
            site.count(self, 499)

    def _refuse(self, fault: Fault) -> None:
        self._refused = True
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")  # no "100 Continue" after the answer
        self.channel.refuse(self, fault)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is over the limit of {self.channel.site.max_body} bytes")


class _Refusal(Resource):
    """Answers a request that was not let in, and that has no body."""

    isLeaf = True

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault

    def render(self, request: BoundedRequest) -> bytes:
        request.route = request.rule.route if request.rule else "other"
        request.channel.site.refused(request, self._fault)
        return fault_body(request, self._fault)


class _State(Enum):
    IDLE = 0
    ARRIVING = 1
    ANSWERING = 2
    LEAVING = 3


class BoundedChannel(http.HTTPChannel):
    """A connection on which each request has one deadline to arrive, whatever trickles in meanwhile.

    The deadline is a number that the site looks at once a second, not a timer of Twisted's, which is made and cancelled
    for every request.
    """

    site: OrchestratorSite
    transport: ITCPTransport
    #: When the connection is ended, by the reactor's clock in seconds.
    deadline: float
    _state = _State.ARRIVING
    _on_express = True
    #: The first part of a report whose end has not come yet.
    _held = b""
    # Four times Twisted's, so that a long query in a URL meets its own limit first.
    MAX_LENGTH = totalHeadersSize = 65_536

    def connectionMade(self) -> None:
        """Start the deadline of the first request."""
        self._expect(self.site.request_timeout)
        self.site.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # as in HTTPChannel
        """Forget the connection."""
        super().connectionLost(reason)
        self.site.channel_lost(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain report at once, as long as nothing else has come on this connection."""
        if not self._on_express:
            super().dataReceived(data)
            return
        if self._held:
            data = self._held + data
        site = self.site
        express = None if site.access_log or site.closing else site.express
        answer: Answered | Way = Way.TWISTED if express is None else express.answer(data)
        if isinstance(answer, Answered):
            self._held = b""
            self._state = _State.IDLE
            self._expect(site.idle_timeout)
            self.transport.write(answer.data)
            if answer.closes:
                self.loseConnection()
        elif answer is Way.WAIT:
            self._held = data
            self.resetTimeout()
        else:
            self._on_express = False
            self._held = b""
            super().dataReceived(data)

    def resetTimeout(self) -> None:
        """Start a request's deadline at its first packet; Twisted calls this at every packet."""
        if self._state is _State.IDLE:
            self._state = _State.ARRIVING
            self._expect(self.site.request_timeout)

    def allContentReceived(self) -> None:
        """Stop the clock while the request is answered."""
        self._state = _State.ANSWERING
        self.deadline = math.inf
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        """Wait for the next request, or leave if the site has begun to close."""
        if self.site.closing:
            self.persistent = False
        self._state = _State.IDLE
        super().requestDone(request)  # plays back what came meanwhile: another request may have begun, or be answered
        if self._state is _State.IDLE and self.persistent:
            if self.requests:
                self.resetTimeout()
            else:
                self._expect(self.site.idle_timeout)

    def timeoutConnection(self) -> None:
        """End a connection: silently where no request has begun, with 408 where one did not arrive in time.

        One that has been told to end, and whose client does not take the last of its answer, is cut.
        """
        if self._state is _State.LEAVING:
            self.deadline = math.inf
            self.transport.abortConnection()
            return
        if self._state is _State.ARRIVING and (self.requests or self._held):
            self._answer_early(408, f"the request did not arrive within {self.site.request_timeout:g} s")
        self.loseConnection()

    def loseConnection(self) -> None:
        """End the connection with what is written; `timeoutConnection` cuts it if the client does not take that."""
        self._state = _State.LEAVING
        self._expect(self.site.idle_timeout)
        super().loseConnection()

    @property
    def request_line(self) -> tuple[bytes, bytes]:
        """The method and the target of the request whose head has just come.

        Twisted gives them to the request only with its whole body.
        """
        return self._command, self._path

    def refuse(self, request: BoundedRequest, fault: Fault) -> None:
        """Answer a request ahead of its end; `timeoutConnection` ends the connection if the client does not."""
        self._write_early(fault.status, fault.content, *fault_headers(fault))
        request.route = request.rule.route if request.rule else "other"
        request.arrived = time.perf_counter()
        self.site.refused(request, fault)
        self.site.count(request, fault.status)
        self._state = _State.ANSWERING
        self._expect(LINGER_SECONDS)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request whose first line, or a header, is too long, and drop what still comes of it."""
        del line
        self.dataReceived = lambda _: None  # type: ignore[method-assign,assignment]  # as HTTPChannel does
        self._answer_early(414, f"the request line or a header is longer than {self.MAX_LENGTH} bytes")
        self._state = _State.ANSWERING
        self._expect(LINGER_SECONDS)

    def close_when_idle(self) -> None:
        """End the connection now, or with the answer of the request that it carries."""
        if self._state is _State.IDLE or not (self.requests or self._held):
            self.loseConnection()

    def _expect(self, seconds: float) -> None:
        self.deadline = self.site.reactor.seconds() + seconds

    def _answer_early(self, status: int, text: str) -> None:
        self._write_early(status, {"error": text})
        self.site.telemetry.request("other", b"other", status, 0.0)

    def _write_early(self, status: int, content: dict[str, str], *headers: tuple[bytes, bytes]) -> None:
        body = msgspec.json.encode(content)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"
            % (status, http.RESPONSES[status], len(body), b"".join([b"%s: %s\r\n" % h for h in headers]), body)
        )


class OrchestratorSite(server.Site):
    """Serves a resource tree within bounds.

    `express` answers plain reports, if there is one; `hot` are leaves, by their whole path, reached past the tree;
    `gate` says who may have what; `redacted` takes tokens out of what is to be logged. `max_body` is in bytes;
    `request_timeout`, for a whole request to arrive, a TLS handshake before it included, and `idle_timeout`, for a
    kept-alive connection between requests, in seconds. Belongs to the reactor thread.
    """

    # Not Twisted's proxy of a channel, which would only add HTTP/2, at the price of a call more for each packet.
    protocol = BoundedChannel  # type: ignore[assignment]

    def __init__(
        self,
        resource: Resource,
        telemetry: Telemetry,
        reactor: Any,
        *,
        hot: Mapping[bytes, Resource],
        express: Express | None,
        gate: Gate,
        redacted: Callable[[bytes], bytes] = bytes,
        max_body: int,
        request_timeout: float,
        idle_timeout: float,
        access_log: bool = False,
    ) -> None:
        # Twisted would parse every POST's Content-Type as an e-mail header, which takes half of all time; the query
        # routes read their forms themselves.
        super().__init__(resource, BoundedRequest, timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        self.telemetry = telemetry
        self.hot = hot
        self.express = express
        self.gate = gate
        self.redacted = redacted
        self.max_body = max_body
        self.request_timeout = request_timeout
        self.idle_timeout = idle_timeout
        self.access_log = access_log
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
        if request.rule is None:
            return None
        values = request.requestHeaders.getRawHeaders(b"Authorization")
        return self.gate.admit(request.rule, b", ".join(values) if values else None)

    def refused(self, request: BoundedRequest, fault: Fault) -> None:
        """Count a report that was refused before it was looked at."""
        if request.rule is not None and request.rule.role is Role.REPORT:
            self.telemetry.reports(fault.outcome)
        if self.access_log:
            client = getattr(request.client, "host", "-")
            log.info("request from {client} refused: {reason}", client=client, reason=str(fault))

    def count(self, request: BoundedRequest, code: int) -> None:
        """Count a request under a status code, and log it if that is wanted."""
        seconds = time.perf_counter() - request.arrived
        request.arrived = 0.0
        self.telemetry.request(request.route, request.method, code, seconds)
        if self.access_log:
            log.info(
                '{client} "{method} {uri}" {code} {size} B {milliseconds:.1f} ms',
                client=getattr(request.client, "host", "-"),
                method=_printable(self.redacted(request.method)),
                uri=_printable(self.redacted(request.uri)),
                code=code,
                size=request.sentLength,
                milliseconds=seconds * 1000,
            )

    def channel_lost(self, channel: BoundedChannel) -> None:
        """Forget a connection that has ended."""
        self.channels.discard(channel)
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
            channel.transport.abortConnection()
        if self._deadlines.running:
            self._deadlines.stop()

    def _check_deadlines(self) -> None:
        now = self.reactor.seconds()
        for channel in [channel for channel in self.channels if channel.deadline <= now]:
            try:
                channel.timeoutConnection()
            except Exception:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
                log.failure("a connection could not be ended")


def _printable(data: bytes) -> str:
    """Return what came from outside such that it cannot forge a line of the log."""
    return ascii(data[:2000].decode("latin-1"))[1:-1]
