"""The table across restarts: when it is written, and what is said of it."""

from __future__ import annotations

import io
import os
import time
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from orchestratord.nodes.departed import KEPT, DepartedNodes, Gone
from orchestratord.nodes.exposition import SampleRenderer
from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.snapshot_file import SnapshotFile
from orchestratord.nodes.snapshot_format import Moment
from orchestratord.nodes.snapshot_service import LAST_SECONDS, PAUSE_SECONDS, SnapshotService, in_own_thread
from orchestratord.nodes.store import NodeStore
from orchestratord.runtime.directory_lock import InUse
from tests.fakes import NOW, Metrics, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


class FakeFile(SnapshotFile):
    """A file in memory, which can be out of order in every way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.data: bytes | None = None
        self.aside: list[bytes | None] = []
        self.broken: Exception | None = None
        self.unnamed: OSError | None = None
        self.taken: OSError | None = None
        self.writes = 0
        self.parts: list[bytes] = []

    def acquire(self) -> None:
        """Do nothing, or fail."""
        if self.taken:
            raise self.taken

    def open(self) -> BinaryIO | None:
        """Return what was written last."""
        return None if self.data is None else io.BytesIO(self.data)

    def replace(self, parts: Iterable[bytes]) -> int:
        """Keep the parts, or fail half way."""
        self.parts = list(parts)
        data = b"".join(self.parts)
        if self.broken:
            raise self.broken
        self.writes += 1
        self.data = data
        return len(data)

    def set_aside(self) -> Path:
        """Keep it apart."""
        if self.unnamed:
            raise self.unnamed
        self.aside.append(self.data)
        self.data = None
        return self.path.with_name("snapshot.bad")


class Run:
    """One run of a daemon, as far as its table and its file go."""

    def __init__(self, file: SnapshotFile, *, every: float = 10, began: float = 1000.0, max_nodes: int = 100) -> None:
        self.clock = Clock()
        self.began = began
        self.metrics = Metrics()
        self.nodes = NodeStore(stale_after=60, max_nodes=max_nodes)
        self.departed = DepartedNodes(self.nodes, self)
        self.in_thread: Callable[[Callable[[], int]], Deferred[int]] = maybeDeferred
        self.service = SnapshotService(
            self.clock,
            self.nodes,
            file,
            self.metrics.telemetry,
            self.now,
            families=BUILT_IN,
            render=SampleRenderer(BUILT_IN),
            every=every,
            in_thread=lambda work: self.in_thread(work),  # noqa: PLW0108 - a test may change it
            departed=self.departed,
        )

    def monotonic(self) -> float:
        """Return the time by which nodes age."""
        return self.now().monotonic

    def time(self) -> float:
        """Return the Unix time."""
        return self.now().unix

    def now(self) -> Moment:
        """Return the time by both clocks."""
        monotonic = self.began + self.clock.seconds()
        return Moment(NOW + monotonic, monotonic, "boot")

    def started(self) -> Run:
        """Load and start."""
        self.service.load()
        self.service.startService()
        return self

    def report(self, *names: str) -> None:
        """Report these nodes."""
        self.nodes.update([report(name) for name in names], self.now().monotonic)

    def ages(self) -> dict[str, float]:
        """Return how long ago each node was seen."""
        now = self.now().monotonic
        return {entry.report.node_id: now - entry.seen for entry in self.nodes.snapshot(now)}

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass as a reactor would."""
        self.clock.pump([1.0] * seconds)

    def failures(self) -> float | None:
        """Return the count of failures."""
        return self.metrics.value("orchestrator_snapshot_failures_total")


@pytest.fixture
def file(tmp_path: Path) -> FakeFile:
    """A file in memory."""
    return FakeFile(tmp_path)


def said(logs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the log as it is read."""
    return [str(formatEvent(event)) for event in logs]


def test_it_is_written_every_so_often_if_it_has_changed(file: FakeFile) -> None:
    """And counted: when, how long, how large."""
    run = Run(file).started()
    run.pass_seconds(30)
    assert file.writes == 0
    assert run.metrics.value("orchestrator_snapshot_last_success_timestamp_seconds") is None
    run.report("a")
    run.pass_seconds(9)
    assert file.writes == 0
    run.pass_seconds(1)
    assert file.writes == 1
    run.pass_seconds(30)
    assert file.writes == 1
    run.report("a")
    run.pass_seconds(10)
    assert file.writes == 2
    assert run.metrics.value("orchestrator_snapshot_last_success_timestamp_seconds") == run.now().unix
    assert run.metrics.value("orchestrator_snapshot_bytes") == len(file.data or b"")
    assert (run.metrics.value("orchestrator_snapshot_duration_seconds") or 0) > 0
    assert run.failures() == 0


def test_a_stop_writes_the_last_reports(file: FakeFile) -> None:
    """So that the next run has all of them, with their own ages; then nothing is written any more."""
    run = Run(file).started()
    run.report("a")
    run.pass_seconds(15)
    run.report("b")
    assert run.service.stopService().called
    assert file.writes == 2
    run.report("c")
    run.pass_seconds(30)
    assert file.writes == 2
    with capturedLogs() as logs:
        after = Run(file, began=1020).started()
    assert after.ages() == {"a": 20, "b": 5}
    assert said(logs) == [f"restored 2 nodes from {file.path}; 0 were stale"]


def test_a_killed_run_leaves_its_last_snapshot(file: FakeFile) -> None:
    """What came later reports again; what has become stale meanwhile is not back."""
    run = Run(file).started()
    run.report("old")
    run.pass_seconds(5)
    run.report("new")
    run.pass_seconds(5)
    run.report("lost")
    with capturedLogs() as logs:
        after = Run(file, began=1062).started()
    assert after.ages() == {"new": 57}
    assert said(logs) == [f"restored 1 nodes from {file.path}; 1 were stale"]


def test_more_nodes_than_there_is_room_for(file: FakeFile) -> None:
    """The longest silent are left out."""
    run = Run(file).started()
    for name in "abc":
        run.report(name)
        run.pass_seconds(1)
    run.service.stopService()
    assert Run(file, began=1005, max_nodes=2).started().ages().keys() == {"b", "c"}


def test_a_forgotten_node_is_soon_forgotten_on_the_disk(file: FakeFile) -> None:
    """Within two seconds, not at the next turn; a disk that is full meanwhile is not tried every second."""
    run = Run(file).started()
    run.report("a", "b")
    run.pass_seconds(10)
    run.nodes.forget("a", run.now().monotonic)
    run.pass_seconds(2)
    assert Run(file, began=1012).started().ages().keys() == {"b"}
    run.nodes.forget("b", run.now().monotonic)
    file.broken = OSError(28, "No space left on device")
    run.pass_seconds(8)
    assert run.failures() == 1
    run.pass_seconds(20)
    assert run.failures() == 3


def test_a_disk_that_fails_is_said_once_and_tried_again(file: FakeFile) -> None:
    """Each failure counts; the old snapshot stays; the end of it is said too."""
    run = Run(file).started()
    run.report("a")
    run.pass_seconds(10)
    before = file.data
    file.broken = OSError(28, "No space left on device")
    run.report("b")
    with capturedLogs() as logs:
        run.pass_seconds(20)
        assert file.data == before
        assert run.failures() == 2
        file.broken = OSError(13, "Permission denied")
        run.pass_seconds(10)
        file.broken = None
        run.pass_seconds(10)
    assert said(logs) == [
        f"the table is not kept across restarts: {file.path}: No space left on device; trying again every 10 s",
        f"the table is not kept across restarts: {file.path}: Permission denied; trying again every 10 s",
        f"the table is kept across restarts again, in {file.path}",
    ]
    assert Run(file, began=1065).started().ages() == {"b": 55}


def test_an_error_of_ours_does_not_end_it(file: FakeFile) -> None:
    """It is logged once, with its traceback, and the next snapshot is made."""
    run = Run(file).started()
    run.report("a")
    file.broken = RuntimeError("boom")
    with capturedLogs() as logs:
        run.pass_seconds(30)
    assert run.failures() == 3
    first, second = logs
    assert "RuntimeError: boom" in first["log_failure"].getTraceback()
    assert second["reason"] == "boom"
    file.broken = None
    run.pass_seconds(10)
    assert file.writes == 1


def test_no_thread_to_be_had(file: FakeFile) -> None:
    """It is one more way in which a snapshot fails: the next is tried, and the end comes."""

    def refuse(_: Callable[[], int]) -> Deferred[int]:
        raise RuntimeError("can't start new thread")

    run = Run(file).started()
    run.in_thread = refuse
    run.report("a")
    with capturedLogs():
        run.pass_seconds(20)
        assert run.failures() == 2
        assert run.service.stopService().called
    assert run.failures() == 3


def test_a_directory_in_use(file: FakeFile) -> None:
    """Nothing is taken from it or written to it, which is said once, until it is free."""
    earlier = Run(file).started()
    earlier.report("a")
    earlier.service.stopService()
    reason = "the directory is in use by process 7"
    file.taken = InUse(reason)
    with capturedLogs() as logs:
        run = Run(file).started()
        assert run.ages() == {}
        run.report("b")
        run.pass_seconds(20)
        assert file.writes == 1
        file.taken = None
        run.pass_seconds(10)
    assert file.writes == 2
    assert said(logs) == [
        f"the table is not kept across restarts: {file.path}: {reason}; trying again every 10 s",
        f"the table is kept across restarts again, in {file.path}",
    ]


@pytest.mark.parametrize(
    "data", [b"", b"something else", b"orchestratord snapshot 1\n", b"orchestratord snapshot 99\n"]
)
def test_a_bad_file_is_set_aside(file: FakeFile, data: bytes) -> None:
    """With one line that says why, and an empty table."""
    file.data = data
    with capturedLogs() as logs:
        run = Run(file).started()
    (line,) = said(logs)
    assert line.startswith(f"{file.path} is not restored: it is ")
    assert line.endswith(f"; it is now {file.path}.bad")
    assert run.ages() == {}
    assert file.aside == [data]
    file.data, file.unnamed = data, OSError(30, "Read-only file system")
    with capturedLogs() as logs:
        Run(file).started()
    assert said(logs)[0].endswith("; and cannot be renamed: Read-only file system")


def test_a_disk_that_hangs_does_not_hold_up_the_end(file: FakeFile) -> None:
    """Not for longer than a few seconds, whether it hangs in this snapshot or in the one before."""
    for hangs_before in (False, True):
        run = Run(file).started()
        run.in_thread = lambda _: Deferred()
        run.report("a")
        if hangs_before:
            run.pass_seconds(30)
        with capturedLogs() as logs:
            stopped = run.service.stopService()
            run.clock.advance(LAST_SECONDS - 0.1)
            assert not stopped.called
            run.clock.advance(0.2)
        assert stopped.called
        assert said(logs) == ["the last snapshot takes longer than 5 s; the old one stays"]


def test_a_stop_waits_for_the_snapshot_under_way(file: FakeFile) -> None:
    """And writes what has come since; an answer that comes after all patience is not minded."""
    run = Run(file).started()
    work: list[tuple[Callable[[], int], Deferred[int]]] = []

    def later(given: Callable[[], int]) -> Deferred[int]:
        work.append((given, Deferred()))
        return work[-1][1]

    def finish() -> None:
        given, result = work.pop()
        result.callback(given())

    run.in_thread = later
    run.report("a")
    run.pass_seconds(10)
    run.report("b")
    stopped = run.service.stopService()
    finish()
    assert not stopped.called
    finish()
    assert stopped.called
    assert run.clock.getDelayedCalls() == []
    assert Run(file, began=1010).started().ages().keys() == {"a", "b"}
    other = Run(file).started()
    other.in_thread = later
    other.report("c")
    stopped = other.service.stopService()
    other.clock.advance(LAST_SECONDS)
    assert stopped.called
    finish()


@pytest_twisted.ensureDeferred
async def test_on_a_real_disk_the_reactor_thread_does_nothing_of_it(tmp_path: Path) -> None:
    """The table is copied, encoded and written in a thread of its own, and a restart finds it."""
    threads = set()

    class Reloaded(SnapshotFile):
        """Remembers who writes."""

        def replace(self, parts: Iterable[bytes]) -> int:
            """Remember, and write."""
            threads.add(current_thread())
            return super().replace(parts)

    run = Run(Reloaded(tmp_path))
    run.in_thread = lambda work: in_own_thread(reactor, work)
    run.started()
    run.report(*(f"n{index}" for index in range(99)))
    with capturedLogs() as logs:
        second = Run(SnapshotFile(tmp_path)).started()
    assert f"in use by process {os.getpid()};" in said(logs)[0]
    second.in_thread = lambda work: in_own_thread(reactor, work)
    second.report("x")
    await second.service.stopService()
    assert second.failures() == 2
    await run.service.stopService()
    assert len(threads) == 1
    assert main_thread() not in threads
    assert len(Run(SnapshotFile(tmp_path)).started().ages()) == 99


def test_the_interpreter_is_held_for_few_nodes_at_a_time(file: FakeFile) -> None:
    """A part of a snapshot is the work of 250 nodes, and after each the reactor has its turn."""
    run = Run(file)
    run.nodes.max_nodes = 5000
    run.started()
    run.report(*(f"n{index}" for index in range(5000)))
    began = time.perf_counter()
    run.pass_seconds(10)
    assert len(file.parts) == 1 + 20 + 2
    assert time.perf_counter() - began >= 20 * PAUSE_SECONDS


def test_stale_nodes_are_known_as_gone(tmp_path: Path) -> None:
    """Those that went silent while nobody was there, for an hour after it; a fleet that is back was heard of, too."""
    file = FakeFile(tmp_path)
    first = Run(file).started()
    assert not first.departed.missing().heard
    first.report("a")
    first.clock.advance(30)
    first.report("b")
    first.service.stopService()
    first.clock.advance(0)
    second = Run(file, began=1070.0).started()
    assert list(second.ages()) == ["b"]
    assert second.departed.missing() == ([Gone("a", 1000.0, 1060.0, "stale")], 0, True)
    third = Run(file, began=1030.0 + 60 + KEPT).started()
    assert third.departed.missing() == ([], 0, False)
    fourth = Run(file, began=1030.0).started()
    assert fourth.departed.missing() == ([], 0, True)
