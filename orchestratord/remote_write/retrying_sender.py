"""Sends rows to the store: retries until it answers, and divides a refused batch to find the refused rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from orchestratord.remote_write.client import Verdict
from orchestratord.remote_write.sifting import Sieve, by_node, oldest_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestratord.remote_write.client import Reply
    from orchestratord.remote_write.codec import Encoded, Encoder
    from orchestratord.remote_write.sample_row import SampleRow

log = Logger()

#: Seconds before a request is retried: the first wait, and the longest. Each wait is twice the one before, with jitter,
#: so that many orchestrators do not retry at the same time.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: The longest pause after a request that looks for refused rows, in seconds. The number of such requests for a batch
#: has no bound, since each of them delivers rows or leaves fewer rows to look at. Only one is made at a time, and the
#: pause after it, for other work of the reactor, is as long as the request took.
LONGEST_PAUSE = 0.02
#: Seconds between log lines about refused reports.
REFUSALS_EVERY = 60.0


class Store(Protocol):
    """Where bodies are sent: `orchestratord.remote_write.client.RemoteWriteClient`."""

    url: str

    async def send(self, body: bytes) -> Reply:
        """Post a body and return the reply."""
        ...


class Counts(Protocol):
    """The counters: `orchestratord.remote_write.metrics.RemoteWriteMetrics`. Durations are in seconds."""

    def accepted(self, samples: int, seconds: float) -> None:
        """Count a request that the store accepted."""
        ...

    def retried(self, samples: int, seconds: float) -> None:
        """Count a request that will be retried."""
        ...

    def refused(self, samples: int, seconds: float) -> None:
        """Count a request that the store refused."""
        ...

    def dropped(self, samples: int) -> None:
        """Count samples that are dropped because the store refuses them."""
        ...

    def up(self, up: bool) -> None:
        """Record whether the last request was answered by a healthy store."""
        ...


class RetryingSender:
    """Delivers batches of rows, any number of them at a time. Belongs to the reactor thread.

    `random` returns numbers from 0 to 1.
    """

    def __init__(
        self, reactor: Any, encoder: Encoder, store: Store, counts: Counts, *, random: Callable[[], float]
    ) -> None:
        self._reactor = reactor
        self._encoder = encoder
        self._store = store
        self._counts = counts
        self._random = random
        #: When the store last failed, by the reactor's clock; and since when it fails, None if it works.
        self.last_trouble = float("-inf")
        self._away_since: float | None = None
        #: Why the store gets no reports: its error text, or the failure. None if it accepted or refused the last ones.
        self.trouble: str | None = None
        self._sieve = Sieve()
        self._sifting = DeferredLock()
        self._logged_refusal = float("-inf")
        self._unlogged = 0

    async def deliver(self, rows: Sequence[SampleRow]) -> None:
        """Return when the store has accepted or finally refused each of the rows.

        A row is dropped if the store refuses it in a request of its own, or if it is not newer than a row that was
        refused in this way as too old. The rows of a node stay in order.
        """
        trusted, suspected = self._sieve.part(rows)
        await self._sift(trusted, first=True)
        if left := self._new_enough(suspected):
            await self._look_at(left)

    async def _look_at(self, rows: list[SampleRow]) -> None:
        """Deliver rows of nodes whose last row was refused: the store will refuse most of them."""
        # If even the newest is too old, the others need no request.
        newest = oldest_of_each(rows, float("inf"))[-1]
        rows.remove(newest)
        reply = await self._ask([newest])
        parts = [rows] if reply.verdict is Verdict.ACCEPTED or reply.too_old else by_node(rows)
        for part in parts:
            await self._sift(part)

    async def _sift(self, rows: Sequence[SampleRow], *, first: bool = False) -> None:
        """Deliver the rows that the store accepts and drop the others; `first`: they have not been sent before."""
        blocks = [rows]
        while blocks:
            block = self._new_enough(blocks.pop())
            if not block:
                continue
            reply = await (self._judged(block) if first else self._ask(block))
            first = False
            if reply.verdict is Verdict.ACCEPTED or len(block) == 1:
                continue
            if reply.too_old:
                blocks.append(await self._without_too_old(block))
            else:
                block.sort(key=lambda row: row.timestamp)
                middle = len(block) // 2
                blocks += (block[middle:], block[:middle])  # the older half is sent first

    async def _without_too_old(self, rows: list[SampleRow]) -> list[SampleRow]:
        """Find the age limit with requests of single rows; return the rows that are newer and not delivered yet."""
        accepted_at = float("inf")
        while candidates := oldest_of_each(rows, accepted_at):
            row = candidates[len(candidates) // 2]
            rows.remove(row)
            reply = await self._ask([row])
            if reply.verdict is Verdict.ACCEPTED:
                accepted_at = row.timestamp
            rows = self._new_enough(rows)
        return rows

    async def _ask(self, rows: Sequence[SampleRow]) -> Reply:
        """Make a request that looks for refused rows: one at a time, then a pause for other work."""
        await self._sifting.acquire()
        try:
            began = self._reactor.seconds()
            reply = await self._judged(rows)
            if took := min(self._reactor.seconds() - began, LONGEST_PAUSE):
                await deferLater(self._reactor, took)
        finally:
            self._sifting.release()
        return reply

    def _new_enough(self, rows: Sequence[SampleRow]) -> list[SampleRow]:
        """Drop the rows that are known to be too old for the store, and return the others."""
        too_old, others = self._sieve.part_by_age(rows)
        if too_old:
            self._drop(too_old, self._sieve.words)
        return others

    def _drop(self, rows: Sequence[SampleRow], words: str) -> None:
        self._sieve.refused(rows)
        self._counts.dropped(self._encoder.encode(rows).samples)
        self._log_refusal(len(rows), words)

    async def _judged(self, rows: Sequence[SampleRow]) -> Reply:
        """Send rows until the store accepts or refuses them, and return its reply; drop a refused single row."""
        reply = await self._answered(self._encoder.encode(rows))
        if reply.verdict is Verdict.ACCEPTED:
            self._sieve.accepted(rows)
        elif len(rows) == 1:
            if reply.too_old:
                self._sieve.refused_as_too_old(rows[0], reply.words)
            self._drop(rows, reply.words)
        return reply

    async def _answered(self, encoded: Encoded) -> Reply:
        """Send a request until the store accepts or refuses it, and return its reply."""
        wait = FIRST_WAIT
        while True:
            began = self._reactor.seconds()
            reply = await self._store.send(encoded.body)
            took = self._reactor.seconds() - began
            # A store that refuses data works: it accepts other data.
            self.trouble = reply.words if reply.verdict is Verdict.RETRY else None
            if reply.verdict is not Verdict.RETRY:
                self._succeeded()
                count = self._counts.accepted if reply.verdict is Verdict.ACCEPTED else self._counts.refused
                count(encoded.samples, took)
                return reply
            self._counts.retried(encoded.samples, took)
            self._failed(reply)
            await deferLater(self._reactor, max(wait * (1 + self._random()) / 2, reply.after or 0.0))
            wait = min(2 * wait, LONGEST_WAIT)

    def _succeeded(self) -> None:
        self._counts.up(True)
        if self._away_since is not None:
            seconds = self._reactor.seconds() - self._away_since
            log.info("{store} takes reports again, after {seconds:.0f} s", store=self._store.url, seconds=seconds)
            self._away_since = None

    def _failed(self, reply: Reply) -> None:
        self._counts.up(False)
        self._sieve.forget_age()
        self.last_trouble = self._reactor.seconds()
        if self._away_since is None:
            self._away_since = self.last_trouble
            log.warn(
                "{store} takes no reports, which wait in the spool: {reason}",
                store=self._store.url,
                reason=reply.words,
            )

    def _log_refusal(self, reports: int, words: str) -> None:
        self._unlogged += reports
        now = self._reactor.seconds()
        if now - self._logged_refusal >= REFUSALS_EVERY:
            log.warn(
                "{store} refuses {reports} reports, which are dropped: {reason}",
                store=self._store.url,
                reports=self._unlogged,
                reason=words,
            )
            self._logged_refusal, self._unlogged = now, 0
