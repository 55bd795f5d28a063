"""A connection: its deadlines, the memory for arriving requests, the order of answers, and the end of it."""

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

#: Seconds for which a client may go on sending a body that was refused. A reset at once would destroy the answer.
LINGER_SECONDS = 5.0
#: A client that ends its side of the connection within so many seconds of its request still wants the answer. One that
#: does so later has given up, and its request is cancelled. On the wire the two look the same.
HALF_CLOSE_SECONDS = 0.5
#: Requests of one connection that are answered in one turn of the reactor if they came in one packet: 1 to 2 ms. The
#: rest waits for the next turn, so that other connections get theirs.
ANSWERED_AT_ONCE = 16


class _State(Enum):
    IDLE = 0
    ARRIVING = 1
    ANSWERING = 2
    CLOSING = 3


class BoundedChannel(ReadingChannel):
    """A connection on which each request has one deadline to arrive, and each answer one deadline to be read.

    A deadline is a number that the site checks once a second. A timer of Twisted would be made and cancelled for every
    request.
    """

    #: When the connection is ended, by the reactor's clock in seconds.
    deadline: float
    #: When the client must have read what was written; infinity while it reads as fast as it is answered.
    taken_by = math.inf
    #: From when on the next answer ends the connection, since it is old, by the same clock.
    old_at = math.inf
    _behind = False
    #: Whether the client reads more slowly than it is answered.
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
    #: A request that was answered while the requests behind it have to wait, and the call that ends the wait.
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
        """Answer on the fast path, as long as every request of this connection could take it."""
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
        """Stop the deadline while the request is answered, and stop reading if much has come behind its body."""
        self._state = _State.ANSWERING
        self.deadline = math.inf
        self._arrived_at = self.context.reactor.seconds()
        if self._ended:
            self._expect(self.context.answer_timeout)
        if self._dataBuffer and not self._may_read_ahead():
            self._networkProducer.pauseProducing()
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        """Go on with what came behind the request, unless its turn is used up or the client does not read."""
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
        """Wait for the next request, or end if the site is closing or the client sends nothing more."""
        if (self.context.closing or self._ended) and not (self._dataBuffer or self._buffer):
            self.persistent = False  # if other requests have come, the last of them ends the connection
        self._state = _State.IDLE
        self._let_go()
        super().requestDone(
            request
        )  # reads what came meanwhile: the next request may have begun, or be answered, after this
        if self._state is _State.IDLE and self.persistent and not self._ended:
            if self.requests:
                self.resetTimeout()
            elif self.context.closing:
                self.loseConnection()
            else:
                self._expect(self.context.idle_timeout)

    def pauseProducing(self) -> None:
        """Stop sending and reading, since the client does not read. Set its deadline for that.

        Twisted alone would go on reading while a request is answered, and keep whatever comes behind it.
        """
        super().pauseProducing()
        self._networkProducer.pauseProducing()
        self.blocked = True
        if self.taken_by == math.inf:
            self.taken_by = self.context.reactor.seconds() + self.context.answer_timeout
            self.context.readers.slow(self)

    def resumeProducing(self) -> None:
        """Send more, since the client has read all that was written."""
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
        """Return the object that Twisted tells when the client sends nothing more: this one, while an answer is due.

        With None Twisted ends the connection at once, which saves a turn of the reactor for each connection.
        """
        owes = self._state is not _State.IDLE or _has_unsent(self.transport)
        return self if interface is IHalfCloseableProtocol and owes else None

    def readConnectionLost(self) -> None:
        """Go on answering a client that sends nothing more, unless it has already waited for a while.

        A client that shuts down only its writing side does so together with its request. A client that has given up, or
        ended, looks the same until something is written to it. The answer gets `--answer-timeout` at most.
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
        """Do nothing: this side never shuts down its writing alone."""

    def _waits_since(self) -> float:
        seconds: float = self.context.reactor.seconds()
        return seconds - self._arrived_at

    def _end_of_requests(self) -> None:
        """End the connection of a client that sends nothing more, unless one of its requests is being answered."""
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
        """End the connection at once, and drop what was not sent."""
        self.deadline = self.taken_by = math.inf
        for request in self.requests:
            request.abandon()
        self.give_up()
        self.transport.abortConnection()

    def loseConnection(self) -> None:
        """End the connection as soon as the client has read what was written; it has a deadline for that."""
        self.give_up()
        super().loseConnection()
        self._state = _State.CLOSING
        self._expect(self.context.answer_timeout)

    def timeoutConnection(self) -> None:
        """End the connection since a deadline has passed.

        If a request did not arrive in time, the client gets 408. If the client did not read its answer in time, the
        rest of the answer is dropped.
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
        """Whether the answer ends the connection: the connection is old, and no other request has come."""
        return self.is_old and not (self._behind or self._buffer or any(self._dataBuffer))

    def _finishRequestBody(self, data: bytes) -> None:
        """Note whether something came behind the body; Twisted keeps it only while the request is answered."""
        self._behind = bool(data)
        super()._finishRequestBody(data)

    def _take(self, data: bytes) -> None:
        """Read what came on the ordinary path, if there is memory for it."""
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

    If so, Twisted may write what is added now in this turn of the reactor, after it has read. If not, it writes in the
    next turn. `_tempDataBuffer` and `dataBuffer` are where Twisted keeps it; there is no public way to ask.
    """
    return bool(getattr(transport, "_tempDataBuffer", True) or getattr(transport, "dataBuffer", True))
