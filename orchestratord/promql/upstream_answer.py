"""What an upstream has sent back: an answer of Prometheus, which is passed on, or something that is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.web.client import ResponseDone

from orchestratord.errors import Overloaded

if TYPE_CHECKING:
    from twisted.python.failure import Failure
    from twisted.web.iweb import IResponse

    from orchestratord.runtime.memory_budget import Reservation

#: The statuses of Prometheus' own answers, which are passed on. Any other is that of something in between, or is about
#: who we are there, which is none of the client's business: a 401 of ours is about the client's own token.
_OWN_STATUSES = frozenset({200, 400, 404, 406, 422, 499, 500, 503})
#: How every answer of Prometheus' API begins.
_ENVELOPE = re.compile(rb'\s*\{\s*"status"\s*:\s*"(?:success|error)"')
#: The content types of Prometheus' answers; what is passed on has no byte that a client may stumble over.
_JSON = re.compile(rb"application/json(?: *;[ -~]{0,100})?", re.IGNORECASE)
#: Parts in which an answer may come whatever is in them, and the least bytes of the others, on average: a hostile one
#: of tiny chunks would hold the reactor, and forty times its length in memory. Prometheus' chunks have 4 kB.
FREE_PARTS, LEAST_PART = 1000, 64
#: Bytes of an error that are looked at, and characters of an upstream's own words that are passed on.
_MAX_ERROR, _MAX_WORDS = 65_536, 200


class Broken(Exception):
    """An upstream answered, but not as Prometheus does. `retry_after`: seconds after which it may, if it says so."""

    def __init__(self, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class TooLarge(Exception):
    """An upstream's answer is over the limit."""


def may_be_own(status: int, content_type: bytes) -> bool:
    """Return whether the head of an answer is one of Prometheus' own."""
    return status in _OWN_STATUSES and _JSON.fullmatch(content_type) is not None


def is_own(status: int, content_type: bytes, body: bytes) -> bool:
    """Return whether a whole answer is one of Prometheus' own: an error has its envelope."""
    return may_be_own(status, content_type) and (status == 200 or _ENVELOPE.match(body) is not None)


def broken(status: int, content_type: bytes, body: bytes, wait: int | None) -> Broken:
    """Return the error that says what an upstream has answered in the place of an answer of Prometheus."""
    if 300 <= status < 400:
        return Broken(f"answered {status}, a redirect, which is not followed")
    words = _words(content_type, body)
    if words and status != 200:
        return Broken(f"answered {status}: {words}", wait)
    shown = ascii(content_type[:200].decode("latin-1")) if content_type else "no content type"
    return Broken(f"answered {status} with {shown}, which is no answer of Prometheus' API", wait)


def _words(content_type: bytes, body: bytes) -> str:
    """Return what an error says, as one printable line; empty where it is a page for people, or nothing."""
    kind = content_type.lower()
    text = ""
    if kind.startswith(b"application/json") and len(body) <= _MAX_ERROR:
        try:
            said = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = None
        if isinstance(said, dict):
            text = next((said[key] for key in ("error", "message") if isinstance(said.get(key), str)), "")
    elif kind.startswith(b"text/plain"):
        text = body[: 4 * _MAX_WORDS].decode(errors="replace")
    return ascii(" ".join(text.split())[:_MAX_WORDS])[1:-1]


class BodyCollector(Protocol):
    """Collects a response's body up to a limit, and as far as a lease goes, which it ends if there is no whole body."""

    def __init__(self, limit: int, reservation: Reservation) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._limit = limit
        self._lease = reservation
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Take a part; over the limit, end the connection."""
        self._size += len(data)
        if self.done.called:
            return
        if self._size > self._limit:
            self._refuse(TooLarge(f"the answer is over the limit of {self._limit} bytes"))
        elif len(self._parts) > FREE_PARTS + self._size // LEAST_PART:
            self._refuse(Broken("the answer comes in tiny chunks"))
        elif not self._lease.hold(self._size):
            self._refuse(Overloaded("the answers that are being passed on fill their memory; try again"))
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Finish: only a body whose end was marked counts as whole."""
        if self.done.called:
            return
        if reason.check(ResponseDone):
            body = b"".join(self._parts)
            self._parts.clear()
            self.done.callback(body)
        else:
            self._forget()
            self.done.errback(Broken(f"the answer broke off after {self._size} bytes"))

    def _refuse(self, error: Exception) -> None:
        self.done.errback(error)
        self._abort()

    def _forget(self) -> None:
        self._parts.clear()
        self._lease.end()

    def _abort(self) -> None:
        self._forget()
        if self.transport is not None:
            self.transport.loseConnection()


async def whole_body(response: IResponse, limit: int, reservation: Reservation) -> bytes:
    """Return a response's body; raises Broken, TooLarge or Overloaded. Cancelling ends the connection."""
    collector = BodyCollector(limit, reservation)
    response.deliverBody(collector)
    return await collector.done
