"""The segments of a write-ahead log in order: their sizes, and which of them are removed. No lock of its own."""

from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.remote_write.wal.directory import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestratord.remote_write.sample_row import SampleRow
    from orchestratord.remote_write.wal.frames import Content

_number = attrgetter("number")


class Batch(NamedTuple):
    """Rows in the order in which they were written.

    `written` is the Unix time at which the oldest row was written, `end` the place of the next batch.
    """

    rows: list[SampleRow]
    written: float
    end: Checkpoint


class Segment:
    """A part of the log. Its frames lie from byte `begin` to byte `size`; `size` is 0 until something is written.

    It is a file, which has a descriptor while it is written, synced or read, or it is `held` in memory. `rows` is its
    number of rows, None if unknown. `dirty`: it is not synced. `torn`: part of a frame may lie after its end.
    """

    __slots__ = ("begin", "content", "damaged", "descriptor", "dirty", "held", "number", "rows", "size", "torn")

    def __init__(self, number: int, begin: int, size: int, content: Content, rows: int | None) -> None:
        self.number = number
        self.begin = begin
        self.size = size
        self.content = content
        self.rows = rows
        self.descriptor = -1
        self.held: bytearray | None = None
        self.dirty = self.torn = False
        #: The offsets of damage that was found, so that each is counted once.
        self.damaged: set[int] = set()

    def part(self, offset: int, most: int) -> bytes:
        """Return up to `most` bytes from an offset on. Raises OSError."""
        end = min(offset + most, self.size)
        if self.held is not None:
            return bytes(self.held[offset:end])
        return os.pread(self.descriptor, end - offset, offset)

    def write(self, data: bytes | bytearray) -> None:
        """Write all of the data to the file, in several calls if necessary. Raises OSError."""
        written = os.write(self.descriptor, data)
        while written < len(data):
            written += os.write(self.descriptor, memoryview(data)[written:])

    def sync(self) -> None:
        """Sync the file, and cut off a torn end first. Raises OSError."""
        if self.torn:
            os.ftruncate(self.descriptor, self.size)
        os.fdatasync(self.descriptor)

    def close(self) -> None:
        """Close the file, if it is open."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


class Segments:
    """All segments, in the order of their numbers; only the last one, `current`, is written to. It may be None.

    They have `bytes` bytes, `held_bytes` of them in memory. A removed segment is put into `gone`, with the offset from
    which its rows have to be counted as dropped, or None if they are counted or released.
    """

    def __init__(self, max_bytes: int, max_held: int) -> None:
        self._max_bytes = max_bytes
        self._max_held = max_held
        self._all: list[Segment] = []
        self.current: Segment | None = None
        self.reading: Segment | None = None
        self.next = 1
        self.released = Checkpoint(0, 0)
        self.gone: list[tuple[Segment, int | None]] = []
        self.bytes = 0
        self.held_bytes = 0
        #: Rows that were dropped and counted.
        self.dropped = 0

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._all)

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._all

    def after(self, number: int) -> Iterator[Segment]:
        """Return the segments from a number on."""
        for index in range(bisect_left(self._all, number, key=_number), len(self._all)):
            yield self._all[index]

    def held(self) -> Segment | None:
        """Return the oldest segment that is in memory, or None."""
        return next((segment for segment in self._all if segment.held is not None), None)

    def begin(self, segment: Segment) -> None:
        """Add a new segment at the end, and write to it from now on."""
        self.next = segment.number + 1
        self._all.append(segment)
        self.current = segment

    def adopt(self, segments: Sequence[Segment]) -> None:
        """Add complete segments in the order of their numbers."""
        self._all += segments
        self._all.sort(key=_number)
        for segment in segments:
            self.next = max(self.next, segment.number + 1)
            self.bytes += segment.size

    def grow(self, segment: Segment, size: int, rows: int) -> None:
        """Count bytes and rows that were written to the current segment."""
        segment.size += size
        segment.rows = (segment.rows or 0) + rows
        self.bytes += size
        if segment.held is not None:
            self.held_bytes += size

    def written_down(self, segment: Segment) -> None:
        """Count a segment as a file that was in memory before."""
        segment.held = None
        if segment in self._all:
            self.held_bytes -= segment.size

    def seal(self) -> None:
        """End the current segment: nothing is written to it any more."""
        segment, self.current = self.current, None
        if segment is None:
            return
        if not segment.size:
            self.next = segment.number
            self._remove(segment)
        elif self._is_released(segment):
            self._remove(segment)

    def release(self, end: Checkpoint) -> None:
        """Remove the segments that lie before a checkpoint, and remember the checkpoint."""
        self.released = end
        while self._all and self._is_released(self._all[0]):
            self._remove(self._all[0])

    def waiting(self) -> tuple[int, int]:
        """Return the bytes that are not released, and how many of them are in memory; 0 if they hold no row."""
        if not self._all or Checkpoint(self._all[-1].number, self._all[-1].size) <= self.released:
            return 0, 0
        first = self._all[0]
        done = min(self.released.offset, first.size) if first.number == self.released.segment else 0
        return self.bytes - done, self.held_bytes - (0 if first.held is None else done)

    def bound(self) -> None:
        """Drop the oldest segments until the others fit; the current one stays."""
        while self.bytes > self._max_bytes and self._drop(self._all[0]):
            pass
        while self.held_bytes > self._max_held and (oldest := self.held()) is not None and self._drop(oldest):
            pass

    def _is_released(self, segment: Segment) -> bool:
        return segment is not self.current and Checkpoint(segment.number, segment.size) <= self.released

    def _drop(self, segment: Segment) -> bool:
        if segment is self.current:
            return False
        begun = segment.number == self.released.segment and self.released.offset > segment.begin
        if segment.rows is None or begun:
            self._remove(segment, self.released.offset if begun else segment.begin)
        else:
            self.dropped += segment.rows
            self._remove(segment)
        return True

    def _remove(self, segment: Segment, count_from: int | None = None) -> None:
        self._all.remove(segment)
        self.bytes -= segment.size
        if segment.held is not None:
            self.held_bytes -= segment.size
        if segment is self.reading:
            self.reading = None
        self.gone.append((segment, count_from))
