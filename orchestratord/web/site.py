"""The HTTP server: bounds of memory and time, the count of requests, the access log, and a clean end."""

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

from orchestratord.access import FRONT_PAGE, INDEX, Role, rule
from orchestratord.errors import BodyTooLarge, Fault
from orchestratord.web.answers import fault_body, fault_headers
from orchestratord.web.express import Answered, Way
from orchestratord.web.negotiation import prefers_html
from orchestratord.web.outgoing import PIECE, Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IAddress, ITCPTransport
    from twisted.python.failure import Failure

    from orchestratord.access import Gate, Rule
    from orchestratord.room import Lease, Room
    from orchestratord.telemetry import Telemetry
    from orchestratord.web.connections import Connections, Refusal
    from orchestratord.web.express import Express

log = Logger()

#: How long a client whose body was refused may go on sending it: a reset at once would take the answer from it.
LINGER_SECONDS = 5.0
#: Requests of one connection that are answered in a turn of the reactor, if they came in one packet: a millisecond or
#: two. The others wait for the next turn, and so for everybody else's.
ANSWERED_AT_ONCE = 16
#: What a header takes of memory beside its bytes.
HEADER_BYTES = 300


class BoundedRequest(server.Request):
    """A request whose body never takes more than the site's limit, and whose answer waits for its client to read.

    `route` is the pattern of the path, under which the request is counted; whoever answers it sets it. `rule` is what
    the table of `orchestratord.access` says of it, None where there is no such route.
    """

    route = "other"
    #: Whether a failure is to be answered as a page: the client wants one, and is asking for one.
    for_people = False
    rule: Rule | None = None
    #: The one node that the client may report; None: any.
    node: str | None = None
    channel: BoundedChannel
    #: When it had wholly arrived, by `time.perf_counter`.
    arrived = 0.0
    #: What the answer holds of the memory for answers; it is let go with the answer's last byte.
    lease: Lease | None = None
    _refused = False
    _forbidden: Fault | None = None
    _received = 0
    _outgoing: Outgoing | None = None
    _finishing = False
    _ready: Deferred[None] | None = None

    def gotLength(self, length: int | None) -> None:
        """Refuse whom the gate does not let in, and a body that says it is too long, before any of it is read."""
        super().gotLength(length)
        self.method, self.uri = self.channel.request_line
        self.rule = rule(self.method, self.uri)
        if self.rule is INDEX and self.wants_page("text/plain"):
            self.rule = FRONT_PAGE
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

    @property
    def basic(self) -> bool:
        """Whether a token may come as a password: to look, and to ask; what changes something takes more than that."""
        return self.rule is not None and self.rule.role is Role.QUERY and self.method in {b"GET", b"HEAD"}

    def wants_page(self, other: str) -> bool:
        """Return whether the client would rather have a page than a media type; the answer, a failure too, depends."""
        self.responseHeaders.setRawHeaders(b"Vary", [b"Accept"])
        accept = b",".join(self.requestHeaders.getRawHeaders(b"Accept") or ()).decode("latin-1")
        self.for_people = prefers_html(accept, other)
        return self.for_people

    def body(self) -> bytes:
        """Return the whole body, as it was sent."""
        assert self.content is not None  # noqa: S101 - there from gotLength to the end
        body: bytes = self.content.read()
        return body

    def write(self, data: bytes) -> None:
        """Send a part of the answer, as far as the client reads; the rest waits here and is not copied meanwhile."""
        if self._outgoing is None:
            if self._disconnected or self.method == b"HEAD" or not (self.channel.blocked or len(data) > PIECE):
                super().write(data)
                return
            self._outgoing = Outgoing()
        if not self._disconnected:
            self._outgoing.add(data)
            self.send_more()

    def finish(self) -> None:
        """End the answer, now or as soon as the client has read what waits."""
        if self._outgoing is not None and self._outgoing.size and not self._disconnected:
            self._finishing = True
            return
        self._outgoing = self.lease = None
        super().finish()

    @property
    def waiting(self) -> int:
        """Bytes of the answer that wait for the client to read."""
        return self._outgoing.size if self._outgoing is not None else 0

    async def ready(self) -> None:
        """Return when nothing waits any more."""
        if self.waiting:
            self._ready = Deferred()
            await self._ready

    def send_more(self) -> None:
        """Send what waits as far as the client reads; the channel calls this when it has read."""
        outgoing = self._outgoing
        if outgoing is None:
            return
        while outgoing.size and not self.channel.blocked:
            super().write(outgoing.piece())
        if outgoing.size:
            return
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.callback(None)
        if self._finishing:
            self._finishing = False
            self.finish()

    def connectionLost(self, reason: Failure) -> None:
        """Count a request whose client left before the answer, and let go of the answer."""
        site = self.channel.site
        self._outgoing = self.lease = None
        super().connectionLost(reason)
        if self.arrived:
            site.count(self, 499)

    def drop(self) -> None:
        """Let go of a request that was refused: of what came of it, and of what still comes."""
        self._refused = True
        self.content = BytesIO()

    def _refuse(self, fault: Fault) -> None:
        self.drop()
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
        body = fault_body(request, self._fault)
        if self._fault.status == 401 and request.basic and request.wants_page("application/json"):
            # A browser asks its user for a token as a password; programs are not led to think that it is one.
            request.responseHeaders.addRawHeader(b"WWW-Authenticate", b'Basic realm="orchestratord", charset="UTF-8"')
        return body


class _State(Enum):
    IDLE = 0
    ARRIVING = 1
    ANSWERING = 2
    CLOSING = 3


class BoundedChannel(http.HTTPChannel):
    """A connection on which each request has one deadline to arrive, and each answer one to be taken.

    A deadline is a number that the site looks at once a second, not a timer of Twisted's, which is made and cancelled
    for every request.
    """

    site: OrchestratorSite
    transport: ITCPTransport
    #: When the connection is ended, by the reactor's clock in seconds.
    deadline: float
    #: When the client must have taken what was written to it; infinity while it reads as fast as it is answered.
    taken_by = math.inf
    #: Whether it reads more slowly.
    blocked = False
    _state = _State.ARRIVING
    _on_express = True
    #: The first part of a report whose end has not come yet.
    _held = b""
    #: What the requests that arrive hold of the memory for them; made at need, since most reports are one packet.
    _arriving: Lease | None = None
    _discarding = False
    _answered_at_once = 0
    #: A request that was answered, while what came behind it has to wait; and the call that ends the wait.
    _done: http.Request | None = None
    _postponed: Any = None
    # Four times Twisted's, so that a long query in a URL meets its own limit first.
    MAX_LENGTH = totalHeadersSize = 65_536

    def connectionMade(self) -> None:
        """Start the deadline of the first request."""
        self._expect(self.site.request_timeout)
        self.site.channel_made(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # as in HTTPChannel
        """Forget the connection."""
        if self._done is not None:
            self.requests.pop(0)
        if self._postponed is not None:
            self._postponed.cancel()
        super().connectionLost(reason)
        self._let_go()
        self.site.channel_lost(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain report at once, as long as nothing else has come on this connection."""
        if not self._on_express:
            self._take(data)
            return
        if self._held:
            data = self._held + data
        site = self.site
        express = None if site.access_log or site.closing else site.express
        answer: Answered | Way = Way.TWISTED if express is None else express.answer(data)
        if isinstance(answer, Answered):
            if self._held:
                self._held = b""
                self._let_go()
            self._state = _State.IDLE
            self._expect(site.idle_timeout)
            if site.settle is not None and _has_unsent(self.transport):
                site.settle()
            self.transport.write(answer.data)
            if answer.closes:
                self.loseConnection()
        elif answer is Way.WAIT:
            self._held = data
            self.resetTimeout()
            self._let_go()
            if not self.hold_more(len(data)):
                self._overwhelmed()
        else:
            self._on_express = False
            self._held = b""
            self._let_go()
            self._take(data)

    def headerReceived(self, line: bytes) -> bool:
        """Count what a header takes beside its bytes: many short ones take more than a body."""
        if not self._discarding and not self.hold_more(HEADER_BYTES):
            self._overwhelmed()
            return False
        received: bool = super().headerReceived(line)
        return received

    def hold_more(self, size: int) -> bool:
        """Hold so many bytes more for the request that arrives, until it is answered; False if there is no room."""
        if self._arriving is None:
            self._arriving = self.site.arriving.lease()
        return self._arriving.hold(self._arriving.held + size)

    def _let_go(self) -> None:
        if self._arriving is not None:
            self._arriving.end()

    def resetTimeout(self) -> None:
        """Start a request's deadline at its first packet; Twisted calls this at every packet."""
        if self._state is _State.IDLE:
            self._state = _State.ARRIVING
            self._expect(self.site.request_timeout)

    def allContentReceived(self) -> None:
        """Stop the clock while the request is answered, and reading if much has come behind its body already."""
        self._state = _State.ANSWERING
        self.deadline = math.inf
        if self._dataBuffer and not self._may_read_ahead():
            self._networkProducer.pauseProducing()
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        """Go on to what came behind the request, unless others wait for the reactor or this client does not read."""
        self._answered_at_once += 1
        if (self._buffer or self._dataBuffer) and (self.blocked or self._answered_at_once >= ANSWERED_AT_ONCE):
            self._done = request
            self._postponed = self.site.reactor.callLater(0, self._next_turn)
        else:
            self._next_request(request)

    def _next_turn(self) -> None:
        self._postponed = None
        if not self.blocked:
            request, self._done = self._done, None
            assert request is not None  # noqa: S101 - it is what was postponed
            self._answered_at_once = 0
            self._next_request(request)

    def _next_request(self, request: http.Request) -> None:
        """Wait for the next request, or leave if the site has begun to close."""
        if self.site.closing and not self._dataBuffer:
            self.persistent = False  # else it is the last of the requests that came already that ends the connection
        self._state = _State.IDLE
        self._let_go()
        super().requestDone(request)  # plays back what came meanwhile: another request may have begun, or be answered
        if self._state is _State.IDLE and self.persistent:
            if self.requests:
                self.resetTimeout()
            elif self.site.closing:
                self.loseConnection()
            else:
                self._expect(self.site.idle_timeout)

    def pauseProducing(self) -> None:
        """Stop sending, and reading: the client does not read. It has a deadline for that too.

        Twisted reads on while a request is being answered, and so answers, or keeps, whatever comes behind it.
        """
        super().pauseProducing()
        self._networkProducer.pauseProducing()
        self.blocked = True
        if self.taken_by == math.inf:
            self.taken_by = self.site.reactor.seconds() + self.site.answer_timeout

    def resumeProducing(self) -> None:
        """Send more: the client has taken all that was written."""
        self.blocked = False
        super().resumeProducing()
        if self.requests:
            self.requests[0].send_more()
        if self.blocked:
            return
        self.taken_by = math.inf
        if self._done is not None and self._postponed is None:
            self._next_turn()
        elif self._handlingRequest and self._may_read_ahead():
            self._networkProducer.resumeProducing()

    def _may_read_ahead(self) -> bool:
        return sum(map(len, self._dataBuffer)) <= self._optimisticEagerReadSize

    def loseConnection(self) -> None:
        """End the connection as soon as the client has read what was written, for which it has a deadline."""
        super().loseConnection()
        self._state = _State.CLOSING
        self._expect(self.site.answer_timeout)

    def timeoutConnection(self) -> None:
        """End a connection: silently where no request has begun, with 408 where one did not arrive in time.

        Where it is the answer that is not taken in time, what is left of it is dropped.
        """
        if self._state is _State.CLOSING or self.taken_by <= self.site.reactor.seconds():
            self.deadline = self.taken_by = math.inf
            self.transport.abortConnection()
            return
        if self._state is _State.ARRIVING and (self.requests or self._held):
            self._answer_early(408, f"the request did not arrive within {self.site.request_timeout:g} s")
        self.loseConnection()

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
        self._discard()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request whose first line, or a header, is too long, and drop what still comes of it."""
        del line
        self._answer_early(414, f"the request line or a header is longer than {self.MAX_LENGTH} bytes")
        self.dataReceived = lambda _: None  # type: ignore[method-assign,assignment]  # as HTTPChannel does
        self._discard()

    def _take(self, data: bytes) -> None:
        """Have Twisted's parser read what came, if there is room for it."""
        if not self._busyReceiving:
            self._answered_at_once = 0
        self.resetTimeout()
        if self._discarding or self.hold_more(len(data)):
            super().dataReceived(data)
        else:
            self._overwhelmed()

    def _overwhelmed(self) -> None:
        """Refuse what arrives, since all requests that arrive fill the memory there is for them."""
        if self._state is not _State.ARRIVING:
            self.transport.abortConnection()
            return
        self._answer_early(503, "the requests that arrive fill their memory; try again", (b"Retry-After", b"1"))
        if self.requests:
            self.requests[-1].drop()
        if not self._busyReceiving:
            self._buffer = b""
        self.dataReceived = lambda _: None  # type: ignore[method-assign,assignment]
        self._discard()

    def _discard(self) -> None:
        """Drop what still comes of a request that was refused, for as long as its client may need to see that."""
        self._discarding = True
        self._held = b""
        self._let_go()
        self._state = _State.ANSWERING
        self._expect(LINGER_SECONDS)

    def close_when_idle(self) -> None:
        """End the connection now, or with the answer of the request that it carries."""
        if self._state is _State.IDLE or not (self.requests or self._held):
            self.loseConnection()

    def _expect(self, seconds: float) -> None:
        self.deadline = self.site.reactor.seconds() + seconds

    def _answer_early(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        self._write_early(status, {"error": text}, *headers)
        self.site.telemetry.request("other", b"other", status, 0.0)

    def _write_early(self, status: int, content: dict[str, str], *headers: tuple[bytes, bytes]) -> None:
        body = msgspec.json.encode(content)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"
            % (status, http.RESPONSES[status], len(body), b"".join([b"%s: %s\r\n" % h for h in headers]), body)
        )


def _has_unsent(transport: Any) -> bool:
    """Return whether a connection may have something to write already.

    If so, Twisted may write what is added now as soon as it has read: it does both in one look at a socket. If not, it
    writes in the next turn of the reactor.
    """
    return bool(getattr(transport, "_tempDataBuffer", True) or getattr(transport, "dataBuffer", True))


class OrchestratorSite(server.Site):
    """Serves a resource tree within bounds.

    `express` answers plain reports, if there is one; `hot` are leaves, by their whole path, reached past the tree;
    `gate` says who may have what; `redacted` takes tokens out of what is to be logged. `max_body` is in bytes;
    `arriving` the memory for all requests that arrive; `connections` counts with those of other sites.
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
        telemetry: Telemetry,
        reactor: Any,
        *,
        hot: Mapping[bytes, Resource],
        express: Express | None,
        gate: Gate,
        redacted: Callable[[bytes], bytes] = bytes,
        max_body: int,
        arriving: Room,
        connections: Connections,
        request_timeout: float,
        idle_timeout: float,
        answer_timeout: float,
        access_log: bool = False,
        settle: Callable[[], None] | None = None,
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
        self.answer_timeout = answer_timeout
        self.arriving = arriving
        self.connections = connections
        self.access_log = access_log
        self.settle = settle
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
        return self.gate.admit(request.rule, b", ".join(values) if values else None, basic=request.basic)

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

    def buildProtocol(self, addr: IAddress | None) -> BoundedChannel | Refusal | None:  # type: ignore[override]
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
            channel.transport.abortConnection()
        if self._deadlines.running:
            self._deadlines.stop()

    def _check_deadlines(self) -> None:
        now = self.reactor.seconds()
        for channel in [channel for channel in self.channels if channel.deadline <= now or channel.taken_by <= now]:
            try:
                channel.timeoutConnection()
            except Exception:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
                log.failure("a connection could not be ended")


def _printable(data: bytes) -> str:
    """Return what came from outside such that it cannot forge a line of the log."""
    return ascii(data[:2000].decode("latin-1"))[1:-1]
