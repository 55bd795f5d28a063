"""Rows to the store: tried again until it takes them, and halved until the one that it refuses is alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.task import deferLater
from twisted.logger import Logger

from orchestratord.receiver import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestratord.receiver import Reply
    from orchestratord.remote_write import Encoded, Encoder
    from orchestratord.row import Row

log = Logger()

#: Seconds before an exchange is tried again: at first, and at most; doubled from one to the next, and jittered, so that
#: many orchestrators do not come back in step.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: Requests that are spent on finding what a store refuses in one batch. What is refused after that is dropped whole.
MOST_SIFTED = 256
#: Seconds between lines of the log about what the store refuses.
REFUSALS_EVERY = 60.0


class Store(Protocol):
    """Where bodies go: `orchestratord.receiver.Receiver`."""

    url: str

    async def send(self, body: bytes) -> Reply:
        """Post a body and return what became of it."""
        ...


class Counts(Protocol):
    """What counts: `orchestratord.delivery_metrics.DeliveryMetrics`. Durations are in seconds."""

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


class Sender:
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
        self._told_refusal = float("-inf")
        self._untold = 0

    async def deliver(self, rows: Sequence[Row]) -> None:
        """Return when each of the rows has been accepted by the store, or refused for good."""
        blocks = [rows]
        requests = 0
        while blocks:
            block = blocks.pop()
            encoded = self._encoder.encode(block)
            reply = await self._judged(encoded)
            requests += 1
            if reply.verdict is Verdict.ACCEPTED:
                continue
            if reply.of_a_part and len(block) > 1 and requests < MOST_SIFTED:
                middle = len(block) // 2
                blocks += (block[middle:], block[:middle])  # the older half is sent first
                continue
            self._counts.dropped(encoded.samples)
            self._tell_refusal(len(block), reply)

    async def _judged(self, encoded: Encoded) -> Reply:
        """Return the store's answer as soon as it is one: accepted, or refused."""
        wait = FIRST_WAIT
        while True:
            began = self._reactor.seconds()
            reply = await self._store.send(encoded.body)
            took = self._reactor.seconds() - began
            # Where a part is refused the store has looked at it, and takes others.
            self.trouble = None if reply.verdict is Verdict.ACCEPTED or reply.of_a_part else reply.words
            if reply.verdict is not Verdict.LATER:
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
        self.last_trouble = self._reactor.seconds()
        if self._away_since is None:
            self._away_since = self.last_trouble
            log.warn(
                "{store} takes no reports, which wait in the spool: {reason}",
                store=self._store.url,
                reason=reply.words,
            )

    def _tell_refusal(self, reports: int, reply: Reply) -> None:
        self._untold += reports
        now = self._reactor.seconds()
        if now - self._told_refusal >= REFUSALS_EVERY:
            log.warn(
                "{store} refuses {reports} reports, which are dropped: {reason}",
                store=self._store.url,
                reports=self._untold,
                reason=reply.words,
            )
            self._told_refusal, self._untold = now, 0
