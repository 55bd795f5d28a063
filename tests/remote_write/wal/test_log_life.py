"""The life of a spool, as hypothesis makes it up."""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Event, Thread

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestratord.remote_write.wal.directory import Checkpoint
from tests.remote_write.wal.test_log import no_more_bytes, read, row, segments, spool


class Life(RuleBasedStateMachine):
    """A spool through appends, reads, releases, restarts, kills, torn tails and a disk that refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.spool = spool(Path(self.folder.name))
        self.appended = 0
        #: Ends of batches since the last release, and the number behind each.
        self.read: list[tuple[Checkpoint, int]] = []
        self.released = (self.spool.start, 0)

    @rule(count=st.integers(1, 60))
    def append(self, count: int) -> None:
        """Rows of one turn."""
        self.spool.append([row(self.appended + index) for index in range(count)])
        self.appended += count

    @rule(count=st.integers(1, 60), budget=st.integers(0, 3000))
    def append_on_a_full_disk(self, count: int, budget: int) -> None:
        """No file may become larger than `room`."""
        with no_more_bytes(budget):
            self.append(count)

    @rule(most=st.integers(1, 50))
    def read_on(self, most: int) -> None:
        """The next rows are the next."""
        at, number = self.read[-1] if self.read else self.released
        batch = self.spool.read(at, most)
        if batch is None:
            assert number == self.appended
        else:
            assert [row.timestamp for row in batch.rows] == list(range(number, number + len(batch.rows)))
            self.read.append((batch.end, number + len(batch.rows)))

    @precondition(lambda self: self.read)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Some of what was read."""
        index = data.draw(st.integers(0, len(self.read) - 1))
        self.released = self.read[index]
        self.read = self.read[index + 1 :]
        self.spool.release(self.released[0])

    @rule()
    def sync(self) -> None:
        """As every second."""
        self.spool.sync()

    @rule()
    def restart(self) -> None:
        """A clean end."""
        self.spool.close()
        assert self.spool.held_bytes == 0
        self.begin_anew()

    @precondition(lambda self: not self.spool.held_bytes)
    @rule(tail=st.binary(max_size=200))
    def killed(self, tail: bytes) -> None:
        """No end at all, in the middle of a write."""
        folder = Path(self.folder.name)
        copy = tempfile.TemporaryDirectory()
        for path in folder.iterdir():
            (Path(copy.name) / path.name).write_bytes(path.read_bytes())
        self.spool.close()
        self.folder.cleanup()
        self.folder = copy
        files = segments(Path(copy.name))
        if files and self.spool.start < Checkpoint(int(files[-1].name, 16), 0):
            files[-1].write_bytes(files[-1].read_bytes() + tail)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Read what is there from where the last run had come to."""
        self.spool = spool(Path(self.folder.name))
        self.read = []
        self.released = (self.spool.start, self.released[1])

    @invariant()
    def nothing_is_lost(self) -> None:
        """All that is not released is there, in order."""
        numbers, _ = read(self.spool, self.released[0])
        assert numbers == list(range(self.released[1], self.appended))
        assert self.spool.overflowed == 0
        assert (self.spool.oldest is None) == (not numbers)

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.spool.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=30)


def test_syncs_beside_the_reactor(tmp_path: Path) -> None:
    """A thread that syncs without a pause disturbs neither appends nor reads nor releases."""
    it = spool(tmp_path)
    ended = Event()

    def syncs() -> None:
        while not ended.is_set():
            it.sync()

    thread = Thread(target=syncs)
    thread.start()
    numbers: list[int] = []
    at = it.start
    try:
        for number in range(0, 6000, 3):
            it.append([row(number), row(number + 1), row(number + 2)])
            if number % 2:
                batch = it.read(at, 6)
                assert batch is not None
                numbers += [row.timestamp for row in batch.rows]
                at = batch.end
                it.release(at)
    finally:
        ended.set()
        thread.join()
    assert numbers + read(it, at)[0] == list(range(6000))
    assert it.failures == it.unreadable == it.overflowed == 0
    it.close()
