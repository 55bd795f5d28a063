"""A client for a remote-write receiver: sends one body, and judges the answer."""

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

#: The most characters of a receiver's error text that are kept: one line of the log.
MAX_WORDS = 300
#: The most bytes of an answer that are read; after that the connection is closed.
_MAX_BODY = 65_536
#: Statuses that refuse the data, or a part of it: bad data, conflict, too large, unprocessable. Any other 4xx refuses
#: the request as such (a wrong token, a wrong path), which an operator has to fix.
_OF_DATA = frozenset({400, 409, 413, 422})

#: Prometheus' errors about a sample that a retry cannot help. Up to 2.42 it sends the last of them with status 500.
_OF_A_SAMPLE = re.compile(rb"out of order sample|duplicate sample for timestamp|out of bounds|too old sample")
#: Errors of Prometheus, Thanos and Mimir about a sample that is too old for any series.
_TOO_OLD = re.compile(rb"out of bounds|too old|too-old", re.IGNORECASE)


class Verdict(Enum):
    """What a receiver did with a body."""

    ACCEPTED = "accepted"
    #: The receiver or the network failed, or the receiver refuses our request as such; a retry may succeed.
    RETRY = "retried"
    #: The receiver refuses something in the body, now and later.
    REFUSED = "refused"


@dataclass(frozen=True)
class Reply:
    """A verdict, and why.

    `words` is one printable line: why there is no answer, or the status and the receiver's error text. `after` is the
    answer's Retry-After in seconds. `too_old`: the receiver refuses a sample because of its age.
    """

    verdict: Verdict
    words: str = ""
    after: float | None = None
    too_old: bool = False


class RemoteWriteClient:
    """A remote-write 1.0 receiver. `timeout` bounds a whole exchange, in seconds. Belongs to the reactor thread.

    `authorization` returns the value of that header for each request; `now` returns the Unix time. The agent is used
    without treq: treq produces bodies with the global reactor, and decompresses answers without a bound.
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
        """Post a body and return the receiver's reply; raises only CancelledError, when it is cancelled."""
        exchange = cancellable(Deferred.fromCoroutine(self._exchange(body)))
        exchange.addTimeout(self._timeout, self._reactor)
        try:
            return await exchange
        except CancelledError:
            raise
        except TimeoutError:
            return Reply(Verdict.RETRY, f"no whole answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001 - an Agent raises many: refused, no route, no such host, TLS
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
        # A redirect is not followed. It may go away, and a wrong token may be replaced: so this is a retry.
        return Reply(Verdict.RETRY, words, retry_after(response.headers.getRawHeaders(b"Retry-After"), self._now()))
