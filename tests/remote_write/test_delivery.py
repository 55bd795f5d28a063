"""From the table to the store: the spool before the answer, lanes in order, what is released when, the end."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.store import NodeStore
from orchestratord.remote_write.delivery import BEHIND, MOST_ROWS, MOST_WAITING, SHARDS, Delivery
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRowFormat, row_names
from orchestratord.remote_write.wal.directory import Checkpoint
from orchestratord.remote_write.wal.segments import Batch
from tests.fakes import NOW, body, decoder

FORMAT = SampleRowFormat(row_names(BUILT_IN))
DECODER = decoder(pack=FORMAT.sample)


class MemorySpool:
    """A spool in a list; positions count its appends."""

    def __init__(self) -> None:
        self.appends: list[list[bytes]] = []
        self.start = Checkpoint(0, 0)
        self.released: list[Checkpoint] = []
        self.problem: str | None = None
        self.directory = "spool"
        self.calls: list[str] = []
        self.oldest: float | None = None
        self.bytes = self.held_bytes = 0

    def open(self) -> None:
        """Find what was left."""
        self.calls.append("open")

    def append(self, rows: Any) -> None:
        """Keep rows."""
        self.appends.append(list(rows))

    def read(self, start: Checkpoint, most: int) -> Batch | None:
        """Return what one append brought."""
        assert most > 0
        if start.offset >= len(self.appends):
            return None
        found = FORMAT.rows(b"".join(self.appends[start.offset]))
        return Batch(found, NOW, Checkpoint(0, start.offset + 1))

    def release(self, end: Checkpoint) -> None:
        """Remember."""
        self.released.append(end)

    def sync(self) -> None:
        """Remember."""
        self.calls.append("sync")

    def close(self) -> None:
        """Remember."""
        self.calls.append("close")


class Sending:
    """Remembers batches, and ends them when the test says so."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], Deferred[None]]] = []
        self.last_trouble = float("-inf")
        self.at_once = False

    async def deliver(self, rows: Any) -> None:
        """Wait for the test."""
        done: Deferred[None] = succeed(None) if self.at_once else Deferred()
        self.batches.append(([row.node_id for row in rows], done))
        await done

    def end(self, index: int = -1) -> None:
        """End a batch."""
        self.batches[index][1].callback(None)

    @property
    def sent(self) -> list[bytes]:
        """Return the ids of all batches."""
        return [node_id for ids, _ in self.batches for node_id in ids]


class Lags:
    """Remembers lags."""

    def __init__(self) -> None:
        self.reports = self.dropped_samples = 0

    def lag(self, seconds: float, reports: int) -> None:
        """Count."""
        assert seconds >= 0
        self.reports += reports

    def dropped(self, samples: int) -> None:
        """Count."""
        self.dropped_samples += samples


class Scene:
    """A delivery with a table before it and nothing real behind it."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.clock, self.spool, self.sending, self.lags = Clock(), MemorySpool(), Sending(), Lags()
        self.sending.at_once = at_once
        spool: Any = self.spool
        sender: Any = self.sending
        self.in_thread: Any = lambda work: succeed(work())
        self.delivery = Delivery(
            self.clock,
            spool,
            sender,
            self.lags,
            lambda: NOW + self.clock.seconds(),
            samples_per_row=9,
            delay=0.1,
            sync_every=1.0,
            drain=15.0,
            in_thread=self._in_thread,
        )
        self.nodes = NodeStore(stale_after=60, max_nodes=100_000)
        self.nodes.observers.append(self.delivery)
        self.delivery.open()
        self.delivery.startService()
        self.limit()

    def _in_thread(self, work: Any) -> Any:
        return self.in_thread(work)

    def post(self, *node_ids: str, at: float = NOW) -> None:
        """Store a report of each node, as one request would."""
        reports = [DECODER.decode(body(node_id, timestamp=at), NOW).reports[0] for node_id in node_ids]
        self.nodes.update(reports, self.clock.seconds())

    def limit(self) -> None:
        """Let the reactor turn a few times, without time passing."""
        for _ in range(30):
            self.clock.advance(0)

    def wait(self, seconds: float = 0.1) -> None:
        """Let time pass."""
        self.limit()
        self.clock.advance(seconds)
        self.limit()


def ids(count: int) -> list[str]:
    """Return so many node ids."""
    return [f"n{index}" for index in range(count)]


def test_the_reports_of_a_turn_are_spooled_in_one_write_at_its_end() -> None:
    """Before the reactor looks at its sockets again: the answers that it was given go out after that."""
    scene = Scene()
    scene.post("a")
    scene.post("b", "c")
    assert scene.spool.appends == []
    scene.clock.advance(0)
    (append,) = scene.spool.appends
    rows = FORMAT.rows(b"".join(append))
    assert [(row.node_id, row.timestamp) for row in rows] == [(name, NOW * 1000) for name in (b"a", b"b", b"c")]


def test_whoever_cannot_wait_for_the_turns_end_settles_at_once() -> None:
    """Nothing is spooled twice."""
    scene = Scene()
    scene.post("a")
    scene.delivery.flush()
    assert len(scene.spool.appends) == 1
    scene.delivery.flush()
    scene.limit()
    assert len(scene.spool.appends) == 1


def test_a_report_that_is_not_stored_is_not_delivered() -> None:
    """A superseded one."""
    scene = Scene()
    scene.post("a", at=NOW)
    scene.post("a", at=NOW - 10)
    scene.limit()
    assert [len(append) for append in scene.spool.appends] == [1]


def test_a_family_that_is_not_reported_any_more_ends() -> None:
    """A report replaces the one before it whole: absent is not what it was."""
    scene = Scene()
    for fields in ({"page_faults": 1, "fs_read_count": 2}, {"page_faults": 3}, {"page_faults": 4}):
        scene.nodes.update(DECODER.decode(body("a", **fields), NOW).reports, 0.0)
    scene.limit()
    rows = FORMAT.rows(b"".join(scene.spool.appends[0]))
    index = 8 * BUILT_IN.names.index("fs_read_count")
    values = [row.values[index : index + 8] for row in rows]
    assert values == [struct.pack("<d", 2), STALE, ABSENT]
    assert [row.values.count(STALE) for row in rows] == [0, 1, 0]


def test_reports_wait_for_each_other_a_tenth_of_a_second() -> None:
    """Then they are sent, and released when they are accepted."""
    scene = Scene(at_once=True)
    scene.post("a")
    scene.wait(0.05)
    scene.post("b")
    assert scene.sending.sent == []
    scene.wait(0.05)
    assert sorted(scene.sending.sent) == [b"a", b"b"]
    assert scene.spool.released[-1] == Checkpoint(0, 2)
    assert scene.lags.reports == 2


def test_a_node_goes_always_the_same_way_one_batch_after_the_other() -> None:
    """So its samples stay in order, whatever the others do."""
    scene = Scene()
    scene.post(*ids(100))
    scene.wait()
    assert len(scene.sending.batches) == SHARDS
    scene.post(*ids(100), at=NOW + 10)
    scene.wait()
    assert len(scene.sending.batches) == SHARDS
    first = [names for names, _ in scene.sending.batches]
    scene.sending.end(2)
    scene.limit()
    assert len(scene.sending.batches) == SHARDS + 1
    assert scene.sending.batches[-1][0] == first[2]


def test_nothing_is_released_before_what_came_earlier() -> None:
    """A position in the spool says that all before it was accepted."""
    scene = Scene()
    scene.post(*ids(100))
    scene.wait()
    scene.post(*ids(100), at=NOW + 10)
    scene.wait()
    for index in range(SHARDS - 1):
        scene.sending.end(index)
    scene.limit()
    for _, done in scene.sending.batches[SHARDS:]:
        done.callback(None)
    scene.limit()
    assert scene.spool.released == []
    scene.sending.end(SHARDS - 1)
    scene.limit()
    assert scene.spool.released == [Checkpoint(0, 1)]
    scene.sending.end()
    scene.limit()
    assert scene.spool.released == [Checkpoint(0, 1), Checkpoint(0, 2)]


def test_a_store_that_is_away_costs_no_memory() -> None:
    """The rest waits in the spool, and goes out in order, in requests of a bounded size, when the store is back."""
    scene = Scene()
    for second in range(20):
        scene.post(*ids(1000), at=NOW + second)
        scene.wait()
    assert len(scene.sending.batches) == SHARDS
    assert scene.delivery._waiting <= MOST_WAITING + 1000
    scene.sending.at_once = True
    for index in range(SHARDS):
        scene.sending.end(index)
    for _ in range(10):
        scene.limit()
    assert len(scene.sending.sent) == 20_000
    assert max(len(names) for names, _ in scene.sending.batches) <= MOST_ROWS
    assert scene.spool.released[-1] == Checkpoint(0, 20)
    assert scene.delivery._waiting == 0


def test_what_an_earlier_process_left_is_delivered() -> None:
    """From where the spool says that reading begins."""
    scene = Scene(at_once=True)
    scene.spool.appends = [[FORMAT.sample("a", [None] * len(BUILT_IN), NOW)] for _ in range(3)]
    scene.spool.start = Checkpoint(0, 1)
    scene.delivery.open()
    scene.delivery._unread = True
    scene.delivery._feed()
    scene.limit()
    assert scene.sending.sent == [b"a", b"a"]


def test_an_error_of_ours_holds_up_no_lane() -> None:
    """It is logged, and what it was about is given up: the same again would fail again."""
    scene = Scene()
    scene.post("a")
    scene.wait()
    with capturedLogs() as events:
        scene.sending.batches[0][1].errback(ValueError("ours"))
    assert scene.lags.dropped_samples == 9
    assert any("are dropped" in (event["log_format"] or "") for event in events)
    scene.sending.at_once = True
    scene.post("a", at=NOW + 10)
    scene.wait()
    assert scene.sending.sent == [b"a", b"a"]
    assert scene.spool.released[-1] == Checkpoint(0, 2)


def test_the_end_delivers_what_there_is() -> None:
    """Then the spool is synced and closed."""
    scene = Scene()
    scene.post("a")
    stopped: list[Any] = []
    ending: Any = scene.delivery.stopService()
    ending.addBoth(stopped.append)
    scene.limit()
    assert scene.sending.sent == [b"a"]
    assert stopped == []
    scene.sending.end()
    scene.limit()
    assert stopped == [None]
    assert scene.spool.calls == ["open", "close"]
    assert not scene.clock.getDelayedCalls()


def test_the_end_does_not_wait_for_ever() -> None:
    """What a store that is away has not taken stays in the spool."""
    scene = Scene()
    scene.post("a")
    stopped: list[Any] = []
    ending: Any = scene.delivery.stopService()
    ending.addBoth(stopped.append)
    scene.wait(14.9)
    assert stopped == []
    scene.wait(0.2)
    assert stopped == [None]
    assert scene.spool.released == []
    assert scene.sending.batches[0][1].called
    assert scene.spool.calls[-1] == "close"


def test_a_disk_that_hangs_does_not_hold_up_the_end() -> None:
    """Nothing that was answered is lost by it: the kernel has it."""
    scene = Scene()
    hanging: list[Deferred[None]] = []

    def hang(work: Any) -> Deferred[None]:
        del work
        hanging.append(Deferred())
        return hanging[-1]

    scene.in_thread = hang
    stopped: list[Any] = []
    ending: Any = scene.delivery.stopService()
    ending.addBoth(stopped.append)
    scene.wait(4.9)
    assert stopped == []
    scene.wait(0.2)
    assert stopped == [None]
    assert "close" not in scene.spool.calls


def test_the_disk_is_synced_every_second() -> None:
    """By the option's default."""
    scene = Scene()
    for _ in range(3):
        scene.wait(1)
    assert scene.spool.calls == ["open", "sync", "sync", "sync"]


def test_a_disk_that_refuses_is_told_once() -> None:
    """And once that it is well again."""
    scene = Scene()
    with capturedLogs() as events:
        scene.spool.problem = "No space left on device"
        for _ in range(3):
            scene.post("a")
            scene.wait(1)
        scene.spool.problem = None
        scene.wait(1)
    told = [event["log_format"] for event in events if event["log_namespace"] == "orchestratord.remote_write.delivery"]
    assert told == [
        "the spool is only in memory: {path}: {problem}; trying again",
        "the spool is on the disk again",
    ]


def test_it_is_quiet_while_the_store_is_well_and_nothing_waits() -> None:
    """What a stale marker has to wait for."""
    scene = Scene()
    assert scene.delivery.quiet_for() == float("inf")
    scene.sending.last_trouble = 0.0
    scene.clock.advance(7)
    assert scene.delivery.quiet_for() == 7
    scene.spool.oldest = NOW + 7 - BEHIND - 1
    assert scene.delivery.quiet_for() == 0
    # The others have been waiting too, and may not have delivered yet.
    scene.spool.oldest = None
    scene.clock.advance(2)
    assert scene.delivery.quiet_for() == 2


def test_a_clock_that_was_set_back_is_not_quiet() -> None:
    """What waits may have done so for long: a marker would be a guess."""
    scene = Scene()
    scene.spool.oldest = NOW + 3600
    assert scene.delivery.quiet_for() == 0
    scene.spool.oldest = NOW
    scene.clock.advance(1)
    assert scene.delivery.quiet_for() == 1


def test_a_cancelled_batch_is_no_error() -> None:
    """The end of the daemon logs nothing of it."""
    scene = Scene()
    scene.post("a")
    scene.wait()
    with capturedLogs() as events:
        scene.sending.batches[0][1].errback(CancelledError())
    assert [event for event in events if event["log_namespace"] == "orchestratord.remote_write.delivery"] == []
