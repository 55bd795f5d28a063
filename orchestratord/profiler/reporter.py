"""Sends each bucket to the orchestrator: deadline, retries, and the log lines about them."""

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
"""A connection is replaced at about this age; AGE_JITTER is the random part. Behind a load balancer, the next one may
reach another replica, for example a new one."""
AGE_JITTER = 0.2
MAX_WARNINGS = 10
"""Different warnings in answers that are logged at most."""
_MAX_REASON = 300


class Client(Protocol):
    """The part of `treq.client.HTTPClient` that a reporter uses."""

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
        """Send a request; fires with the response when its headers have arrived."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of one attempt. Outcomes of the same `kind` are logged once; `retry_after` is in seconds.

    `warnings` are those of the orchestrator about an accepted report.
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
    """Turn a failed exchange into an outcome that is retried."""
    if isinstance(result, _Outcome):
        return result
    reason = _one_line(readable(first_cause(result.value)))  # type: ignore[arg-type]  # a Failure has one
    return _Outcome(accepted=False, retry=True, kind=str(result.type), reason=reason)


class _Taken(msgspec.Struct):
    """The part of the answer to an accepted report that is logged."""

    warnings: list[str] = []
    ignored: list[str] = []


class Reporter:
    """Sends the newest bucket, and retries until it is accepted, refused or replaced by a newer one.

    It holds at most two buckets, the one being sent and the next one, since the orchestrator keeps only the latest.
    `interval` and `deadline` are in seconds. `token` returns the bearer token, and is called for each report. `renew`
    closes the idle connection, and is called about every `max_age` seconds. Belongs to the reactor thread.
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
        """Send `bucket`; it replaces an older one that has not been accepted yet."""
        if self._unsent is not None:
            self._lost += 1
        self._unsent = bucket
        if not self._sending:
            self._sending = True
            self._sent = Deferred.fromCoroutine(self._send())
            self._sent.addErrback(self._interrupted)

    def stop(self) -> Deferred[None]:
        """Cancel the exchange in flight; fires when it has ended. A bucket that is offered later is sent again."""
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
                    # Stopped: a cancelled request ends in the same way as a failed one.
                    return
                self._log_change(outcome)
                self._renew_old()
                if outcome.retry:
                    failed += 1
                    await deferLater(self._reactor, self._pause(failed, outcome.retry_after))
                    continue
                failed = 0
                if self._unsent is bucket:
                    self._unsent = None
                elif self._lost:
                    # It was counted as lost when the next bucket was offered, and arrived after all.
                    self._lost -= 1
        finally:
            self._sending = False

    def _renew_old(self) -> None:
        """Close the connection if it is old. This happens between two reports, so that no report is lost."""
        now = self._reactor.seconds()
        if self._renew_at is not None and now >= self._renew_at:
            self._renew()
            self._renew_at = None
        if self._renew_at is None:
            self._renew_at = now + self._max_age * (1 + AGE_JITTER * (2 * self._draw() - 1))

    def _pause(self, failed: int, retry_after: float) -> float:
        """Return the seconds to wait after so many failures in a row: doubled each time, half of it random."""
        backoff = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 10))
        return retry_after + backoff * (1 + self._draw()) / 2

    def _attempt(self, bucket: Bucket) -> Deferred[_Outcome]:
        """Send once. One deadline covers the whole exchange, to the last byte of the answer."""
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
            # 401 and 403: during a rotation, the new token may arrive soon, here or at the orchestrator.
            retry=response.code >= 500 or response.code in (401, 403, 408, 429),
            kind=str(response.code),
            reason=f"{response.code} {_error_text(answer)}",
            retry_after=retry_after(response.headers.getRawHeaders(b"Retry-After"), self._unix_time()) or 0.0,
        )

    def _log_change(self, outcome: _Outcome) -> None:
        """Log a change: one line for each kind of failure, and one when reports are accepted again."""
        if not outcome.accepted:
            if outcome.kind not in self._failures:
                self._failures.add(outcome.kind)
                log.warn("{url} does not accept the reports: {reason}", url=self._url, reason=outcome.reason)
            if not outcome.retry:
                self._lost += 1
            return
        if self._failures:
            log.info("{url} accepts the reports again; {lost} were lost", url=self._url, lost=self._lost)
        elif not self._reached:
            log.info("{url} accepts the reports of {node}", url=self._url, node=self._node_id)
        for warning in outcome.warnings:
            if warning not in self._warnings and len(self._warnings) < MAX_WARNINGS:
                self._warnings.add(warning)
                log.warn("{url} warns about the reports: {warning}", url=self._url, warning=warning)
        self._reached = True
        self._failures.clear()
        self._lost = 0


def _warnings(answer: bytes) -> tuple[str, ...]:
    """Return the orchestrator's warnings about an accepted report, and the fields that it ignored."""
    try:
        body = msgspec.json.decode(answer, type=_Taken)
    except msgspec.DecodeError:
        return ()
    ignored = [f"it ignores {', '.join(body.ignored)}"] if body.ignored else []
    return tuple(_one_line(text) for text in [*body.warnings, *ignored][:MAX_WARNINGS])


def _error_text(answer: bytes) -> str:
    """Return the text of an error: the `error` of the orchestrator's JSON, or the body of another server's answer."""
    try:
        body = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        body = None
    error = body.get("error") if isinstance(body, Mapping) else None
    return _one_line(error if isinstance(error, str) else answer.decode(errors="replace"))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_REASON]
