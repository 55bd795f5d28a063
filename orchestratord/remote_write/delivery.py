"""From the table to the store: every report to the spool in the turn it came in, and from there, in order, onwards."""

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

#: Requests in flight. A node's rows all go the same way, one request after the other, so that a series stays in order.
SHARDS = 4
#: Rows of one request: 4,500 samples, which take two milliseconds to encode.
MOST_ROWS = 500
#: Rows that are in memory on their way; more of them wait in the spool.
MOST_WAITING = 2 * SHARDS * MOST_ROWS
#: Rows that are read from the spool in one turn of the reactor: about a millisecond.
READ_AT_ONCE = 1000
#: Seconds after which a report that is not delivered is waiting, rather than on its way.
BEHIND = 2.0
#: Seconds that the last sync may hold up the end: a disk may hang.
LAST_SECONDS = 5.0


class DeliveryCounts(Protocol):
    """What counts: `orchestratord.remote_write.metrics.RemoteWriteMetrics`."""

    def lag(self, seconds: float, reports: int) -> None:
        """Count reports that took so long from their arrival to their acceptance."""
        ...

    def dropped(self, samples: int) -> None:
        """Count samples that are given up."""
        ...


class _Batch:
    """What was read from the spool at once: where it ends, when it was spooled, how many of its rows are under way."""

    def __init__(self, batch: Batch) -> None:
        self.end = batch.end
        self.written = batch.written
        self.left = len(batch.rows)


class _Shard:
    """Rows that are delivered one batch after the other."""

    def __init__(self) -> None:
        self.parts: deque[tuple[_Batch, list[SampleRow]]] = deque()
        self.working: Deferred[None] | None = None

    def take(self) -> list[tuple[_Batch, list[SampleRow]]]:
        """Take up to MOST_ROWS rows off the queue."""
        taken: list[tuple[_Batch, list[SampleRow]]] = []
        budget = MOST_ROWS
        while self.parts and budget:
            piece, rows = self.parts.popleft()
            if len(rows) > budget:
                self.parts.appendleft((piece, rows[budget:]))
                rows = rows[:budget]
            taken.append((piece, rows))
            budget -= len(rows)
        return taken


class Delivery(Service):
    """Delivers the reports that the table stores. An `Observer` of it; belongs to the reactor thread.

    What `updated` is given lies in the spool when `settle` has been called, and by itself before the reactor looks at
    its sockets again: no answer that Twisted was given after `updated` is on its way earlier, unless the connection had
    something to write already.

    `delay` is how long a report waits for others, `sync_every` for the disk itself, `drain` for its delivery at the
    end, in seconds. `in_thread` runs blocking work off the reactor thread. `now` is the Unix time.
    """

    def __init__(
        self,
        reactor: Any,
        spool: WriteAheadLog,
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
        self._spool = spool
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
        self._shards = [_Shard() for _ in range(SHARDS)]
        #: What was read and is not delivered yet, in the order of the spool.
        self._pieces: deque[_Batch] = deque()
        self._read_to = spool.start
        self._waiting = 0
        #: Whether there may be something in the spool that was not read.
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
        """Find what an earlier process has left. Blocks, so it comes before the ports open; never fails."""
        self._spool.open()
        self._read_to = self._spool.start
        self._tell_problem()

    def startService(self) -> None:
        """Begin to deliver."""
        super().startService()
        self._syncing.start(self._sync_every, now=False)
        self._feed_after(0.0)

    def stopService(self) -> Deferred[None]:
        """Deliver what there is, within `drain` seconds; the rest stays in the spool."""
        super().stopService()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        self.flush()
        self._feed_after(0.0)
        if self._pieces or self._unread:
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

        # Not the closing itself is given up: a thread cannot be cancelled.
        self._synced.addCallback(lambda _: self._on_disk(self._spool.close)).addBoth(close)
        try:
            await closed.addTimeout(LAST_SECONDS, self._reactor)
        except TimeoutError:
            log.warn("the spool is not on the disk itself within {seconds:g} s", seconds=LAST_SECONDS)
        if self._spool.held_bytes:
            log.warn("{size} bytes of reports are lost: the disk did not take them", size=self._spool.held_bytes)

    async def _empty(self) -> None:
        """Wait until everything is delivered, but not too long."""
        self._emptied = Deferred()
        self._emptied.addTimeout(self._drain, self._reactor)
        try:
            await self._emptied
        except TimeoutError:
            size = self._spool.bytes - self._spool.held_bytes
            if size:
                log.warn("{size} bytes of reports stay in the spool, for the next start to deliver", size=size)
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
        """Do nothing: what ends is another's business."""

    def add(self, rows: Sequence[bytes]) -> None:
        """Take rows, as RowFormat has them."""
        if not self._turn:
            self._reactor.callLater(0, self.flush)
        self._turn += rows

    def flush(self) -> None:
        """Hand the rows of this turn to the kernel, now."""
        if not self._turn:
            return
        rows, self._turn = self._turn, []
        self._spool.append(rows)
        self._tell_problem()
        self._unread = True
        if self._feeding is None and self._waiting < MOST_WAITING:
            self._feed_after(self._delay)

    def quiet_for(self) -> float:
        """Return for how long the store has been well and no report has waited for it, in seconds.

        As far as this was asked: a store that hangs for less than `remote_write_http.timeout` is no trouble to the
        sender, and yet all replicas have something to deliver when it goes on.
        """
        seconds: float = self._reactor.seconds()
        oldest = self._spool.oldest
        # The clock may have been set back: then nothing says how long it has been.
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
        """Give the lanes what is in the spool, as far as there is room, and wake them, one in each turn."""
        self._feeding = None
        if self._waiting < MOST_WAITING:
            batch = self._spool.read(self._read_to, READ_AT_ONCE)
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
        piece = _Batch(batch)
        self._pieces.append(piece)
        self._waiting += piece.left
        shards: list[list[SampleRow]] = [[] for _ in self._shards]
        for row in batch.rows:
            shards[crc32(row.node_id) % SHARDS].append(row)
        for shard, rows in zip(self._shards, shards, strict=True):
            if rows:
                shard.parts.append((piece, rows))

    def _wake(self, index: int) -> None:
        shard = self._shards[index]
        if shard.parts and shard.working is None:
            shard.working = Deferred.fromCoroutine(self._work(shard))
            shard.working.addErrback(lambda failure: failure.trap(CancelledError))
        if index + 1 < SHARDS:
            self._reactor.callLater(0, self._wake, index + 1)

    async def _work(self, shard: _Shard) -> None:
        while shard.parts:
            taken = shard.take()
            rows = [row for _, part in taken for row in part]
            try:
                await self._sender.deliver(rows)
            except CancelledError:
                return
            except Exception:  # noqa: BLE001 - one of ours; the same again would fail again
                log.failure("{reports} reports cannot be delivered and are given up", reports=len(rows))
                self._counts.dropped(len(rows) * self._samples)
            self._delivered(taken)
            await deferLater(self._reactor, 0)
        shard.working = None

    def _delivered(self, taken: list[tuple[_Batch, list[SampleRow]]]) -> None:
        now = self._now()
        for piece, rows in taken:
            piece.left -= len(rows)
            self._waiting -= len(rows)
            self._counts.lag(max(0.0, now - piece.written), len(rows))
        self._release()
        if self._unread and self._feeding is None and self._waiting < MOST_WAITING // 2:
            self._feed_after(0.0)

    def _release(self) -> None:
        end: Checkpoint | None = None
        while self._pieces and not self._pieces[0].left:
            end = self._pieces.popleft().end
        if end is not None:
            self._spool.release(end)
        if self._emptied is not None and not self._pieces and not self._unread:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _sync(self) -> Deferred[None]:
        self._synced = self._on_disk(self._spool.sync).addCallback(self._look_again)
        return self._synced

    def _on_disk(self, work: Callable[[], None]) -> Deferred[None]:
        done = maybeDeferred(self._in_thread, work)
        return done.addErrback(lambda failure: log.failure("the spool could not be synced", failure))

    def _look_again(self, _: object) -> None:
        """Read on, if a disk that refused was all that kept us from it."""
        self._tell_problem()
        self._unread = True
        if self._feeding is None and self._waiting < MOST_WAITING and self.running:
            self._feed_after(self._delay)

    def _tell_problem(self) -> None:
        problem = self._spool.problem
        if problem == self._problem:
            return
        if problem is None:
            log.info("reports are spooled to the disk again")
        else:
            where = str(self._spool.directory)
            log.warn("the spool is kept in memory alone: {path}: {problem}; trying again", path=where, problem=problem)
        self._problem = problem
