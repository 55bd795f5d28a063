"""The source that has bpftrace count, with children that only pretend to be bpftrace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from twisted.internet.error import ProcessTerminated

from orchestratord.profiler.counts import MAX_LINE_BYTES, Lines, TotalsReader, bucket_between
from orchestratord.profiler.ebpf import PROGRAM, EbpfSource, Machine
from tests.profiler.fakes import FakeReactor, Outcome, bucket

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
    """Return a machine on which eBPF works."""
    (tmp_path / "events").mkdir()
    return Machine(euid=0, which=lambda name: f"/usr/bin/{name}", tracefs=tmp_path, debugfs=tmp_path / "debug")


def started(reactor: FakeReactor, machine: Machine) -> tuple[EbpfSource, Outcome]:
    """Start a source with an interval of 10 s, and a wall clock that is 7 s ahead of the reactor's."""
    source, outcome = EbpfSource(reactor, 10.0, machine, lambda: reactor.seconds() + 7), Outcome()
    source.start(outcome.buckets.append, outcome.complaints.append)
    return source, outcome


class TestLines:
    """Lines: a stream of bytes, cut into lines."""

    def test_cut_anywhere(self) -> None:
        """The lines are the same wherever the stream is cut."""
        lines = Lines()
        got = [line for byte in b"ab\n\ncd\nef" for line in lines.feed(bytes([byte]))]
        assert got == [b"ab", b"", b"cd"]

    def test_too_long(self) -> None:
        """A line over the limit is passed over without being held; the ones around it are whole."""
        lines = Lines()
        got = lines.feed(b"a\n" + b"x" * (MAX_LINE_BYTES + 1))
        for _ in range(100):
            got += lines.feed(b"x" * 10_000)
        got += lines.feed(b"x\nb\n" + b"y" * (MAX_LINE_BYTES + 1) + b"\nc\n")
        assert got == [b"a", b"b", b"c"]


class TestTotalsReader:
    """TotalsReader: bpftrace's JSON lines."""

    def test_interval(self) -> None:
        """An interval is complete at its mark."""
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
        """What is no count is passed over."""
        reader = TotalsReader()
        assert reader.read(line) is None
        assert [total for counted in printed().splitlines() if (total := reader.read(counted))] == [COUNTERS]

    def test_difference(self) -> None:
        """A bucket is the difference of two totals, of what is absent from 0, and never negative."""
        difference = bucket_between({}, COUNTERS, 9.0)
        assert difference == bucket(9.0, page_faults=2)
        assert bucket_between(COUNTERS, COUNTERS, 9.0).fs_read_size_kb == 0
        assert bucket_between(COUNTERS, {}, 9.0).page_faults == 0


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
        """The obstacle is the first thing that is missing."""
        assert Machine(euid=euid, which=lambda name: None if name == missing else name).obstacle() == obstacle

    def test_program(self) -> None:
        """Every map that the program prints is one that the reader knows, and the mark is the reader's."""
        program = PROGRAM.read_text()
        assert {name for name in COUNTERS if program.count(f"print(@{name});") == 1} == set(COUNTERS)
        assert program.count("print(@") == len(COUNTERS)
        assert program.count('printf("bucket\\n");') == 1


class TestEbpfSource:
    """EbpfSource: a bpftrace that is kept running."""

    def test_child(self, reactor: FakeReactor, machine: Machine) -> None:
        """The child is bpftrace with the interval in ms, JSON output, and its life bound to ours."""
        started(reactor, machine)
        (child,) = reactor.children
        assert child.executable == "/usr/bin/setpriv"
        arguments = ["--pdeathsig", "KILL", "/usr/bin/bpftrace", "-f", "json", str(PROGRAM), "10000"]
        assert child.arguments == ["setpriv", *arguments]

    def test_buckets(self, reactor: FakeReactor, machine: Machine) -> None:
        """The first print is where the counting begins; each one after it is a bucket, with its time."""
        _, outcome = started(reactor, machine)
        reactor.children[0].say(printed(5))
        assert outcome.buckets == []
        reactor.advance(10)
        reactor.children[0].say(printed(6))
        assert outcome.buckets == [bucket(1_700_000_017.0, page_faults=2)]

    @pytest.mark.parametrize("euid", [0, 1000])
    def test_obstacle(self, reactor: FakeReactor, euid: int) -> None:
        """Without root or bpftrace there is one complaint and no child."""
        _, outcome = started(reactor, Machine(euid=euid, which=lambda _: None))
        assert outcome.complaints == ["not root" if euid else "no bpftrace on PATH"]
        assert reactor.children == []
        assert reactor.getDelayedCalls() == []

    def test_dies_in_vain(self, reactor: FakeReactor, machine: Machine) -> None:
        """A bpftrace that ends at once is started again, later each time; its third end is a complaint."""
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
        """The reason for a silent end is how it ended; a pause has a bound."""
        _, outcome = started(reactor, machine)
        for _ in range(20):
            reactor.children[-1].end(ProcessTerminated(signal=9))
            reactor.advance(60)
        assert len(reactor.children) == 21
        (complaint,) = outcome.complaints
        assert complaint.startswith("bpftrace ended: ")
        assert "signal 9" in complaint

    def test_dies_after_work(self, reactor: FakeReactor, machine: Machine) -> None:
        """A bpftrace that has worked and ends is started again without a complaint; its counts begin anew."""
        _, outcome = started(reactor, machine)
        for _ in range(10):
            reactor.children[-1].say(printed(1) + printed(2))
            reactor.children[-1].end(ProcessTerminated(signal=15))
            reactor.advance(1)
        reactor.children[-1].say(printed(1))
        assert outcome.complaints == []
        assert [b.page_faults for b in outcome.buckets] == [2] * 10

    def test_cannot_be_started(self, reactor: FakeReactor, machine: Machine) -> None:
        """A child that cannot be started counts as one that ended."""
        reactor.broken = OSError("no more processes")
        _, outcome = started(reactor, machine)
        reactor.pump([1, 1, 1, 1])
        assert outcome.complaints == ["cannot start bpftrace: no more processes"]

    def test_no_first_count(self, reactor: FakeReactor, machine: Machine) -> None:
        """A bpftrace that counts nothing within 20 s is killed, complained of, and started again."""
        _, outcome = started(reactor, machine)
        reactor.advance(20)
        (child,) = reactor.children
        assert child.signals == ["KILL"]
        assert outcome.complaints == ["no counts from bpftrace within 20 s"]
        child.end(ProcessTerminated(signal=9))
        reactor.advance(1)
        assert len(reactor.children) == 2

    def test_hangs_later(self, reactor: FakeReactor, machine: Machine) -> None:
        """A bpftrace that counted and then is 20 s late is killed and complained of."""
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
        """Where tracefs is missing it is mounted before bpftrace starts."""
        (machine.tracefs / "events").rmdir()
        started(reactor, machine)
        (mount,) = reactor.children
        assert mount.arguments[1:] == ["-t", "tracefs", "tracefs", str(machine.tracefs)]
        mount.end()
        assert lines == [f"mounted tracefs at {machine.tracefs}"]
        assert reactor.children[1].executable == "/usr/bin/setpriv"

    def test_cannot_mount_tracefs(self, reactor: FakeReactor, machine: Machine, lines: list[str]) -> None:
        """Where tracefs cannot be mounted the log says so, and bpftrace may try its luck."""
        (machine.tracefs / "events").rmdir()
        started(reactor, machine)
        reactor.children[0].complain(b"mount: permission denied.\n")
        reactor.children[0].end(ProcessTerminated(32))
        assert lines == [f"cannot mount tracefs at {machine.tracefs}: mount: permission denied."]
        assert len(reactor.children) == 2

    def test_stop(self, reactor: FakeReactor, machine: Machine) -> None:
        """The end is when bpftrace has ended; what it still prints is not delivered."""
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
        """A bpftrace that does not end within 5 s is killed."""
        source, _ = started(reactor, machine)
        source.stop()
        reactor.advance(5)
        assert reactor.children[0].signals == ["TERM", "KILL"]

    def test_stop_while_mounting(self, reactor: FakeReactor, machine: Machine) -> None:
        """A source that is stopped while tracefs is mounted starts no bpftrace."""
        (machine.tracefs / "events").rmdir()
        source, outcome = started(reactor, machine)
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        reactor.children[0].end()
        assert ended == [None]
        assert outcome == Outcome()
        assert len(reactor.children) == 1

    def test_stop_while_waiting(self, reactor: FakeReactor, machine: Machine) -> None:
        """A source that is stopped between two children starts no other."""
        source, _ = started(reactor, machine)
        reactor.children[0].end(ProcessTerminated(1))
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        assert ended == [None]
        assert reactor.getDelayedCalls() == []
