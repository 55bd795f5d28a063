"""A connection: its deadlines, the memory that what arrives may take, requests in turn, and its end."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHalfCloseableProtocol

from orchestratord.web.server.connection_age import lifetime
from orchestratord.web.server.fast_path import Answered, Unanswered
from orchestratord.web.server.reading_channel import ReadingChannel

if TYPE_CHECKING:
    from twisted.python.failure import Failure
    from twisted.web import http

#: How long a client whose body was refused may go on sending it: a reset at once would take the answer from it.
LINGER_SECONDS = 5.0
#: A client that ends its side of the connection within this time of its request still wants the answer; one that does
#: so later has given up waiting, and what it asked for is cancelled. On the wire the two are the same.
HALF_CLOSE_SECONDS = 0.5
#: Requests of one connection that are answered in a turn of the reactor, if they came in one packet: a millisecond or
#: two. The others wait for the next turn, and so for everybody else's.
ANSWERED_AT_ONCE = 16


class _State(Enum):
    IDLE = 0
    ARRIVING = 1
    ANSWERING = 2
    CLOSING = 3


class BoundedChannel(ReadingChannel):
    """A connection on which each request has one deadline to arrive, and each answer one to be taken.

    A deadline is a number that the site looks at once a second, not a timer of Twisted's, which is made and cancelled
    for every request.
    """

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
    _on_fast_path = True
    #: The first part of a report whose end has not come yet.
    _held = b""
    #: When the request that is being answered had wholly arrived, by the reactor's clock.
    _arrived_at = 0.0
    #: Whether the client sends nothing more; it may still read.
    _ended = False
    _answered_at_once = 0
    #: A request that was answered, while what came behind it has to wait; and the call that ends the wait.
    _done: http.Request | None = None
    _postponed: Any = None

    def connectionMade(self) -> None:
        """Start the deadline of the first request."""
        self._expect(self.context.request_timeout)
        self.old_at = self.context.reactor.seconds() + lifetime()
        self.context.channel_made(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # as in HTTPChannel
        """Forget the connection."""
        if self._done is not None:
            self.requests.pop(0)
        if self._postponed is not None:
            self._postponed.cancel()
        super().connectionLost(reason)
        self._let_go()
        self.context.readers.caught_up(self)
        self.context.channel_lost(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain report at once, as long as nothing else has come on this connection."""
        if not self._on_fast_path:
            self._take(data)
            return
        if self._held:
            data = self._held + data
        context = self.context
        fast_path = None if context.access_log or context.closing else context.fast_path
        answer: Answered | Unanswered = (
            Unanswered.FALL_THROUGH if fast_path is None else fast_path.answer(data, last=self.is_old)
        )
        if isinstance(answer, Answered):
            if self._held:
                self._held = b""
                self._let_go()
            self._state = _State.IDLE
            self._expect(context.idle_timeout)
            if context.flush is not None and _has_unsent(self.transport):
                context.flush()
            self.transport.write(answer.data)
            if answer.closes:
                self.loseConnection()
        elif answer is Unanswered.WAIT:
            self._held = data
            self.resetTimeout()
            self._let_go()
            if not self.hold_more(len(data)):
                self._overwhelmed()
        else:
            self._on_fast_path = False
            self._held = b""
            self._let_go()
            self._take(data)

    def resetTimeout(self) -> None:
        """Start a request's deadline at its first packet; Twisted calls this at every packet."""
        if self._state is _State.IDLE:
            self._state = _State.ARRIVING
            self._expect(self.context.request_timeout)

    def allContentReceived(self) -> None:
        """Stop the clock while the request is answered, and reading if much has come behind its body already."""
        self._state = _State.ANSWERING
        self.deadline = math.inf
        self._arrived_at = self.context.reactor.seconds()
        if self._ended:
            self._expect(self.context.answer_timeout)
        if self._dataBuffer and not self._may_read_ahead():
            self._networkProducer.pauseProducing()
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        """Go on to what came behind the request, unless others wait for the reactor or this client does not read."""
        self._answered_at_once += 1
        if (self._buffer or self._dataBuffer) and (self.blocked or self._answered_at_once >= ANSWERED_AT_ONCE):
            self._done = request
            self._postponed = self.context.reactor.callLater(0, self._next_turn)
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
        """Wait for the next request, or leave if the site has begun to close or the client sends nothing more."""
        if (self.context.closing or self._ended) and not (self._dataBuffer or self._buffer):
            self.persistent = False  # else it is the last of the requests that came already that ends the connection
        self._state = _State.IDLE
        self._let_go()
        super().requestDone(request)  # plays back what came meanwhile: another request may have begun, or be answered
        if self._state is _State.IDLE and self.persistent and not self._ended:
            if self.requests:
                self.resetTimeout()
            elif self.context.closing:
                self.loseConnection()
            else:
                self._expect(self.context.idle_timeout)

    def pauseProducing(self) -> None:
        """Stop sending, and reading: the client does not read. It has a deadline for that too.

        Twisted reads on while a request is being answered, and so answers, or keeps, whatever comes behind it.
        """
        super().pauseProducing()
        self._networkProducer.pauseProducing()
        self.blocked = True
        if self.taken_by == math.inf:
            self.taken_by = self.context.reactor.seconds() + self.context.answer_timeout
            self.context.readers.slow(self)

    def resumeProducing(self) -> None:
        """Send more: the client has taken all that was written."""
        self.blocked = False
        super().resumeProducing()
        if self.requests:
            self.requests[0].send_more()
        if self.blocked:
            return
        self.taken_by = math.inf
        self.context.readers.caught_up(self)
        if self._done is not None and self._postponed is None:
            self._next_turn()
        elif self._handlingRequest and self._may_read_ahead():
            self._networkProducer.resumeProducing()

    def _may_read_ahead(self) -> bool:
        return sum(map(len, self._dataBuffer)) <= self._optimisticEagerReadSize

    def __conform__(self, interface: Any) -> Any:
        """Return what is told that the client sends nothing more: this, as long as something is owed to the client.

        Otherwise the connection is over at once; telling first would cost a turn of the reactor for each connection.
        """
        owes = self._state is not _State.IDLE or _has_unsent(self.transport)
        return self if interface is IHalfCloseableProtocol and owes else None

    def readConnectionLost(self) -> None:
        """Go on answering a client that sends nothing more, unless it has waited for its answer for a while.

        A client that shuts down its writing side alone does so together with its request. One that gives up waiting, or
        ends, looks the same until something is written to it. What is answered here has `--answer-timeout` at most.
        """
        if self._ended:
            return
        self._ended = True
        if self._state is not _State.ANSWERING:
            self._end_of_requests()
        elif (
            not self.given_up
            and not self._discarding
            and self.requests
            and (self.requests[0].startedWriting or self._waits_since() <= HALF_CLOSE_SECONDS)
        ):
            self._expect(self.context.answer_timeout)
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the writing side is never shut down alone."""

    def _waits_since(self) -> float:
        seconds: float = self.context.reactor.seconds()
        return seconds - self._arrived_at

    def _end_of_requests(self) -> None:
        """End the connection of a client that sends nothing more, unless a request of it is being answered."""
        if self.given_up or self._state is _State.ANSWERING:
            return
        if self._state is _State.ARRIVING and (self.requests or self._held or self._buffer):
            self._answer_early(400, "the connection ended before the request did")
        self.loseConnection()

    def give_up(self) -> None:
        """Read nothing more."""
        super().give_up()
        self._on_fast_path = False
        self._held = b""

    def abort(self) -> None:
        """End the connection at once; what was not sent is dropped."""
        self.deadline = self.taken_by = math.inf
        for request in self.requests:
            request.abandon()
        self.give_up()
        self.transport.abortConnection()

    def loseConnection(self) -> None:
        """End the connection as soon as the client has read what was written, for which it has a deadline."""
        self.give_up()
        super().loseConnection()
        self._state = _State.CLOSING
        self._expect(self.context.answer_timeout)

    def timeoutConnection(self) -> None:
        """End a connection: silently where no request has begun, with 408 where one did not arrive in time.

        Where it is the answer that is not taken in time, what is left of it is dropped.
        """
        if self._state is _State.CLOSING or self.taken_by <= self.context.reactor.seconds():
            self.abort()
            return
        if self._state is _State.ARRIVING and (self.requests or self._held):
            self._answer_early(408, f"the request did not arrive within {self.context.request_timeout:g} s")
        self.loseConnection()

    @property
    def is_old(self) -> bool:
        """Whether the client should make a new connection."""
        late: bool = self.context.reactor.seconds() >= self.old_at
        return late

    @property
    def is_last(self) -> bool:
        """Whether the answer to the request that has wholly come ends the connection: it is old, and no other came."""
        return self.is_old and not (self._behind or self._buffer or any(self._dataBuffer))

    def _finishRequestBody(self, data: bytes) -> None:
        """Take note of what has come behind a body; Twisted keeps it only once the request is being answered."""
        self._behind = bool(data)
        super()._finishRequestBody(data)

    def _take(self, data: bytes) -> None:
        """Have what came read the ordinary way, if there is room for it."""
        if self.given_up:
            return
        is_first = not self._busyReceiving
        if is_first:
            self._answered_at_once = 0
        self.resetTimeout()
        if self._discarding or self.hold_more(len(data)):
            super().dataReceived(data)
        else:
            self._overwhelmed()
        if self._ended and is_first:
            self._end_of_requests()

    def _overwhelmed(self) -> None:
        if self._state is not _State.ARRIVING:
            self.abort()
            return
        self._answer_early(503, "the requests that arrive fill their memory; try again", (b"Retry-After", b"1"))
        self.give_up()
        self._linger()

    def _linger(self) -> None:
        self._state = _State.ANSWERING
        self._expect(LINGER_SECONDS)

    def close_when_idle(self) -> None:
        """End the connection now, or with the answer of the request that it carries."""
        if self._state is _State.IDLE or not (self.requests or self._held):
            self.loseConnection()

    def _expect(self, seconds: float) -> None:
        self.deadline = self.context.reactor.seconds() + seconds


def _has_unsent(transport: Any) -> bool:
    """Return whether a connection may have something to write already.

    If so, Twisted may write what is added now as soon as it has read: it does both in one look at a socket. If not, it
    writes in the next turn of the reactor.
    """
    return bool(getattr(transport, "_tempDataBuffer", True) or getattr(transport, "dataBuffer", True))
