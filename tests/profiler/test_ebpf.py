"""The source that has bpftrace count, with children that only pretend to be bpftrace."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from twisted.internet.error import ProcessTerminated

from orchestratord.profiler.bpftrace_output import MAX_LINE_BYTES, Lines, TotalsReader, bucket_between
from orchestratord.profiler.bpftrace_program import KPROBES, TRACEPOINTS, Kernel, Plan, plans
from orchestratord.profiler.ebpf import EbpfSource, Machine
from tests.profiler.fakes import FakeReactor, Outcome, bucket
from tests.profiler.kernels import ALL_TRACEPOINTS, FUNCTIONS, kernel_files

if TYPE_CHECKING:
    from pathlib import Path

COUNTERS = {
    "mem_bytes_allocated": 1,
    "page_faults": 2,
    "ctx_switches_graceful": 3,
    "ctx_switches_forced": 4,
    "fs_read_count": 5,
    "fs_read_bytes": 6500,
    "fs_write_count": 7,
    "fs_write_bytes": 8500,
}


def printed(times: int = 1) -> bytes:
    """Return what bpftrace prints when all counters are `times` those of COUNTERS."""
    lines = [{"type": "map", "data": {f"@{name}": value * times}} for name, value in COUNTERS.items()]
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, {"type": "printf", "data": "bucket\n"}])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which eBPF works, with tracepoints and without kprobes."""
    return kernel_files(tmp_path, ALL_TRACEPOINTS)


def counting() -> Plan:
    """Return a plan that counts all families, for buckets like those of `fakes.bucket`."""
    return plans(Kernel(frozenset(ALL_TRACEPOINTS)))[0]._replace(source="fake")


def started(reactor: FakeReactor, machine: Machine) -> tuple[EbpfSource, Outcome]:
    """Start a source with an interval of 10 s, and a wall clock that is 7 s ahead of the reactor's."""
    source, outcome = EbpfSource(reactor, 10.0, machine, lambda: reactor.seconds() + 7), Outcome()
    source.start(outcome.buckets.append, outcome.complaints.append)
    reactor.pool.run()
    return source, outcome


class TestLines:
    """Lines: splits a stream of bytes into lines."""

    def test_cut_anywhere(self) -> None:
        """The lines are the same however the stream is divided."""
        lines = Lines()
        got = [line for byte in b"ab\n\ncd\nef" for line in lines.feed(bytes([byte]))]
        assert got == [b"ab", b"", b"cd"]

    def test_too_long(self) -> None:
        """A line over the limit is dropped without being buffered; its neighbours are complete."""
        lines = Lines()
        got = lines.feed(b"a\n" + b"x" * (MAX_LINE_BYTES + 1))
        for _ in range(100):
            got += lines.feed(b"x" * 10_000)
        got += lines.feed(b"x\nb\n" + b"y" * (MAX_LINE_BYTES + 1) + b"\nc\n")
        assert got == [b"a", b"b", b"c"]


class TestTotalsReader:
    """TotalsReader: bpftrace's JSON lines."""

    def test_interval(self) -> None:
        """The line `bucket` completes an interval."""
        reader = TotalsReader()
        *counts, mark = printed().splitlines()
        assert [reader.read(line) for line in counts] == [None] * len(COUNTERS)
        assert reader.read(mark) == COUNTERS

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"Lost 5 events",
            b"[1]",
            b'{"data": 1}',
            b'{"type": "attached_probes", "data": {"probes": 16}}',
            b'{"type": "map", "data": 5}',
            b'{"type": "map", "data": {"@x": "many"}}',
            b'{"type": "printf", "data": "hello"}',
            b"\xff",
        ],
    )
    def test_other_lines(self, line: bytes) -> None:
        """Lines without a count are ignored."""
        reader = TotalsReader()
        assert reader.read(line) is None
        assert [total for counted in printed().splitlines() if (total := reader.read(counted))] == [COUNTERS]

    def test_difference(self) -> None:
        """A bucket is the difference of two totals. An absent total counts as 0; no count is negative."""
        difference = bucket_between({}, COUNTERS, 9.0, counting())
        assert difference == bucket(9.0, page_faults=2)
        assert bucket_between(COUNTERS, COUNTERS, 9.0, counting()).fs_read_size_kb == 0
        assert bucket_between(COUNTERS, {}, 9.0, counting()).page_faults == 0


class TestMachine:
    """Machine: whether eBPF can work here."""

    @pytest.mark.parametrize(
        ("euid", "missing", "obstacle"),
        [
            (0, "", None),
            (1000, "", "not root"),
            (0, "bpftrace", "no bpftrace on PATH"),
            (0, "setpriv", "no setpriv on PATH"),
        ],
    )
    def test_obstacle(self, euid: int, missing: str, obstacle: str | None) -> None:
        """The obstacle names the first missing thing."""
        assert Machine(euid=euid, which=lambda name: None if name == missing else name).obstacle() == obstacle


class TestEbpfSource:
    """EbpfSource: keeps bpftrace running."""

    def test_child(self, reactor: FakeReactor, machine: Machine) -> None:
        """The child is bpftrace with JSON output and the interval in ms; it is killed if this process dies."""
        started(reactor, machine)
        (child,) = reactor.children
        assert child.executable == "/usr/bin/setpriv"
        arguments = ["--pdeathsig", "KILL", "/usr/bin/bpftrace", "-f", "json", "-e", counting().program, "10000"]
        assert child.arguments == ["setpriv", *arguments]

    def test_buckets(self, reactor: FakeReactor, machine: Machine) -> None:
        """The first print is the baseline; each later print is a bucket with its time."""
        _, outcome = started(reactor, machine)
        reactor.children[0].say(printed(5))
        assert outcome.buckets == []
        reactor.advance(10)
        reactor.children[0].say(printed(6))
        assert outcome.buckets == [bucket(1_700_000_017.0, page_faults=2, source=TRACEPOINTS)]

    @pytest.mark.parametrize("euid", [0, 1000])
    def test_obstacle(self, reactor: FakeReactor, euid: int) -> None:
        """Without root or bpftrace, the source complains once and starts no child."""
        _, outcome = started(reactor, Machine(euid=euid, which=lambda _: None))
        assert outcome.complaints == ["not root" if euid else "no bpftrace on PATH"]
        assert reactor.children == []
        assert reactor.getDelayedCalls() == []

    def test_dies_in_vain(self, reactor: FakeReactor, machine: Machine) -> None:
        """If bpftrace ends at once, it is restarted after growing pauses; the source complains at the third time."""
        _, outcome = started(reactor, machine)
        for pause in (1, 2, 4, 8):
            child = reactor.children[-1]
            child.complain(b"ERROR: couldn't set RLIMIT_MEMLOCK for bpftrace\n")
            child.complain(b"p.bt:1: WARNING: x\nERROR: tracepoint not found: kmem:kmalloc\n~~~~\n")
            child.end(ProcessTerminated(1))
            assert len(outcome.complaints) == (1 if pause >= 4 else 0)
            count = len(reactor.children)
            reactor.advance(pause - 0.1)
            assert len(reactor.children) == count
            reactor.advance(0.1)
            assert len(reactor.children) == count + 1
        assert outcome.complaints == ["bpftrace said: ERROR: tracepoint not found: kmem:kmalloc"]

    def test_says_nothing(self, reactor: FakeReactor, machine: Machine) -> None:
        """If bpftrace wrote nothing, the reason is its exit status. The pauses have an upper bound."""
        _, outcome = started(reactor, machine)
        for _ in range(20):
            reactor.children[-1].end(ProcessTerminated(signal=9))
            reactor.advance(60)
        assert len(reactor.children) == 21
        (complaint,) = outcome.complaints
        assert complaint.startswith("bpftrace ended: ")
        assert "signal 9" in complaint

    def test_dies_after_work(self, reactor: FakeReactor, machine: Machine) -> None:
        """If bpftrace has worked before it ends, it is restarted without a complaint, with a new baseline."""
        _, outcome = started(reactor, machine)
        for _ in range(10):
            reactor.children[-1].say(printed(1) + printed(2))
            reactor.children[-1].end(ProcessTerminated(signal=15))
            reactor.advance(1)
        reactor.children[-1].say(printed(1))
        assert outcome.complaints == []
        assert [b.page_faults for b in outcome.buckets] == [2] * 10

    def test_cannot_be_started(self, reactor: FakeReactor, machine: Machine) -> None:
        """A child that cannot be started counts as a child that ended."""
        reactor.broken = OSError("no more processes")
        _, outcome = started(reactor, machine)
        reactor.pump([1, 1, 1, 1])
        assert outcome.complaints == ["cannot start bpftrace: no more processes"]

    def test_no_first_count(self, reactor: FakeReactor, machine: Machine) -> None:
        """If bpftrace counts nothing within 20 s, it is killed and restarted, and the source complains."""
        _, outcome = started(reactor, machine)
        reactor.advance(20)
        (child,) = reactor.children
        assert child.signals == ["KILL"]
        assert outcome.complaints == ["no counts from bpftrace within 20 s"]
        child.end(ProcessTerminated(signal=9))
        reactor.advance(1)
        assert len(reactor.children) == 2

    def test_hangs_later(self, reactor: FakeReactor, machine: Machine) -> None:
        """If a print is 20 s late, bpftrace is killed, and the source complains."""
        _, outcome = started(reactor, machine)
        for times in range(10):
            reactor.children[0].say(printed(times))
            reactor.advance(10)
        reactor.advance(19)
        assert outcome.complaints == []
        reactor.advance(1)
        assert outcome.complaints == ["no counts from bpftrace within 30 s"]
        assert reactor.children[0].signals == ["KILL"]

    def test_mounts_tracefs(self, reactor: FakeReactor, machine: Machine, lines: list[str]) -> None:
        """If tracefs is missing, it is mounted before bpftrace starts."""
        shutil.rmtree(machine.tracefs / "events")
        started(reactor, machine)
        (mount,) = reactor.children
        assert mount.arguments[1:] == ["-t", "tracefs", "tracefs", str(machine.tracefs)]
        kernel_files(machine.tracefs, ALL_TRACEPOINTS)
        mount.end()
        reactor.pool.run()
        assert lines == [f"mounted tracefs at {machine.tracefs}"]
        assert reactor.children[1].executable == "/usr/bin/setpriv"

    def test_cannot_mount_tracefs(self, reactor: FakeReactor, machine: Machine, lines: list[str]) -> None:
        """If tracefs cannot be mounted, each attempt is logged; in the end the source complains."""
        shutil.rmtree(machine.tracefs / "events")
        _, outcome = started(reactor, machine)
        for mounts in (1, 2, 3):
            assert len(reactor.children) == mounts
            assert outcome.complaints == []
            reactor.children[-1].complain(b"mount: permission denied.\n")
            reactor.children[-1].end(ProcessTerminated(32))
            reactor.pool.run()
            reactor.advance(4)
        assert lines[0] == f"cannot mount tracefs at {machine.tracefs}: mount: permission denied."
        assert outcome.complaints == [f"no tracepoints in {machine.tracefs}"]

    def test_kprobes_that_do_not_work(self, reactor: FakeReactor, tmp_path: Path, lines: list[str]) -> None:
        """If the program at kernel functions ends without a count, the one at tracepoints is used from then on."""
        _, outcome = started(reactor, kernel_files(tmp_path, ALL_TRACEPOINTS, FUNCTIONS, "__state"))
        assert "kprobe:vfs_read" in reactor.children[0].arguments[-2]
        reactor.children[0].complain(b"ERROR: cannot attach kprobe, Operation not permitted\n")
        reactor.children[0].end(ProcessTerminated(1))
        reactor.advance(0)
        assert "kprobe" not in reactor.children[1].arguments[-2]
        reactor.children[1].say(printed(1) + printed(2))
        assert [one.source for one in outcome.buckets] == [TRACEPOINTS]
        assert outcome.complaints == []
        said = "bpftrace said: ERROR: cannot attach kprobe, Operation not permitted"
        assert lines == [f"counting with {TRACEPOINTS}, not {KPROBES}: {said}"]

    def test_kprobes_that_hang(self, reactor: FakeReactor, tmp_path: Path) -> None:
        """The same if the program at kernel functions counts nothing within 20 s."""
        _, outcome = started(reactor, kernel_files(tmp_path, ALL_TRACEPOINTS, FUNCTIONS, "__state"))
        reactor.advance(20)
        assert reactor.children[0].signals == ["KILL"]
        reactor.children[0].end(ProcessTerminated(signal=9))
        reactor.advance(0)
        assert "kprobe" not in reactor.children[1].arguments[-2]
        assert outcome.complaints == []

    def test_missing_tracepoints(self, reactor: FakeReactor, tmp_path: Path, lines: list[str]) -> None:
        """A family without its tracepoint is left out of the buckets, not reported as 0; the reason is logged once."""
        offered = [name for name in ALL_TRACEPOINTS if not name.startswith(("syscalls:", "kmem:"))]
        _, outcome = started(reactor, kernel_files(tmp_path, offered))
        reactor.children[0].say(printed(1) + printed(2) + printed(3))
        for got in outcome.buckets:
            assert got.page_faults == 2
            assert got.ctx_switches_forced == 4
            assert got.mem_bytes_allocated is None
            assert (got.fs_read_count, got.fs_read_size_kb) == (None, None)
            assert (got.fs_write_count, got.fs_write_size_kb) == (None, None)
        assert len(outcome.buckets) == 2
        why = "left out of the reports: the kernel has no tracepoint"
        assert lines == [
            f"mem_bytes_allocated {why} kmem:kmalloc",
            *(
                f"fs_{call}_count, fs_{call}_size_kb {why} syscalls:sys_exit_{call} (CONFIG_FTRACE_SYSCALLS)"
                for call in ("read", "write")
            ),
        ]

    def test_stop(self, reactor: FakeReactor, machine: Machine) -> None:
        """Stopping ends when bpftrace has ended; its last prints are not delivered."""
        source, outcome = started(reactor, machine)
        (child,) = reactor.children
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        assert (child.signals, ended) == (["TERM"], [])
        child.say(printed(1) + printed(2))
        child.end()
        assert ended == [None]
        assert outcome == Outcome()
        assert reactor.getDelayedCalls() == []

    def test_stop_lingering(self, reactor: FakeReactor, machine: Machine) -> None:
        """If bpftrace does not end within 5 s, it is killed."""
        source, _ = started(reactor, machine)
        source.stop()
        reactor.advance(5)
        assert reactor.children[0].signals == ["TERM", "KILL"]

    def test_stop_while_mounting(self, reactor: FakeReactor, machine: Machine) -> None:
        """If the source is stopped while it mounts tracefs, it starts no bpftrace."""
        shutil.rmtree(machine.tracefs / "events")
        source, outcome = started(reactor, machine)
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        reactor.children[0].end()
        reactor.pool.run()
        assert ended == [None]
        assert outcome == Outcome()
        assert len(reactor.children) == 1

    def test_stop_while_waiting(self, reactor: FakeReactor, machine: Machine) -> None:
        """If the source is stopped between two children, it starts no other child."""
        source, _ = started(reactor, machine)
        reactor.children[0].end(ProcessTerminated(1))
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        assert ended == [None]
        assert reactor.getDelayedCalls() == []
