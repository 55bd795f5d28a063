"""A connection: its deadlines, the memory that what arrives may take, requests in turn, and its end."""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.web import http

from orchestratord.web.age import lifetime
from orchestratord.web.answers import fault_headers
from orchestratord.web.express import Answered, Way

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITCPTransport
    from twisted.python.failure import Failure

    from orchestratord.errors import Fault
    from orchestratord.room import Lease
    from orchestratord.web.request import BoundedRequest
    from orchestratord.web.site import OrchestratorSite

#: How long a client whose body was refused may go on sending it: a reset at once would take the answer from it.
LINGER_SECONDS = 5.0
#: Requests of one connection that are answered in a turn of the reactor, if they came in one packet: a millisecond or
#: two. The others wait for the next turn, and so for everybody else's.
ANSWERED_AT_ONCE = 16
#: What a header takes of memory beside its bytes.
HEADER_BYTES = 300


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
    #: When the next answer ends it, by the same clock, since it is old.
    old_at = math.inf
    _behind = False
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
        self.old_at = self.site.reactor.seconds() + lifetime()
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
        self.site.readers.caught_up(self)
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
        answer: Answered | Way = Way.TWISTED if express is None else express.answer(data, last=self.is_old)
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
            self.site.readers.slow(self)

    def resumeProducing(self) -> None:
        """Send more: the client has taken all that was written."""
        self.blocked = False
        super().resumeProducing()
        if self.requests:
            self.requests[0].send_more()
        if self.blocked:
            return
        self.taken_by = math.inf
        self.site.readers.caught_up(self)
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
            self.cut()
            return
        if self._state is _State.ARRIVING and (self.requests or self._held):
            self._answer_early(408, f"the request did not arrive within {self.site.request_timeout:g} s")
        self.loseConnection()

    def cut(self) -> None:
        """End the connection at once, and let go of the answer that its client does not take."""
        self.deadline = self.taken_by = math.inf
        for request in self.requests:
            request.abandon()
        self.transport.abortConnection()

    @property
    def is_old(self) -> bool:
        """Whether the client should make a new connection."""
        return self.site.reactor.seconds() >= self.old_at

    @property
    def is_last(self) -> bool:
        """Whether the answer to the request that has wholly come ends the connection: it is old, and no other came."""
        return self.is_old and not (self._behind or self._buffer or any(self._dataBuffer))

    def _finishRequestBody(self, data: bytes) -> None:
        """Take note of what has come behind a body; Twisted keeps it only once the request is being answered."""
        self._behind = bool(data)
        super()._finishRequestBody(data)

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
