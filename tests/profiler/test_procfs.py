"""The source that reads /proc, and the buckets between two readings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestratord.profiler.procfs import ProcfsSource, bucket_between
from tests.profiler.fakes import FakeReactor, Outcome, bucket

if TYPE_CHECKING:
    from orchestratord.profiler.bucket import Bucket
    from tests.profiler.proc_tree import Tree


class Measurement:
    """Two readings of a tree, before and after the changes of a test."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._before = tree.reader().read()

    def bucket(self, uptime: float = 110.0) -> Bucket:
        """Read again, and return the bucket between both readings."""
        if (self._tree.root / "uptime").read_text().startswith("100."):
            self._tree.machine(uptime)
        return bucket_between(self._before, self._tree.reader().read(), timestamp=5.0)


NOTHING = replace(
    bucket(5.0, source="procfs"),
    mem_bytes_allocated=0,
    ctx_switches_graceful=0,
    ctx_switches_forced=0,
    fs_read_count=0,
    fs_read_size_kb=0.0,
    fs_write_count=0,
    fs_write_size_kb=0.0,
)


class TestBucket:
    """bucket_between: the counts between two readings."""

    def test_machine(self, tree: Tree) -> None:
        """Page faults and allocated bytes, of all zones, count since the last reading."""
        measurement = Measurement(tree)
        tree.machine(110.0, pgfault=1500, normal=30, dma=6)
        assert measurement.bucket() == replace(NOTHING, page_faults=500, mem_bytes_allocated=21 * 4096)

    def test_process(self, tree: Tree) -> None:
        """The counts of a process since the last reading are added; sizes are in kB of 1000 bytes."""
        tree.process(7, io=(1000, 2000, 30, 40), switches=((5, 6),))
        measurement = Measurement(tree)
        tree.process(7, io=(2500, 2250, 33, 41), switches=((15, 8),))
        assert measurement.bucket() == replace(
            NOTHING,
            ctx_switches_graceful=10,
            ctx_switches_forced=2,
            fs_read_count=3,
            fs_read_size_kb=1.5,
            fs_write_count=1,
            fs_write_size_kb=0.25,
        )

    def test_threads(self, tree: Tree) -> None:
        """The switches of all threads count, of new threads from 0. A thread that ended subtracts nothing."""
        tree.process(7, switches=((1, 1), (100, 100), (50, 50)))
        measurement = Measurement(tree)
        tree.process(7, switches=((2, 3), (110, 100)))
        first = measurement.bucket()
        assert (first.ctx_switches_graceful, first.ctx_switches_forced) == (11, 2)
        measurement = Measurement(tree)
        tree.process(7, switches=((2, 3), (110, 100), (4, 5)))
        second = measurement.bucket()
        assert (second.ctx_switches_graceful, second.ctx_switches_forced) == (4, 5)

    def test_thread_number_reused(self, tree: Tree) -> None:
        """A thread with lower counts than before is another thread, and counts from 0."""
        tree.process(7, switches=((1, 1), (100, 100)))
        measurement = Measurement(tree)
        tree.process(7, switches=((1, 1), (3, 2)))
        result = measurement.bucket()
        assert (result.ctx_switches_graceful, result.ctx_switches_forced) == (3, 2)

    def test_new_process(self, tree: Tree) -> None:
        """A process that started in the interval counts from 0."""
        measurement = Measurement(tree)
        tree.process(7, started=100.5, io=(3000, 0, 3, 0), switches=((4, 5),))
        assert measurement.bucket() == replace(
            NOTHING, ctx_switches_graceful=4, ctx_switches_forced=5, fs_read_count=3, fs_read_size_kb=3.0
        )

    def test_process_not_seen_before(self, tree: Tree) -> None:
        """A process that is older than the interval but was not seen before adds no old counts."""
        measurement = Measurement(tree)
        tree.process(7, started=50, io=(3000, 0, 3, 0), switches=((4, 5),))
        assert measurement.bucket() == NOTHING

    def test_io_readable_later(self, tree: Tree) -> None:
        """Reads and writes while the io file was not readable are not counted later."""
        tree.process(7, io=None)
        measurement = Measurement(tree)
        tree.process(7, io=(3000, 0, 3, 0))
        assert measurement.bucket() == NOTHING

    def test_pid_reused(self, tree: Tree) -> None:
        """If a pid is reused, the new process counts from 0."""
        tree.process(7, started=1, io=(100, 0, 9, 0), switches=((9, 9),))
        measurement = Measurement(tree)
        tree.process(7, started=105, io=(1000, 0, 10, 0), switches=((10, 11),))
        assert measurement.bucket() == replace(
            NOTHING, ctx_switches_graceful=10, ctx_switches_forced=11, fs_read_count=10, fs_read_size_kb=1.0
        )

    def test_vanished(self, tree: Tree) -> None:
        """A process that ended subtracts nothing."""
        tree.process(7, io=(5000, 5000, 50, 50), switches=((50, 50),))
        measurement = Measurement(tree)
        tree.ends(7)
        assert measurement.bucket() == NOTHING

    def test_child_swallowed(self, tree: Tree) -> None:
        """A parent receives the counts of an ended child; only those in the interval are added."""
        tree.process(1, io=(0, 0, 0, 0))
        tree.process(7, io=(100, 100, 1, 1))
        tree.process(8, parent=7, io=(5000, 3000, 50, 30))
        measurement = Measurement(tree)
        tree.ends(8)
        tree.process(7, io=(100 + 5000 + 700, 100 + 3000 + 70, 1 + 50 + 7, 1 + 30 + 3))
        assert measurement.bucket() == replace(
            NOTHING, fs_read_count=7, fs_read_size_kb=0.7, fs_write_count=3, fs_write_size_kb=0.07
        )

    def test_family_swallowed(self, tree: Tree) -> None:
        """If processes end with their parent, the counts that init receives are not added twice."""
        tree.process(1, parent=0, io=(0, 0, 0, 0))
        tree.process(7, parent=3, io=(100, 0, 1, 0))
        tree.process(8, parent=7, io=(5000, 0, 50, 0))
        measurement = Measurement(tree)
        tree.ends(7)
        tree.ends(8)
        tree.process(1, parent=0, io=(5200, 0, 52, 0))
        assert measurement.bucket() == replace(NOTHING, fs_read_count=1, fs_read_size_kb=0.1)

    def test_child_not_swallowed(self, tree: Tree) -> None:
        """If nobody waited for a child that ended, its parent's count does not become smaller."""
        tree.process(7, io=(0, 0, 0, 0))
        tree.process(8, parent=7, io=(5000, 0, 50, 0))
        measurement = Measurement(tree)
        tree.ends(8)
        tree.process(7, io=(1000, 0, 10, 0))
        assert measurement.bucket() == replace(NOTHING, fs_read_count=10, fs_read_size_kb=1.0)

    def test_counters_fall(self, tree: Tree) -> None:
        """If counters decrease, no count is negative."""
        tree.process(7, io=(500, 500, 5, 5))
        measurement = Measurement(tree)
        tree.machine(110.0, pgfault=1, normal=1, dma=1)
        tree.process(7, io=(400, 400, 4, 4))
        assert measurement.bucket() == NOTHING

    def test_half_gone(self, tree: Tree) -> None:
        """A process that ends while it is read is skipped."""
        tree.process(7)
        (tree.root / "7" / "status").unlink()
        (tree.root / "8").mkdir()
        (tree.root / "9").mkdir()
        (tree.root / "9" / "stat").write_text("")
        assert tree.reader().read().processes[7].switches == {}
        assert sorted(tree.reader().read().processes) == [1, 7]


class TestProcfsSource:
    """ProcfsSource: one reading per interval, on a pool thread."""

    def start(self, reactor: FakeReactor, tree: Tree) -> tuple[ProcfsSource, Outcome]:
        """Start a source with an interval of 10 s, and a wall clock that is 7 s ahead of the reactor's."""
        source = ProcfsSource(reactor, 10.0, tree.reader(), lambda: reactor.seconds() + 7)
        outcome = Outcome()
        source.start(outcome.buckets.append, outcome.complaints.append)
        return source, outcome

    def test_buckets(self, reactor: FakeReactor, tree: Tree) -> None:
        """The first reading is the baseline; each later one makes a bucket with its time."""
        _, outcome = self.start(reactor, tree)
        reactor.pool.run()
        assert outcome.buckets == []
        tree.machine(110.0, pgfault=1007)
        reactor.advance(10)
        reactor.pool.run()
        assert [(b.page_faults, b.timestamp) for b in outcome.buckets] == [(7, 1_700_000_017.0)]

    def test_left_out(self, reactor: FakeReactor, tree: Tree, lines: list[str]) -> None:
        """A family that is left out is logged once, with the reason."""
        tree.denied.add(b"1/io")
        _, outcome = self.start(reactor, tree)
        for _ in range(3):
            reactor.pool.run()
            reactor.advance(10)
        assert [one.fs_read_count for one in outcome.buckets] == [None, None]
        names = "fs_read_count, fs_read_size_kb, fs_write_count, fs_write_size_kb"
        assert lines == [f"{names} left out of the reports: /proc/<pid>/io of other users may not be read (no root)"]

    def test_reading_off_the_reactor(self, reactor: FakeReactor, tree: Tree) -> None:
        """Files are read on a pool thread, one reading at a time."""
        self.start(reactor, tree)
        reactor.pump([10] * 3)
        assert len(reactor.pool.work) == 1

    def test_unreadable(self, reactor: FakeReactor, tree: Tree) -> None:
        """If /proc is not readable, the source complains once and keeps trying; later, buckets continue."""
        _, outcome = self.start(reactor, tree)
        (tree.root / "vmstat").rename(tree.root / "hidden")
        for _ in range(3):
            reactor.pool.run()
            reactor.advance(10)
        assert len(outcome.complaints) == 1
        assert "vmstat" in outcome.complaints[0]
        (tree.root / "hidden").rename(tree.root / "vmstat")
        for _ in range(2):
            reactor.pool.run()
            reactor.advance(10)
        reactor.pool.run()
        assert len(outcome.buckets) == 2

    def test_stop(self, reactor: FakeReactor, tree: Tree) -> None:
        """Stopping waits for the current reading; its bucket is not delivered."""
        source, outcome = self.start(reactor, tree)
        reactor.pool.run()
        reactor.advance(10)
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        assert ended == []
        reactor.pool.run()
        assert ended == [None]
        assert outcome == Outcome()
        assert reactor.getDelayedCalls() == []

    def test_stop_before_start(self, reactor: FakeReactor, tree: Tree) -> None:
        """A source that was not started stops at once."""
        ended: list[object] = []
        ProcfsSource(reactor, 10.0, tree.reader()).stop().addBoth(ended.append)
        assert ended == [None]

    def test_start_again(self, reactor: FakeReactor, tree: Tree) -> None:
        """A source that is started again takes a new baseline."""
        source, _ = self.start(reactor, tree)
        reactor.pool.run()
        source.stop()
        outcome = Outcome()
        source.start(outcome.buckets.append, outcome.complaints.append)
        reactor.pool.run()
        assert outcome == Outcome()
