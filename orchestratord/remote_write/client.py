"""A remote-write receiver: one body goes there, and its answer says what becomes of what it held."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.web.http_headers import Headers

from orchestratord import __version__
from orchestratord.http_client.agent import WholeBody, cancellable
from orchestratord.http_client.body import IncompleteBody, read_body
from orchestratord.http_client.error_text import reason_of
from orchestratord.http_client.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.web.iweb import IAgent, IResponse

#: Characters of a receiver's own words that are kept: a line of the log.
MAX_WORDS = 300
#: Bytes of an answer that are read at most; after that the connection ends.
_MAX_BODY = 65_536
#: Refusals of what was sent, or of a part of it: bad data, a conflict, too much at once, unprocessable. Any other 4xx
#: is about us (a wrong token, a wrong path), which an operator mends.
_OF_DATA = frozenset({400, 409, 413, 422})

#: What Prometheus says of a sample that no retry helps. Up to 2.42 it says the last of them with a 500.
_OF_A_SAMPLE = re.compile(rb"out of order sample|duplicate sample for timestamp|out of bounds|too old sample")
#: What Prometheus, Thanos and Mimir say of a sample that is older than what they take of any series.
_TOO_OLD = re.compile(rb"out of bounds|too old|too-old", re.IGNORECASE)


class Verdict(Enum):
    """What a receiver did with a body."""

    ACCEPTED = "accepted"
    #: It, or the way to it, is not well, or it refuses us; the same body may be accepted later.
    RETRY = "retried"
    #: Something in the body is not taken, now or later.
    REFUSED = "refused"


@dataclass(frozen=True)
class Reply:
    """A verdict, and why, as one printable line: no answer, or the status and the receiver's own words.

    `after` is how long it wants to be left alone, in seconds. `too_old`: it refuses a sample because of its age.
    """

    verdict: Verdict
    words: str = ""
    after: float | None = None
    too_old: bool = False


class RemoteWriteClient:
    """A remote-write 1.0 receiver. `timeout` bounds a whole exchange, in seconds. Belongs to the reactor thread.

    `authorization` gives the value of that header for each request; `now` the Unix time. The agent is used without
    treq, whose bodies are produced by the global reactor, and whose answers are unpacked without a bound.
    """

    def __init__(
        self,
        reactor: Any,
        agent: IAgent,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        authorization: Callable[[], str] | None,
        timeout: float,
        now: Callable[[], float],
    ) -> None:
        self.url = url
        self._uri = url.encode()
        self._reactor = reactor
        self._agent = agent
        self._headers = Headers({"User-Agent": [f"orchestratord/{__version__}"]})
        for name, value in headers:
            self._headers.addRawHeader(name, value)
        self._authorization = authorization
        self._timeout = timeout
        self._now = now

    async def send(self, body: bytes) -> Reply:
        """Post a body and return what became of it; raises CancelledError alone, when it is cancelled."""
        exchange = cancellable(Deferred.fromCoroutine(self._exchange(body)))
        exchange.addTimeout(self._timeout, self._reactor)
        try:
            return await exchange
        except CancelledError:
            raise
        except TimeoutError:
            return Reply(Verdict.RETRY, f"no whole answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001 - whatever an Agent may raise: refused, no route, no such host, TLS
            return Reply(Verdict.RETRY, reason_of(error))

    async def _exchange(self, body: bytes) -> Reply:
        headers = self._headers
        if self._authorization is not None:
            headers = headers.copy()
            headers.setRawHeaders("Authorization", [self._authorization()])
        response = await self._agent.request(b"POST", self._uri, headers, WholeBody(body))
        try:
            # To its end, so that the connection can be kept.
            answer = await read_body(response, _MAX_BODY)
        except IncompleteBody as error:
            answer = error.received  # the status has been heard, which is all that counts
        return self._judged(response, answer[: 4 * MAX_WORDS])

    def _judged(self, response: IResponse, answer: bytes) -> Reply:
        status = response.code
        if 200 <= status < 300:
            return Reply(Verdict.ACCEPTED)
        words = f"answered {status}"
        said = ascii(" ".join(answer.decode(errors="replace").split())[:MAX_WORDS])[1:-1]
        if said:
            words += f": {said}"
        if status in _OF_DATA or (status == 500 and _OF_A_SAMPLE.search(answer)):
            return Reply(Verdict.REFUSED, words, too_old=_TOO_OLD.search(answer) is not None)
        # A redirect is not followed: whatever stands in the way now may be gone later. So may a wrong token be.
        return Reply(Verdict.RETRY, words, retry_after(response, self._now()))
