"""Brings each bucket to the orchestrator: deadlines, retries, and what is said about them in the log."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from orchestratord import __version__
from orchestratord.http_client.body import read_body
from orchestratord.http_client.error_text import first_cause, readable
from orchestratord.http_client.retry_after import retry_after

if TYPE_CHECKING:
    from orchestratord.profiler.bucket import Bucket

log = Logger()

FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
MAX_ANSWER_BYTES = 65_536
MAX_AGE_SECONDS = 60.0
"""A connection is replaced at this age, give or take AGE_JITTER of it. Behind a balancer the next one may lead to
another replica, such as one that was added since."""
AGE_JITTER = 0.2
MAX_WARNINGS = 10
"""Different warnings in answers that are logged."""
_MAX_REASON = 300


class Client(Protocol):
    """What is needed of `treq.client.HTTPClient`."""

    def post(
        self,
        url: str,
        /,
        *,
        data: bytes,
        headers: dict[bytes | str, bytes | str],
        allow_redirects: bool,
        unbuffered: bool,
    ) -> Deferred[Any]:
        """Send a request; fires with treq's response when its headers are there."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """How one attempt ended. `kind` is the same for outcomes that need no second line in the log.

    `warnings` is what the orchestrator said about a report that it has accepted.
    """

    accepted: bool
    retry: bool = False
    kind: str = ""
    reason: str = ""
    retry_after: float = 0.0
    warnings: tuple[str, ...] = ()


def _timed_out(result: _Outcome | Failure, seconds: float) -> _Outcome | Failure:
    if isinstance(result, Failure):
        return _Outcome(accepted=False, retry=True, kind="timeout", reason=f"no whole answer within {seconds:g} s")
    return result


def _outcome(result: _Outcome | Failure) -> _Outcome:
    """Whatever goes wrong with an exchange is tried again."""
    if isinstance(result, _Outcome):
        return result
    reason = _one_line(readable(first_cause(result.value)))  # type: ignore[arg-type]  # a Failure has one
    return _Outcome(accepted=False, retry=True, kind=str(result.type), reason=reason)


class _Taken(msgspec.Struct):
    """The part of an answer to an accepted report that matters here."""

    warnings: list[str] = []
    ignored: list[str] = []


class Reporter:
    """Sends the newest bucket, and goes on trying until it is accepted, refused or replaced by a newer one.

    No more than two buckets are held: the one being sent and the one after it, for the orchestrator keeps no more than
    the latest. `interval` is how many seconds a bucket covers. `token` returns the bearer token to send, anew for each
    report; `renew` closes the connection that waits for the next report, and is called every `max_age` seconds or so.
    Belongs to the reactor's thread.
    """

    def __init__(
        self,
        reactor: Any,
        client: Client,
        url: str,
        node_id: str,
        *,
        deadline: float,
        interval: float,
        renew: Callable[[], object],
        max_age: float = MAX_AGE_SECONDS,
        token: Callable[[], bytes] | None = None,
        draw: Callable[[], float] = random.random,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._url = url
        self._node_id = node_id
        self._deadline = deadline
        self._interval = interval
        self._renew = renew
        self._max_age = max_age
        self._renew_at: float | None = None
        self._warnings: set[str] = set()
        self._token = token
        self._draw = draw
        self._unix_time = unix_time
        self._unsent: Bucket | None = None
        self._sending = False
        self._sent: Deferred[None] = succeed(None)
        self._reached = False
        self._failures: set[str] = set()
        self._lost = 0

    def offer(self, bucket: Bucket) -> None:
        """Send `bucket`, in place of an older one that has not been accepted yet."""
        if self._unsent is not None:
            self._lost += 1
        self._unsent = bucket
        if not self._sending:
            self._sending = True
            self._sent = Deferred.fromCoroutine(self._send())
            self._sent.addErrback(self._interrupted)

    def stop(self) -> Deferred[None]:
        """Cancel what is in flight; fires when nothing is. What is offered later is sent again."""
        self._unsent = None
        self._sent.cancel()
        return self._sent

    def _interrupted(self, failure: Failure) -> None:
        self._unsent = None
        if not failure.check(CancelledError):
            log.failure("a report could not be sent", failure=failure)

    async def _send(self) -> None:
        try:
            failed = 0
            while self._unsent is not None:
                bucket = self._unsent
                outcome = await self._attempt(bucket)
                if self._unsent is None:
                    # Stopped: treq ends a cancelled request as it ends one that has failed.
                    return
                self._note(outcome)
                self._renew_old()
                if outcome.retry:
                    failed += 1
                    await deferLater(self._reactor, self._pause(failed, outcome.retry_after))
                    continue
                failed = 0
                if self._unsent is bucket:
                    self._unsent = None
                elif self._lost:
                    # It was counted as lost when the next one was offered, but it arrived after all.
                    self._lost -= 1
        finally:
            self._sending = False

    def _renew_old(self) -> None:
        """Close the connection if it is old. Between two reports, so that none is lost with it."""
        now = self._reactor.seconds()
        if self._renew_at is not None and now >= self._renew_at:
            self._renew()
            self._renew_at = None
        if self._renew_at is None:
            self._renew_at = now + self._max_age * (1 + AGE_JITTER * (2 * self._draw() - 1))

    def _pause(self, failed: int, retry_after: float) -> float:
        """Return how long to wait after so many failures in a row: half fixed, half chance, doubled each time."""
        backoff = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 10))
        return retry_after + backoff * (1 + self._draw()) / 2

    def _attempt(self, bucket: Bucket) -> Deferred[_Outcome]:
        """Send once; the whole exchange, to the last byte of the answer, has the one deadline."""
        exchange = Deferred.fromCoroutine(self._exchange(bucket))
        exchange.addTimeout(self._deadline, self._reactor, _timed_out)
        return exchange.addBoth(_outcome)

    async def _exchange(self, bucket: Bucket) -> _Outcome:
        measured = dataclasses.asdict(bucket)
        report = {
            "node_id": self._node_id,
            **{name: value for name, value in measured.items() if value is not None},
            "interval_seconds": self._interval,
            "profiler_version": __version__,
        }
        headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token().decode()}"
        response = await self._client.post(
            self._url,
            data=msgspec.json.encode(report),
            headers=headers,
            allow_redirects=False,
            unbuffered=True,
        )
        # To its end, so that the connection can be used again.
        answer = await read_body(response, MAX_ANSWER_BYTES, may_end_unmarked=True)
        if response.code == 200:
            return _Outcome(accepted=True, warnings=_warnings(answer))
        return _Outcome(
            accepted=False,
            # 401 and 403: a token that is rotated may be there, or known there, in a moment.
            retry=response.code >= 500 or response.code in (401, 403, 408, 429),
            kind=str(response.code),
            reason=f"{response.code} {_error_text(answer)}",
            retry_after=retry_after(response, self._unix_time()) or 0.0,
        )

    def _note(self, outcome: _Outcome) -> None:
        """Log a change: a line for each kind of failure, however long it lasts, and one for its end."""
        if not outcome.accepted:
            if outcome.kind not in self._failures:
                self._failures.add(outcome.kind)
                log.warn("{url} does not take the reports: {reason}", url=self._url, reason=outcome.reason)
            if not outcome.retry:
                self._lost += 1
            return
        if self._failures:
            log.info("{url} takes the reports again; {lost} did not get there", url=self._url, lost=self._lost)
        elif not self._reached:
            log.info("{url} takes the reports of {node}", url=self._url, node=self._node_id)
        for warning in outcome.warnings:
            if warning not in self._warnings and len(self._warnings) < MAX_WARNINGS:
                self._warnings.add(warning)
                log.warn("{url} says of the reports: {warning}", url=self._url, warning=warning)
        self._reached = True
        self._failures.clear()
        self._lost = 0


def _warnings(answer: bytes) -> tuple[str, ...]:
    """Return what the orchestrator has to say about a report that it has taken: its warnings, and what it ignored."""
    try:
        body = msgspec.json.decode(answer, type=_Taken)
    except msgspec.DecodeError:
        return ()
    ignored = [f"it ignores {', '.join(body.ignored)}"] if body.ignored else []
    return tuple(_one_line(text) for text in [*body.warnings, *ignored][:MAX_WARNINGS])


def _error_text(answer: bytes) -> str:
    """Return the orchestrator's own words: the contract's `error`, or what another server has said instead."""
    try:
        body = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        body = None
    error = body.get("error") if isinstance(body, Mapping) else None
    return _one_line(error if isinstance(error, str) else answer.decode(errors="replace"))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_REASON]
