"""The spool, on a real disk."""

from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestratord.nodes.families import BUILT_IN
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRow, SampleRowFormat, row_names
from orchestratord.remote_write.wal.directory import Checkpoint, LogDirectory
from orchestratord.remote_write.wal.frames import BadSegment, frames, head, read_head, resume
from orchestratord.remote_write.wal.log import WriteAheadLog
from orchestratord.runtime.directory_lock import InUse
from tests.fakes import NOW, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = row_names(BUILT_IN)
FORMAT = SampleRowFormat(NAMES)


def row(number: int) -> bytes:
    """Return the row of a report that bears a number."""
    return FORMAT.row(SampleRow(b"n%d" % number, number, b"\0" * 8 * len(NAMES)))


def spool(directory: Path, now: Callable[[], float] = lambda: NOW, **options: Any) -> WriteAheadLog:
    """Return a spool of small segments that is open."""
    made = WriteAheadLog(directory, NAMES, now=now, **{"max_bytes": 1 << 20, "segment_bytes": 2000, **options})
    made.open()
    return made


def read(spool: WriteAheadLog, start: Checkpoint | None = None, most: int = 7) -> tuple[list[int], Checkpoint]:
    """Return the numbers of all rows from a position on, and where they end."""
    at = spool.start if start is None else start
    found: list[int] = []
    while (batch := spool.read(at, most)) is not None:
        assert batch.rows
        assert batch.end > at
        found += [row.timestamp for row in batch.rows]
        at = batch.end
    return found, at


def problem(spool: WriteAheadLog) -> str | None:
    """Return why the disk refuses by now."""
    return spool.problem


def segments(directory: Path) -> list[Path]:
    """Return the files of the segments."""
    return sorted(path for path in directory.iterdir() if len(path.name) == 16)


@contextmanager
def no_more_bytes(limit: int) -> Iterator[None]:
    """Let no file of this process become larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_appended_is_read_at_once(tmp_path: Path) -> None:
    """In its order, however many rows come in a turn; with the time of the oldest of each batch; files are private."""
    clock = [NOW]
    it = spool(tmp_path, lambda: clock[0])
    assert it.read(it.start, 10) is None
    assert it.oldest is None
    it.append([])
    it.append([row(0)])
    clock[0] += 1.5
    it.append([row(number) for number in range(1, 100)])
    first = it.read(it.start, 1)
    assert first is not None
    assert (first.rows, first.written) == (FORMAT.rows(row(0)), NOW)
    second = it.read(first.end, 1)
    assert second is not None
    assert second.written == NOW + 1.5
    assert read(it)[0] == list(range(100))
    assert it.oldest == NOW
    it.release(first.end)
    assert it.oldest == NOW + 1.5
    assert len(segments(tmp_path)) > 3
    assert {path.stat().st_mode & 0o777 for path in segments(tmp_path)} == {0o600}
    it.sync()
    it.close()


def test_a_report_comes_back_as_it_went(tmp_path: Path) -> None:
    """Values, absent ones and stale markers are the same bytes."""
    it = spool(tmp_path)
    marker = FORMAT.row(SampleRow(b"gone", 7, STALE * len(NAMES)))
    sample = FORMAT.sample("n1", report("n1", page_faults=3).values, NOW - 1)
    it.append([sample, marker])
    batch = it.read(it.start, 10)
    assert batch is not None
    assert [FORMAT.row(row) for row in batch.rows] == [sample, marker]
    it.close()


def test_what_is_released_goes(tmp_path: Path) -> None:
    """Segment by segment, at the next sync; what was read and not released does not."""
    it = spool(tmp_path)
    it.append([row(number) for number in range(200)])
    before = segments(tmp_path)
    numbers: list[int] = []
    at = it.start
    while len(numbers) < 100:
        batch = it.read(at, 5)
        assert batch is not None
        numbers += [row.timestamp for row in batch.rows]
        at = batch.end
    it.release(at)
    it.sync()
    left = segments(tmp_path)
    assert 0 < len(left) < len(before)
    assert it.bytes == sum(path.stat().st_size for path in left)
    assert read(it, at)[0] == list(range(len(numbers), 200))
    it.release(read(it)[1])
    it.release(at)
    it.close()
    assert segments(tmp_path) == []
    assert it.bytes == 0


@pytest.mark.parametrize("disk", [True, False])
def test_what_waits_is_nothing_when_all_is_released(tmp_path: Path, *, disk: bool) -> None:
    """Though the segment that is written to stays, on the disk or in memory; what is left of it counts alone."""
    if not disk:
        (tmp_path / "file").touch()
    it = spool(tmp_path if disk else tmp_path / "file" / "spool", segment_bytes=100_000)
    assert (it.bytes, it.held_bytes) == (0, 0)
    for number in range(20):
        it.append([row(number)])
    whole = it.bytes
    assert it.held_bytes == (0 if disk else whole)
    batch = it.read(it.start, 10)
    assert batch is not None
    it.release(batch.end)
    assert 0 < it.bytes < whole * 0.6
    assert it.held_bytes == (0 if disk else it.bytes)
    it.release(read(it)[1])
    assert (it.bytes, it.held_bytes) == (0, 0)
    it.append([row(20)])
    assert 0 < it.bytes < 300
    assert it.held_bytes == (0 if disk else it.bytes)


def test_a_restart_goes_on_where_the_last_run_was(tmp_path: Path) -> None:
    """Whether that run was closed or killed; each run begins a segment of its own."""
    it = spool(tmp_path)
    it.append([row(number) for number in range(10)])
    it.append([row(number) for number in range(10, 20)])
    batch = it.read(it.start, 10)
    assert batch is not None
    it.release(batch.end)
    it.close()
    again = spool(tmp_path)
    assert again.start == batch.end
    assert again.oldest == NOW
    again.append([row(20)])
    assert read(again)[0] == list(range(10, 21))
    assert len(segments(tmp_path)) == 2
    again.close()


def test_a_position_that_is_lost_costs_nothing(tmp_path: Path) -> None:
    """What is still there is read from its beginning."""
    it = spool(tmp_path)
    it.append([row(1)])
    it.append([row(2)])
    batch = it.read(it.start, 1)
    assert batch is not None
    it.release(batch.end)
    it.close()
    for damaged in (b"", b"x" * 28, bytes(reversed((tmp_path / "position").read_bytes()))):
        (tmp_path / "position").write_bytes(damaged)
        again = spool(tmp_path)
        assert read(again)[0] == [1, 2]
        again.close()


def test_another_catalogue(tmp_path: Path) -> None:
    """Values stay with their names: one that is new is absent, one that is gone is left out."""
    old = WriteAheadLog(tmp_path, ("a", "b", "c"), max_bytes=1 << 20, now=lambda: NOW)
    old.open()
    old.append([SampleRowFormat("abc").row(SampleRow(b"n", 1, b"A" * 8 + b"B" * 8 + b"C" * 8))])
    old.close()
    new = WriteAheadLog(tmp_path, ("c", "new", "a"), max_bytes=1 << 20, now=lambda: NOW)
    new.open()
    new.append([SampleRowFormat("abc").row(SampleRow(b"m", 2, b"D" * 24))])
    batch = new.read(new.start, 10)
    assert batch is not None
    assert batch.rows == [SampleRow(b"n", 1, b"C" * 8 + ABSENT + b"A" * 8)]
    batch = new.read(batch.end, 10)
    assert batch is not None
    assert batch.rows == [SampleRow(b"m", 2, b"D" * 24)]
    new.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The second holds its rows in memory and says why, until it may write them down and read what the first left."""
    first = spool(tmp_path)
    first.append([row(number) for number in range(50)])
    second = spool(tmp_path)
    assert second.problem == f"the directory is in use by process {os.getpid()}"
    second.append([row(100)])
    assert second.held_bytes == second.bytes > 0
    numbers, at = read(second)
    assert numbers == [100]
    second.sync()
    assert second.failures == 2
    first.append([row(50)])
    first.close()
    second.append([row(101)])
    second.sync()
    assert second.held_bytes == 0
    assert problem(second) is None
    second.append([row(102)])
    assert sorted(read(second, at)[0]) == [*range(51), 101, 102]
    second.close()
    third = spool(tmp_path)
    assert sorted(read(third)[0]) == [*range(51), 100, 101, 102]
    third.close()


def test_torn_anywhere(tmp_path: Path) -> None:
    """Whole frames before the end are read, the torn one is counted, and the next segment follows."""
    whole = head(NAMES) + b"".join(frames([row(number)], 5)[0][0] for number in range(3))
    size = (len(whole) - len(head(NAMES))) // 3
    for end in range(0, len(whole), 7):
        directory = tmp_path / str(end)
        directory.mkdir()
        (directory / f"{1:016x}").write_bytes(whole[:end])
        (directory / f"{2:016x}").write_bytes(head(NAMES) + frames([row(9)], 5)[0][0])
        it = spool(directory)
        left = max(0, end - len(head(NAMES)))
        assert read(it)[0] == [*range(left // size), 9]
        assert it.unreadable == (end < len(head(NAMES)) or left % size > 0)
        read(it)
        assert it.unreadable <= 1
        it.close()


def test_damaged_anywhere(tmp_path: Path) -> None:
    """A flipped bit costs its frame, or its segment where it is in the head, and is counted once."""
    whole = head(NAMES) + b"".join(frames([row(number)], 5)[0][0] for number in range(3))
    size = (len(whole) - len(head(NAMES))) // 3
    for at in range(0, len(whole), 5):
        directory = tmp_path / str(at)
        directory.mkdir()
        (directory / f"{1:016x}").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        (directory / f"{2:016x}").write_bytes(head(NAMES) + frames([row(9)], 5)[0][0])
        it = spool(directory)
        numbers = {0, 1, 2} - {(at - len(head(NAMES))) // size} if at >= len(head(NAMES)) else set()
        assert read(it)[0] == [*sorted(numbers), 9]
        read(it)
        assert it.unreadable == 1
        assert (directory / f"{1:016x}.bad").exists() == (at < len(head(NAMES)))
        it.close()


def test_foreign_files(tmp_path: Path) -> None:
    """An empty one, a foreign one, one of a newer version, a folder, a link: set aside, counted, never removed."""
    newer = head(NAMES).replace(b"spool 1\n", b"spool 2\n")
    foreign = {3: b"", 5: b"#!/bin/sh\n", 7: newer, 2**63: head(NAMES)}
    for number in range(1, 10, 2):
        (tmp_path / f"{number + 1:016x}").write_bytes(head(NAMES) + frames([row(number + 1)], 5)[0][0])
    for number, data in foreign.items():
        (tmp_path / f"{number:016x}").write_bytes(data)
    (tmp_path / f"{1:016x}").mkdir()
    (tmp_path / f"{9:016x}").symlink_to(tmp_path / f"{2:016x}")
    (tmp_path / "notes").write_text("someone's")
    it = spool(tmp_path)
    assert read(it)[0] == [2, 4, 6, 8, 10]
    assert problem(it) is None
    assert it.unreadable >= 6
    it.release(read(it)[1])
    it.close()
    assert {number: (tmp_path / f"{number:016x}.bad").read_bytes() for number in foreign} == foreign
    assert (tmp_path / "notes").exists()
    again = spool(tmp_path)
    assert again.unreadable == 0
    again.close()


def test_a_segment_that_is_missing(tmp_path: Path) -> None:
    """Between two others it is counted, whether it was gone at the start or goes under our eyes; reading goes on."""
    it = spool(tmp_path)
    it.append([row(number) for number in range(100)])
    it.close()
    files = segments(tmp_path)
    files[1].unlink()
    again = spool(tmp_path)
    assert again.unreadable == 1
    files[3].unlink()
    numbers, _ = read(again)
    assert numbers == sorted(numbers)
    assert 0 < len(numbers) < 100
    assert (numbers[0], numbers[-1], again.unreadable) == (0, 99, 2)
    again.close()


def test_forged_rows(tmp_path: Path) -> None:
    """A frame whose checksum is right and whose rows are none is counted and passed over."""
    data = head(NAMES) + frames([b"no row"], 5)[0][0] + frames([row(1)], 5)[0][0]
    (tmp_path / f"{1:016x}").write_bytes(data)
    it = spool(tmp_path)
    assert read(it, most=1)[0] == [1]
    assert it.unreadable == 1
    it.close()
    for forged in (head(NAMES)[:-5], head([]).replace(b"[]", b"{}")):
        with pytest.raises(BadSegment):
            read_head(forged)


def test_a_disk_that_takes_half_of_it(tmp_path: Path) -> None:
    """What came before is read from the disk, the rest from memory, in one order; then it is written down, untorn."""
    it = spool(tmp_path, segment_bytes=100_000)
    it.append([row(number) for number in range(10)])
    with no_more_bytes(it.bytes + 50):
        it.append([row(number) for number in range(10, 20)])
        it.append([row(number) for number in range(20, 30)])
        assert it.problem == os.strerror(errno.EFBIG)
        assert (it.failures, it.held_bytes > 0) == (1, True)
        assert read(it)[0] == list(range(30))
        it.sync()
        assert it.failures >= 2
        it.append([row(30)])
        assert read(it)[0] == list(range(31))
    it.sync()
    assert it.held_bytes == 0
    assert problem(it) is None
    it.append([row(31)])
    assert read(it)[0] == list(range(32))
    assert it.unreadable == it.overflowed == 0
    it.close()
    again = spool(tmp_path)
    assert read(again)[0] == list(range(32))
    assert again.unreadable == 0
    again.close()


class Counted(bytes):
    """Bytes that know how many of them were looked at."""

    looked_at = 0

    def __getitem__(self, key: Any) -> Any:
        """Return a part."""
        found = super().__getitem__(key)
        self.looked_at += len(found) if isinstance(found, bytes) else 1
        return found


def test_values_that_look_like_frames_hold_up_no_reader() -> None:
    """Clients choose them; the reactor waits while the next frame is looked for behind a damage."""
    ((frame, _),) = frames([row(1)], 0)
    false = frame[:4] + b"none" + struct.pack("<IIq", 3_900_000, 1, 0)
    data = Counted(b"damage" + false * 300_000)
    assert resume(data) is None
    assert data.looked_at < 5_000_000
    assert resume(b"damage" + false * 500 + frame) == 6 + 500 * len(false)


class Unsyncable(LogDirectory):
    """A directory whose names do not come to the disk, until the test says so."""

    refuses = True
    synced: bool | None = None

    def sync(self, *, names: bool) -> None:
        """Refuse, or remember what was wanted."""
        if self.refuses:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.synced = names


def test_names_that_could_not_be_synced_are_synced_later(tmp_path: Path) -> None:
    """Without them a crash of the machine would take the files."""
    it = WriteAheadLog(tmp_path, NAMES, now=lambda: NOW, max_bytes=1 << 20)
    files = it._files = Unsyncable(tmp_path)
    it.open()
    it.append([row(1)])
    it.sync()
    assert it.problem == os.strerror(errno.EIO)
    files.refuses = False
    it.sync()
    assert files.synced is True
    it.sync()
    assert problem(it) is None
    assert files.synced is False
    assert read(it)[0] == [1]
    it.close()


def test_a_segment_that_could_not_be_synced_is_synced_later(tmp_path: Path) -> None:
    """And holds up no other: only what did not come to the disk is tried again."""
    it = spool(tmp_path, segment_bytes=200)
    it.append([row(1)])
    it.append([row(2)])
    first, second = it._segments
    pipe, end = os.pipe()
    os.close(end)
    file, first.descriptor = first.descriptor, pipe  # which cannot be synced
    it.sync()
    assert it.problem == os.strerror(errno.EINVAL)
    assert (first.dirty, second.dirty) == (True, False)
    first.close()
    first.descriptor = file
    it.sync()
    assert not first.dirty
    assert problem(it) is None
    assert read(it)[0] == [1, 2]
    it.close()


def test_no_descriptor_left(tmp_path: Path) -> None:
    """Rows are held, and what lies on the disk is read later rather than given up."""
    it = spool(tmp_path)
    it.append([row(number) for number in range(100)])
    it.sync()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
    try:
        it.append([row(number) for number in range(100, 150)])
        assert it.problem == os.strerror(errno.EMFILE)
        assert it.read(it.start, 1) is None
        it.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    it.sync()
    assert problem(it) is None
    assert read(it)[0] == list(range(150))
    assert it.unreadable == 0
    it.close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Rows are held until it can."""
    (tmp_path / "data").write_text("a file")
    it = spool(tmp_path / "data" / "spool")
    assert it.problem == os.strerror(errno.ENOTDIR)
    it.append([row(1)])
    assert read(it)[0] == [1]
    it.sync()
    (tmp_path / "data").unlink()
    it.sync()
    assert problem(it) is None
    it.close()
    again = spool(tmp_path / "data" / "spool")
    assert read(again)[0] == [1]
    again.close()


class Renamed(LogDirectory):
    """A directory that another process has at first, and whose disk refuses the second rename."""

    in_use = True
    renames = 0

    def acquire(self) -> None:
        """Refuse as long as the test says."""
        if self.in_use:
            raise InUse("the directory is in use")
        super().acquire()

    def rename(self, number: int, new: int) -> None:
        """Refuse once."""
        self.renames += 1
        if self.renames == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().rename(number, new)


def test_a_spool_that_is_taken_late_by_halves(tmp_path: Path) -> None:
    """What an earlier process has left is read once, although the disk refuses in the middle of taking it over."""
    before = spool(tmp_path, segment_bytes=300)
    for number in range(5):
        before.append([row(number)])
    before.close()
    it = WriteAheadLog(tmp_path, NAMES, now=lambda: NOW, max_bytes=1 << 20)
    files = it._files = Renamed(tmp_path)
    it.open()
    it.append([row(9)])
    files.in_use = False
    it.sync()
    assert it.problem == os.strerror(errno.EIO)
    it.sync()
    assert problem(it) is None
    assert sorted(read(it)[0]) == [0, 1, 2, 3, 4, 9]
    assert it.unreadable == 0
    it.sync()
    assert it.bytes == sum(path.stat().st_size for path in segments(tmp_path))
    it.close()


def test_memory_has_a_bound(tmp_path: Path) -> None:
    """The oldest rows are dropped and counted; those that stay are in order."""
    first = spool(tmp_path)
    it = spool(tmp_path, held_bytes=10_000)
    for number in range(1000):
        it.append([row(number)])
        assert it.held_bytes <= 10_000
    numbers, _ = read(it)
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert it.overflowed == 1000 - len(numbers) > 0
    it.close()
    first.close()


def test_the_disk_has_a_bound(tmp_path: Path) -> None:
    """The oldest segments are dropped, those of the last run too; every row that was not released is counted."""
    it = spool(tmp_path)
    it.append([row(number) for number in range(100)])
    it.close()
    it = spool(tmp_path, max_bytes=16_000)
    batch = it.read(it.start, 3)
    assert batch is not None
    it.release(batch.end)
    for number in range(100, 1000):
        it.append([row(number)])
        assert it.bytes <= 16_000
    numbers, _ = read(it, batch.end)
    assert numbers == list(range(1000 - len(numbers), 1000))
    it.sync()
    assert it.overflowed == 1000 - len(numbers) - len(batch.rows)
    assert sum(path.stat().st_size for path in segments(tmp_path)) == it.bytes
    it.append([row(number) for number in range(1000, 3000)])
    assert it.bytes <= 16_000
    assert read(it)[0][-1] == 2999
    it.close()


def test_few_descriptors(tmp_path: Path) -> None:
    """However many segments there are, only those written to and read from stay open."""
    it = spool(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    it.append([row(number) for number in range(1000)])
    read(it)
    it.sync()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    it.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < before


CHILD = """
import sys, time
from pathlib import Path
from tests.remote_write.wal.test_log import row, spool
it = spool(Path(sys.argv[1]), segment_bytes=50_000)
number = 0
while True:
    it.append([row(number + index) for index in range(3)])
    number += 3
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_killed(tmp_path: Path) -> None:
    """A process that is killed with SIGKILL while it appends loses nothing that it said it had appended."""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) > 6000:
                break
        child.kill()
        said = int((child.stdout.read().split() or [line])[-1])
    it = spool(tmp_path)
    numbers, _ = read(it, most=1000)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= said
    it.close()
