"""The body of a response, read with a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from orchestratord.errors import Overloaded

if TYPE_CHECKING:
    from twisted.python.failure import Failure
    from twisted.web.iweb import IResponse

    from orchestratord.runtime.memory_budget import Reservation


#: Parts that a body in reserved memory may have, and the least average of bytes in further ones. A hostile body of tiny
#: chunks would occupy the reactor, and take forty times its length in memory. Prometheus' chunks have 4 kB.
FREE_PARTS, LEAST_PART = 1000, 64


class IncompleteBody(Exception):
    """There is no whole body. `received` is the part of it that was read, at most the limit."""

    def __init__(self, text: str, received: bytes) -> None:
        super().__init__(text)
        self.received = received


class BodyOverLimit(IncompleteBody):
    """The body is longer than the limit."""


class BodyCutOff(IncompleteBody):
    """The connection ended before the body did."""


class TinyChunks(IncompleteBody):
    """The body comes in too many parts for the memory that was reserved for it."""


async def read_body(
    response: IResponse, limit: int, *, reservation: Reservation | None = None, may_end_unmarked: bool = False
) -> bytes:
    """Return the whole body of a response, of at most `limit` bytes.

    The body's bytes are taken from `reservation`, if there is one, which still holds them afterwards. A body that has
    neither a length nor chunks ends with its connection; it counts as whole only with `may_end_unmarked`.

    Raises BodyOverLimit or BodyCutOff; with a reservation also TinyChunks, or Overloaded if it gets no more memory.
    Then, and when the awaiting Deferred is cancelled, the reservation is given back and the connection is closed.
    """
    reader = _BodyReader(limit, reservation, may_end_unmarked=may_end_unmarked)
    response.deliverBody(reader)
    return await reader.done


def close(response: IResponse) -> None:
    """Close the connection of a response whose body is not wanted."""
    reader = _BodyReader(0, None, may_end_unmarked=True)
    reader.done.addErrback(lambda _: None)
    response.deliverBody(reader)
    reader.done.cancel()


class _BodyReader(Protocol):
    """Collects a body; `done` fires with it."""

    def __init__(self, limit: int, reservation: Reservation | None, *, may_end_unmarked: bool) -> None:
        self.done: Deferred[bytes] = Deferred(self._cancelled)
        self._limit = limit
        self._reservation = reservation
        self._whole = (ResponseDone, PotentialDataLoss) if may_end_unmarked else (ResponseDone,)
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the body; close the connection if it does not fit."""
        if self.done.called:
            return
        self._size += len(data)
        if self._size > self._limit:
            received = b"".join(self._parts)
            self._refuse(BodyOverLimit(f"the answer is over the limit of {self._limit} bytes", received))
        elif self._reservation is None:
            self._parts.append(data)
        elif len(self._parts) > FREE_PARTS + self._size // LEAST_PART:
            self._refuse(TinyChunks("the answer comes in tiny chunks", b"".join(self._parts)))
        elif not self._reservation.hold(self._size):
            self._refuse(Overloaded("the answers that are being passed on fill their memory; try again"))
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fire `done`, unless it has fired."""
        if self.done.called:
            return
        body = b"".join(self._parts)
        if reason.check(*self._whole):
            self._parts.clear()
            self.done.callback(body)
        else:
            self._forget()
            self.done.errback(BodyCutOff(f"the answer broke off after {self._size} bytes", body))

    def _cancelled(self, done: Deferred[bytes]) -> None:
        done.errback(CancelledError())
        self._abort()

    def _refuse(self, error: Exception) -> None:
        self.done.errback(error)
        self._abort()

    def _abort(self) -> None:
        self._forget()
        if self.transport is not None:
            self.transport.loseConnection()

    def _forget(self) -> None:
        self._parts.clear()
        if self._reservation is not None:
            self._reservation.end()
