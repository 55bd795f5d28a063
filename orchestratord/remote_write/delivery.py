"""Delivery of reports from the table to the store.

Every report is written to the write-ahead log, which users know as the spool, in the turn of the reactor in which it
arrives. From there the reports of each node are sent in order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,  # noqa: A004 - Twisted's name for it
    maybeDeferred,
    succeed,
)
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from orchestratord.remote_write.shard import BatchInFlight, Shard
from orchestratord.remote_write.staleness import with_stale_markers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.store import Entry
    from orchestratord.remote_write.retrying_sender import RetryingSender
    from orchestratord.remote_write.sample_row import SampleRow
    from orchestratord.remote_write.wal.directory import Checkpoint
    from orchestratord.remote_write.wal.log import WriteAheadLog
    from orchestratord.remote_write.wal.segments import Batch

log = Logger()

#: Requests in flight. All rows of a node are in the same shard, which sends one request after the other, so that each
#: series stays in order.
SHARDS = 4
#: Rows in one request: 4,500 samples, which take two milliseconds to encode.
MOST_ROWS = 500
#: Rows that are in memory to be sent; the others wait in the log.
MOST_WAITING = 2 * SHARDS * MOST_ROWS
#: Rows that are read from the log in one turn of the reactor: about a millisecond.
READ_AT_ONCE = 1000
#: Seconds after which a report that is not delivered counts as waiting for the store.
BEHIND = 2.0
#: Seconds that the last sync may delay the end of the process: a disk may hang.
LAST_SECONDS = 5.0


class DeliveryCounts(Protocol):
    """What counts: `orchestratord.remote_write.metrics.RemoteWriteMetrics`."""

    def lag(self, seconds: float, reports: int) -> None:
        """Count `reports` reports that the store accepted `seconds` seconds after their arrival."""
        ...

    def dropped(self, samples: int) -> None:
        """Count samples that are given up."""
        ...


class Delivery(Service):
    """Delivers the reports that the table stores. An `Observer` of it; belongs to the reactor thread.

    The reports that `updated` gets are in the log after `flush`. Without a call of `flush` they are there before the
    reactor polls its sockets again. So an answer that is given to Twisted after `updated` is sent later than that,
    except on a connection that is already writing.

    In seconds: `delay` is how long a report waits for others, `sync_every` the time between syncs of the log, `drain`
    the time for deliveries when the service stops. `in_thread` runs blocking work off the reactor thread. `now` returns
    the Unix time.
    """

    def __init__(
        self,
        reactor: Any,
        wal: WriteAheadLog,
        sender: RetryingSender,
        counts: DeliveryCounts,
        now: Callable[[], float],
        *,
        samples_per_row: int,
        delay: float,
        sync_every: float,
        drain: float,
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
    ) -> None:
        self._reactor = reactor
        self._wal = wal
        self._sender = sender
        self._counts = counts
        self._now = now
        self._samples = samples_per_row
        self._delay = delay
        self._sync_every = sync_every
        self._drain = drain
        self._in_thread = in_thread
        #: The rows of this turn.
        self._turn: list[bytes] = []
        self._shards = [Shard() for _ in range(SHARDS)]
        #: What was read and is not delivered yet, in the order of the log.
        self._in_flight: deque[BatchInFlight] = deque()
        self._read_to = wal.start
        self._waiting = 0
        #: Whether the log may have rows that were not read.
        self._unread = True
        self._feeding: Any = None
        self._problem: str | None = None
        #: When a report was last found to have waited for the store, by the reactor's clock.
        self._behind = float("-inf")
        self._emptied: Deferred[None] | None = None
        self._syncing = LoopingCall(self._sync)
        self._syncing.clock = reactor
        self._synced: Deferred[None] = succeed(None)

    def open(self) -> None:
        """Open the log, with the reports of an earlier process. Blocks: call it before the ports open. Never fails."""
        self._wal.open()
        self._read_to = self._wal.start
        self._tell_problem()

    def startService(self) -> None:
        """Start delivering."""
        super().startService()
        self._syncing.start(self._sync_every, now=False)
        self._feed_after(0.0)

    def stopService(self) -> Deferred[None]:
        """Deliver the reports in the log, within `drain` seconds; the others stay in the log."""
        super().stopService()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        self.flush()
        self._feed_after(0.0)
        if self._in_flight or self._unread:
            await self._empty()
        if self._syncing.running:
            self._syncing.stop()
        self._stop_feeding()
        for shard in self._shards:
            if shard.working is not None:
                shard.working.cancel()
        closed: Deferred[None] = Deferred()

        def close(_: object) -> None:
            if not closed.called:
                closed.callback(None)

        # The timeout ends the waiting only: a thread cannot be cancelled.
        self._synced.addCallback(lambda _: self._on_disk(self._wal.close)).addBoth(close)
        try:
            await closed.addTimeout(LAST_SECONDS, self._reactor)
        except TimeoutError:
            log.warn("the spool could not be synced within {seconds:g} s", seconds=LAST_SECONDS)
        if self._wal.held_bytes:
            log.warn("{size} bytes of reports are lost: the disk failed", size=self._wal.held_bytes)

    async def _empty(self) -> None:
        """Wait until everything is delivered, at most `drain` seconds."""
        self._emptied = Deferred()
        self._emptied.addTimeout(self._drain, self._reactor)
        try:
            await self._emptied
        except TimeoutError:
            size = self._wal.bytes - self._wal.held_bytes
            if size:
                log.warn("{size} bytes of reports stay in the spool and are delivered after the next start", size=size)
        finally:
            self._emptied = None

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Take the rows of reports that were stored, with stale markers for families that a node reports no longer.

        The rows are packed already, by the decoder: it decodes a long batch in slices, and all of it is stored here in
        one turn of the reactor.
        """
        self.add(
            [
                report.row if old is None or None not in report.values else with_stale_markers(report, old)
                for report, old in zip(reports, replaced, strict=True)
            ]
        )

    def expired(self, entries: Sequence[Entry]) -> None:
        """Do nothing: `staleness` writes the stale markers of expired nodes."""

    def add(self, rows: Sequence[bytes]) -> None:
        """Take rows, as SampleRowFormat packs them."""
        if not self._turn:
            self._reactor.callLater(0, self.flush)
        self._turn += rows

    def flush(self) -> None:
        """Write the rows of this turn to the log now."""
        if not self._turn:
            return
        rows, self._turn = self._turn, []
        self._wal.append(rows)
        self._tell_problem()
        self._unread = True
        if self._feeding is None and self._waiting < MOST_WAITING:
            self._feed_after(self._delay)

    def quiet_for(self) -> float:
        """Return for how many seconds the store has been healthy and no report has waited for it.

        Waiting reports are only noticed when this is called. They count because a store that hangs for less than
        `remote_write_http.timeout` is healthy for the sender, while all replicas have reports to deliver.
        """
        seconds: float = self._reactor.seconds()
        oldest = self._wal.oldest
        # The clock may have been set back: then the real age is unknown.
        if oldest is not None and abs(self._now() - oldest) > BEHIND:
            self._behind = seconds
        return seconds - max(self._sender.last_trouble, self._behind)

    def _feed_after(self, seconds: float) -> None:
        self._stop_feeding()
        self._feeding = self._reactor.callLater(seconds, self._feed)

    def _stop_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    def _feed(self) -> None:
        """Read from the log into the shards, up to MOST_WAITING rows, and wake the shards, one in each turn."""
        self._feeding = None
        if self._waiting < MOST_WAITING:
            batch = self._wal.read(self._read_to, READ_AT_ONCE)
            if batch is None:
                self._unread = False
            else:
                self._read_to = batch.end
                self._sort(batch)
                self._feed_after(0.0)
                return
        self._wake(0)
        self._release()

    def _sort(self, batch: Batch) -> None:
        in_flight = BatchInFlight(batch)
        self._in_flight.append(in_flight)
        self._waiting += in_flight.left
        shards: list[list[SampleRow]] = [[] for _ in self._shards]
        for row in batch.rows:
            shards[crc32(row.node_id) % SHARDS].append(row)
        for shard, rows in zip(self._shards, shards, strict=True):
            if rows:
                shard.parts.append((in_flight, rows))

    def _wake(self, index: int) -> None:
        shard = self._shards[index]
        if shard.parts and shard.working is None:
            shard.working = Deferred.fromCoroutine(self._work(shard))
            shard.working.addErrback(lambda failure: failure.trap(CancelledError))
        if index + 1 < SHARDS:
            self._reactor.callLater(0, self._wake, index + 1)

    async def _work(self, shard: Shard) -> None:
        while shard.parts:
            taken = shard.take(MOST_ROWS)
            rows = [row for _, part in taken for row in part]
            try:
                await self._sender.deliver(rows)
            except CancelledError:
                return
            except Exception:  # noqa: BLE001 - a bug of ours; a retry would fail too
                log.failure("{reports} reports cannot be delivered and are dropped", reports=len(rows))
                self._counts.dropped(len(rows) * self._samples)
            self._delivered(taken)
            await deferLater(self._reactor, 0)
        shard.working = None

    def _delivered(self, taken: list[tuple[BatchInFlight, list[SampleRow]]]) -> None:
        now = self._now()
        for batch, rows in taken:
            batch.left -= len(rows)
            self._waiting -= len(rows)
            self._counts.lag(max(0.0, now - batch.written), len(rows))
        self._release()
        if self._unread and self._feeding is None and self._waiting < MOST_WAITING // 2:
            self._feed_after(0.0)

    def _release(self) -> None:
        end: Checkpoint | None = None
        while self._in_flight and not self._in_flight[0].left:
            end = self._in_flight.popleft().end
        if end is not None:
            self._wal.release(end)
        if self._emptied is not None and not self._in_flight and not self._unread:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _sync(self) -> Deferred[None]:
        self._synced = self._on_disk(self._wal.sync).addCallback(self._look_again)
        return self._synced

    def _on_disk(self, work: Callable[[], None]) -> Deferred[None]:
        done = maybeDeferred(self._in_thread, work)
        return done.addErrback(lambda failure: log.failure("the spool could not be synced", failure))

    def _look_again(self, _: object) -> None:
        """Read on: the disk may work again."""
        self._tell_problem()
        self._unread = True
        if self._feeding is None and self._waiting < MOST_WAITING and self.running:
            self._feed_after(self._delay)

    def _tell_problem(self) -> None:
        problem = self._wal.problem
        if problem == self._problem:
            return
        if problem is None:
            log.info("the spool is on the disk again")
        else:
            where = str(self._wal.directory)
            log.warn("the spool is only in memory: {path}: {problem}; trying again", path=where, problem=problem)
        self._problem = problem
