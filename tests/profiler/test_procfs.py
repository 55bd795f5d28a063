"""The source that reads /proc, from trees that the tests write."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from orchestratord.profiler.procfs import ProcfsSource, ProcTree, bucket_between
from tests.profiler.fakes import FakeReactor, Outcome, bucket

if TYPE_CHECKING:
    from pathlib import Path

    from orchestratord.profiler.bucket import Bucket


class Tree:
    """A /proc of our own: 4 KiB pages, 100 ticks a second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.denied: set[bytes] = set()
        self.machine(uptime=100.0)
        self.process(1, parent=0)

    def machine(self, uptime: float, pgfault: int = 1000, normal: int = 10, dma: int = 5) -> None:
        """Write what counts for the whole machine."""
        (self.root / "uptime").write_text(f"{uptime:.2f} 55.00\n")
        (self.root / "vmstat").write_text(
            f"nr_free_pages 7\npgalloc_dma {dma}\npgalloc_normal {normal}\npgfault {pgfault}\npgfault_x 9\n"
        )

    def process(
        self,
        pid: int,
        *,
        started: float = 1.0,
        parent: int = 1,
        io: tuple[int, int, int, int] | None = (0, 0, 0, 0),
        switches: tuple[tuple[int, int], ...] = ((0, 0),),
    ) -> None:
        """Write a process: `io` is rchar, wchar, syscr, syscw; `switches` is a pair for each thread."""
        home = self.root / str(pid)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        threads = len(switches)
        times = f"101 0 0 0 0 0 0 0 20 0 {threads} 0 {started * 100:.0f} 3133440"
        (home / "stat").write_text(f"{pid} (a) (b c) S {parent} 1 1 0 -1 4194304 {times}\n")
        for number, (voluntary, forced) in enumerate(switches):
            thread = home / "task" / str(pid + number)
            thread.mkdir(parents=True)
            (thread / "status").write_text(
                f"Name:\ta\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{forced}\n"
            )
        shutil.copy(home / "task" / str(pid) / "status", home / "status")
        if io is not None:
            rchar, wchar, syscr, syscw = io
            (home / "io").write_text(
                f"rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}\nread_bytes: 77\nwrite_bytes: 88\n"
            )

    def ends(self, pid: int) -> None:
        """Remove a process."""
        shutil.rmtree(self.root / str(pid))

    def reader(self) -> ProcTree:
        """Return what reads this tree, as a user that may not read what is `denied`."""
        return Reader(self.root, self.denied)


class Reader(ProcTree):
    """Reads as the kernel lets a user read that is not root; the tests' own user may be root."""

    def __init__(self, root: Path, denied: set[bytes]) -> None:
        super().__init__(root, page_size=4096, ticks_per_second=100)
        self._denied = denied

    def _file(self, path: bytes) -> bytes:
        if path in self._denied:
            raise PermissionError(path)
        return super()._file(path)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return an empty /proc."""
    return Tree(tmp_path)


class Measurement:
    """Two readings of a tree; what the test changes lies between them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._before = tree.reader().read()

    def bucket(self, uptime: float = 110.0) -> Bucket:
        """Read again and return what happened."""
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
    """bucket_between: what happened between two readings."""

    def test_machine(self, tree: Tree) -> None:
        """Page faults, and the pages of all zones in bytes, are those since the last reading."""
        measurement = Measurement(tree)
        tree.machine(110.0, pgfault=1500, normal=30, dma=6)
        assert measurement.bucket() == replace(NOTHING, page_faults=500, mem_bytes_allocated=21 * 4096)

    def test_process(self, tree: Tree) -> None:
        """A process counts with what it did since the last reading; sizes are in kB of 1000 bytes."""
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
        """The switches of all threads count, of new ones from 0; a thread that ended takes nothing away."""
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
        """A thread with less than before is another one, and counts from 0."""
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
        """A process that is older than the interval but was not seen before adds nothing of its past."""
        measurement = Measurement(tree)
        tree.process(7, started=50, io=(3000, 0, 3, 0), switches=((4, 5),))
        assert measurement.bucket() == NOTHING

    def test_io_readable_later(self, tree: Tree) -> None:
        """What a process did while its io file could not be read is not counted when it can."""
        tree.process(7, io=None)
        measurement = Measurement(tree)
        tree.process(7, io=(3000, 0, 3, 0))
        assert measurement.bucket() == NOTHING

    def test_pid_reused(self, tree: Tree) -> None:
        """A process that has the number of one that ended counts from 0, not from the other's counts."""
        tree.process(7, started=1, io=(100, 0, 9, 0), switches=((9, 9),))
        measurement = Measurement(tree)
        tree.process(7, started=105, io=(1000, 0, 10, 0), switches=((10, 11),))
        assert measurement.bucket() == replace(
            NOTHING, ctx_switches_graceful=10, ctx_switches_forced=11, fs_read_count=10, fs_read_size_kb=1.0
        )

    def test_vanished(self, tree: Tree) -> None:
        """A process that ended takes nothing away from the sums."""
        tree.process(7, io=(5000, 5000, 50, 50), switches=((50, 50),))
        measurement = Measurement(tree)
        tree.ends(7)
        assert measurement.bucket() == NOTHING

    def test_child_swallowed(self, tree: Tree) -> None:
        """Of a child whose counts its parent takes over at its end, only what it did in the interval counts."""
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
        """Of processes that end with their parent, what init takes over is not counted twice either."""
        tree.process(1, parent=0, io=(0, 0, 0, 0))
        tree.process(7, parent=3, io=(100, 0, 1, 0))
        tree.process(8, parent=7, io=(5000, 0, 50, 0))
        measurement = Measurement(tree)
        tree.ends(7)
        tree.ends(8)
        tree.process(1, parent=0, io=(5200, 0, 52, 0))
        assert measurement.bucket() == replace(NOTHING, fs_read_count=1, fs_read_size_kb=0.1)

    def test_child_not_swallowed(self, tree: Tree) -> None:
        """The end of a child that nobody took note of does not make its parent's own count smaller."""
        tree.process(7, io=(0, 0, 0, 0))
        tree.process(8, parent=7, io=(5000, 0, 50, 0))
        measurement = Measurement(tree)
        tree.ends(8)
        tree.process(7, io=(1000, 0, 10, 0))
        assert measurement.bucket() == replace(NOTHING, fs_read_count=10, fs_read_size_kb=1.0)

    def test_counters_fall(self, tree: Tree) -> None:
        """Counters that fall, which no kernel should let them, never make a count negative."""
        tree.process(7, io=(500, 500, 5, 5))
        measurement = Measurement(tree)
        tree.machine(110.0, pgfault=1, normal=1, dma=1)
        tree.process(7, io=(400, 400, 4, 4))
        assert measurement.bucket() == NOTHING

    def test_half_gone(self, tree: Tree) -> None:
        """A process that ends while it is read is left out."""
        tree.process(7)
        (tree.root / "7" / "status").unlink()
        (tree.root / "8").mkdir()
        (tree.root / "9").mkdir()
        (tree.root / "9" / "stat").write_text("")
        assert tree.reader().read().processes[7].switches == {}
        assert sorted(tree.reader().read().processes) == [1, 7]


IO = {"fs_read_count", "fs_read_size_kb", "fs_write_count", "fs_write_size_kb"}
SWITCHES = {"ctx_switches_graceful", "ctx_switches_forced"}


class TestMissing:
    """What cannot be seen of the whole machine is left out of the bucket, with a reason; it is not 0."""

    def check(self, tree: Tree, families: set[str], reason: str) -> None:
        """Check what is left out of a bucket that begins and ends with the tree as it is."""
        reading = tree.reader().read()
        assert reading.missing == dict.fromkeys(families, reason)
        tree.machine(110.0, pgfault=1500, normal=30)
        got = bucket_between(reading, tree.reader().read(), timestamp=5.0)
        assert {
            name for name in (*IO, *SWITCHES, "page_faults", "mem_bytes_allocated") if getattr(got, name) is None
        } == (families)

    def test_io_of_other_users(self, tree: Tree) -> None:
        """Without root only the own processes' io may be read: that of the node is not known."""
        tree.process(7, io=(3000, 0, 3, 0), switches=((1, 2),))
        tree.denied.add(b"1/io")
        self.check(tree, IO, "/proc/<pid>/io of other users may not be read (no root)")

    @pytest.mark.parametrize(("count", "families"), [(9, set()), (8, IO)])
    def test_a_process_that_root_may_not_read(self, tree: Tree, count: int, families: set[str]) -> None:
        """One in a sandbox, say: up to a tenth of all processes are passed over."""
        for pid in range(2, 2 + count):
            tree.process(pid)
        tree.denied.add(b"1/io")
        self.check(tree, families, "/proc/<pid>/io of other users may not be read (no root)")

    def test_once_is_enough(self, tree: Tree) -> None:
        """A bucket is whole only if both of its readings are."""
        before = tree.reader().read()
        tree.denied.add(b"1/io")
        after = tree.reader().read()
        tree.machine(110.0)
        for first, second in ((before, after), (after, before)):
            assert bucket_between(first, second, timestamp=5.0).fs_read_count is None

    @pytest.mark.parametrize("denied", [b"1/stat", b"1/status"])
    def test_hidden_content(self, tree: Tree, denied: bytes) -> None:
        """As with hidepid=1: the processes are there, their files may not be read."""
        tree.denied.add(denied)
        self.check(tree, IO | SWITCHES, "/proc hides the processes of other users (hidepid)")

    def test_hidden_processes(self, tree: Tree) -> None:
        """As with hidepid=2 and systemd's ProtectProc=invisible: there is no init."""
        tree.process(7)
        tree.ends(1)
        self.check(tree, IO | SWITCHES, "/proc hides the processes of other users (hidepid)")

    @pytest.mark.parametrize(("number", "families"), [(4026531836, set()), (4026532345, IO | SWITCHES)])
    def test_container(self, tree: Tree, number: int, families: set[str]) -> None:
        """Another PID namespace than the first shows the processes of one container; page faults are the node's."""
        (tree.root / "self" / "ns").mkdir(parents=True)
        (tree.root / "self" / "ns" / "pid").symlink_to(f"pid:[{number}]")
        self.check(tree, families, "/proc shows the processes of this container only (no hostPID)")

    def test_no_io_accounting(self, tree: Tree) -> None:
        """A kernel without it has no io files."""
        tree.process(1, parent=0, io=None)
        tree.process(7, io=None, switches=((1, 2),))
        self.check(tree, IO, "the kernel has no /proc/<pid>/io (CONFIG_TASK_IO_ACCOUNTING)")

    def test_no_switches(self, tree: Tree) -> None:
        """A /proc that is no Linux kernel's may lack them."""
        for file in tree.root.glob("1/**/status"):
            file.write_text("Name:\ta\n")
        self.check(tree, SWITCHES, "/proc/<pid>/status has no voluntary_ctxt_switches")

    @pytest.mark.parametrize(
        ("key", "family", "reason"),
        [
            ("pgfault ", "page_faults", "/proc/vmstat has no pgfault"),
            ("pgalloc_", "mem_bytes_allocated", "/proc/vmstat has no pgalloc_*"),
        ],
    )
    def test_no_vmstat_key(self, tree: Tree, key: str, family: str, reason: str) -> None:
        """A counter that is not there is not 0."""
        lines = (tree.root / "vmstat").read_text().splitlines(keepends=True)
        (tree.root / "vmstat").write_text("".join(line for line in lines if not line.startswith(key)))
        before = tree.reader().read()
        assert before.missing == {family: reason}
        assert getattr(bucket_between(before, tree.reader().read(), timestamp=5.0), family) is None


class TestProcfsSource:
    """ProcfsSource: a reading each interval, in the pool's threads."""

    def start(self, reactor: FakeReactor, tree: Tree) -> tuple[ProcfsSource, Outcome]:
        """Start a source with an interval of 10 s, and a wall clock that is 7 s ahead of the reactor's."""
        source = ProcfsSource(reactor, 10.0, tree.reader(), lambda: reactor.seconds() + 7)
        outcome = Outcome()
        source.start(outcome.buckets.append, outcome.complaints.append)
        return source, outcome

    def test_buckets(self, reactor: FakeReactor, tree: Tree) -> None:
        """The first reading is where the counting begins; each one after it is a bucket, with its time."""
        _, outcome = self.start(reactor, tree)
        reactor.pool.run()
        assert outcome.buckets == []
        tree.machine(110.0, pgfault=1007)
        reactor.advance(10)
        reactor.pool.run()
        assert [(b.page_faults, b.timestamp) for b in outcome.buckets] == [(7, 1_700_000_017.0)]

    def test_left_out(self, reactor: FakeReactor, tree: Tree, lines: list[str]) -> None:
        """What is left out is said once, with the reason, however long it lasts."""
        tree.denied.add(b"1/io")
        _, outcome = self.start(reactor, tree)
        for _ in range(3):
            reactor.pool.run()
            reactor.advance(10)
        assert [one.fs_read_count for one in outcome.buckets] == [None, None]
        names = "fs_read_count, fs_read_size_kb, fs_write_count, fs_write_size_kb"
        assert lines == [f"{names} left out of the reports: /proc/<pid>/io of other users may not be read (no root)"]

    def test_reading_off_the_reactor(self, reactor: FakeReactor, tree: Tree) -> None:
        """Files are read in the pool's threads, one reading at a time."""
        self.start(reactor, tree)
        reactor.pump([10] * 3)
        assert len(reactor.pool.work) == 1

    def test_unreadable(self, reactor: FakeReactor, tree: Tree) -> None:
        """A /proc that cannot be read is one complaint; the loop goes on, and so do buckets when it can be read."""
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
        """The end waits for the reading that is under way, and nothing is delivered after it."""
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
        """What was not started has ended already."""
        ended: list[object] = []
        ProcfsSource(reactor, 10.0, tree.reader()).stop().addBoth(ended.append)
        assert ended == [None]

    def test_start_again(self, reactor: FakeReactor, tree: Tree) -> None:
        """A source that is started again begins to count anew."""
        source, _ = self.start(reactor, tree)
        reactor.pool.run()
        source.stop()
        outcome = Outcome()
        source.start(outcome.buckets.append, outcome.complaints.append)
        reactor.pool.run()
        assert outcome == Outcome()
