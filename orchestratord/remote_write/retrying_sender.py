"""Rows to the store: tried again until it takes them, and parted until those that it refuses are alone."""

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

#: Seconds before an exchange is tried again: at first, and at most; doubled from one to the next, and jittered, so that
#: many orchestrators do not come back in step.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: The longest pause after a request that looks for what the store refuses, in seconds. There is no bound on how many
#: such requests a batch may take, since each delivers rows or leaves fewer to look at; but one at a time is made, and
#: the reactor has as long for other work afterwards as it took.
LONGEST_PAUSE = 0.02
#: Seconds between lines of the log about what the store refuses.
REFUSALS_EVERY = 60.0


class Store(Protocol):
    """Where bodies go: `orchestratord.remote_write.client.RemoteWriteClient`."""

    url: str

    async def send(self, body: bytes) -> Reply:
        """Post a body and return what became of it."""
        ...


class Counts(Protocol):
    """What counts: `orchestratord.remote_write.metrics.RemoteWriteMetrics`. Durations are in seconds."""

    def accepted(self, samples: int, seconds: float) -> None:
        """Count a request that the store accepted."""
        ...

    def retried(self, samples: int, seconds: float) -> None:
        """Count a request that is to be made again."""
        ...

    def refused(self, samples: int, seconds: float) -> None:
        """Count a request that the store refused."""
        ...

    def dropped(self, samples: int) -> None:
        """Count samples that are given up since the store refuses them."""
        ...

    def up(self, up: bool) -> None:
        """Say whether the last request was answered by a store that is well."""
        ...


class RetryingSender:
    """Delivers batches of rows. Belongs to the reactor thread; any number of batches may be under way.

    `random` gives numbers from 0 to 1.
    """

    def __init__(
        self, reactor: Any, encoder: Encoder, store: Store, counts: Counts, *, random: Callable[[], float]
    ) -> None:
        self._reactor = reactor
        self._encoder = encoder
        self._store = store
        self._counts = counts
        self._random = random
        #: When the store was last found not to be well, by the reactor's clock; and since when it is so, if it is.
        self.last_trouble = float("-inf")
        self._away_since: float | None = None
        #: Why nothing gets to the store, in its own words if it has any; None while something does, or nothing is sent.
        self.trouble: str | None = None
        self._sieve = Sieve()
        self._sifting = DeferredLock()
        self._told_refusal = float("-inf")
        self._untold = 0

    async def deliver(self, rows: Sequence[SampleRow]) -> None:
        """Return when each of the rows has been accepted by the store, or refused for good.

        A row is given up if the store refuses it alone, or if it is not newer than one refused alone as too old. The
        rows of a node stay in their order.
        """
        trusted, suspected = self._sieve.part(rows)
        await self._sift(trusted, first=True)
        if left := self._new_enough(suspected):
            await self._look_at(left)

    async def _look_at(self, rows: list[SampleRow]) -> None:
        """Deliver rows of nodes whose last row was refused: most of them will be again."""
        # If even the newest is too old, the others are not worth a request.
        newest = oldest_of_each(rows, float("inf"))[-1]
        rows.remove(newest)
        reply = await self._ask([newest])
        parts = [rows] if reply.verdict is Verdict.ACCEPTED or reply.too_old else by_node(rows)
        for part in parts:
            await self._sift(part)

    async def _sift(self, rows: Sequence[SampleRow], *, first: bool = False) -> None:
        """Deliver what the store takes of some rows, and give up the others; `first`: it was not asked about them."""
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
        """Find by single rows how old is too old, and return the rows that are newer and not delivered yet."""
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
        """Make a request that looks for what the store refuses: one at a time, and then a pause for other work."""
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
        """Return the rows that are not known to be too old for the store, and give up the others."""
        too_old, others = self._sieve.part_by_age(rows)
        if too_old:
            self._drop(too_old, self._sieve.words)
        return others

    def _drop(self, rows: Sequence[SampleRow], words: str) -> None:
        self._sieve.refused(rows)
        self._counts.dropped(self._encoder.encode(rows).samples)
        self._tell_refusal(len(rows), words)

    async def _judged(self, rows: Sequence[SampleRow]) -> Reply:
        """Return the store's answer as soon as it is one: accepted, or refused; a row refused alone is given up."""
        reply = await self._answered(self._encoder.encode(rows))
        if reply.verdict is Verdict.ACCEPTED:
            self._sieve.accepted(rows)
        elif len(rows) == 1:
            if reply.too_old:
                self._sieve.refused_as_too_old(rows[0], reply.words)
            self._drop(rows, reply.words)
        return reply

    async def _answered(self, encoded: Encoded) -> Reply:
        """Return the store's answer as soon as it is one: accepted, or refused."""
        wait = FIRST_WAIT
        while True:
            began = self._reactor.seconds()
            reply = await self._store.send(encoded.body)
            took = self._reactor.seconds() - began
            # Where data is refused the store has looked at it, and takes other data.
            self.trouble = reply.words if reply.verdict is Verdict.RETRY else None
            if reply.verdict is not Verdict.RETRY:
                self._well()
                count = self._counts.accepted if reply.verdict is Verdict.ACCEPTED else self._counts.refused
                count(encoded.samples, took)
                return reply
            self._counts.retried(encoded.samples, took)
            self._unwell(reply)
            await deferLater(self._reactor, max(wait * (1 + self._random()) / 2, reply.after or 0.0))
            wait = min(2 * wait, LONGEST_WAIT)

    def _well(self) -> None:
        self._counts.up(True)
        if self._away_since is not None:
            seconds = self._reactor.seconds() - self._away_since
            log.info("{store} takes reports again, after {seconds:.0f} s", store=self._store.url, seconds=seconds)
            self._away_since = None

    def _unwell(self, reply: Reply) -> None:
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

    def _tell_refusal(self, reports: int, words: str) -> None:
        self._untold += reports
        now = self._reactor.seconds()
        if now - self._told_refusal >= REFUSALS_EVERY:
            log.warn(
                "{store} refuses {reports} reports, which are dropped: {reason}",
                store=self._store.url,
                reports=self._untold,
                reason=words,
            )
            self._told_refusal, self._untold = now, 0
