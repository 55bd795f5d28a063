"""Rows out of the segments of a write-ahead log, past what is damaged. No lock of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from orchestratord.remote_write.wal.directory import PASSING, Checkpoint
from orchestratord.remote_write.wal.frames import resume, scan
from orchestratord.remote_write.wal.segments import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestratord.remote_write.wal.directory import LogDirectory
    from orchestratord.remote_write.wal.segments import Segment, Segments

#: Bytes that are read at a time: so many for each row asked for, within these bounds.
_ROW_BYTES = 128
_LEAST_READ = 4096
_MOST_READ = 1 << 20


class LogReader:
    """Reads `segments`, whose files lie in `directory`; `failed` is told when this process cannot read at the moment.

    `damages` is how many damaged places were found. Each is counted once.
    """

    def __init__(self, segments: Segments, directory: LogDirectory, failed: Callable[[OSError], None]) -> None:
        self._segments = segments
        self._directory = directory
        self._failed = failed
        self.damages = 0
        #: What `oldest` returned last, and for which state of the segments: released, dropped.
        self._oldest: tuple[Checkpoint, int, float] | None = None

    def read(self, start: Checkpoint, most: int) -> Batch | None:
        """Return about `most` rows from `start` on, whole frames and at least one; None if there are none, or none yet.

        Where the segment of `start` was dropped, reading begins at the first segment after it.
        """
        for segment in self._segments.after(start.segment):
            offset = max(segment.begin, start.offset) if segment.number == start.segment else segment.begin
            if offset < segment.size:
                try:
                    batch = self._read_segment(segment, offset, most)
                except OSError as error:
                    if error.errno in PASSING:
                        self._failed(error)
                        return None
                    self._damaged(segment, offset)
                    continue
                if batch is not None:
                    return batch
        return None

    def oldest(self) -> float | None:
        """Return the Unix time at which the oldest row that is not released was written; None if there is none."""
        released, dropped = self._segments.released, self._segments.dropped
        if self._oldest is None or self._oldest[:2] != (released, dropped):
            batch = self.read(released, 1)
            if batch is None:
                return None
            self._oldest = (released, dropped, batch.written)
        return self._oldest[2]

    def _read_segment(self, segment: Segment, offset: int, most: int) -> Batch | None:
        """Return the rows behind an offset, or behind the damage there; None if there are none. Raises OSError."""
        if segment.held is None and segment.descriptor < 0:
            segment.descriptor = self._directory.open(segment.number)
        self._segments.reading = segment
        wanted = min(max(most * _ROW_BYTES, _LEAST_READ), _MOST_READ)
        while offset < segment.size:
            found = scan(segment.part(offset, wanted), most)
            if not found.size and wanted < found.missing <= segment.size - offset:
                wanted = found.missing
                continue
            if found.size:
                end = Checkpoint(segment.number, offset + found.size)
                with suppress(ValueError):
                    return Batch(segment.content.rows(found.payload), found.written / 1000, end)
            self._damaged(segment, offset)
            skipped = found.size or resume(segment.part(offset, segment.size - offset))
            if skipped is None:
                break
            offset += skipped
        return None

    def _damaged(self, segment: Segment, offset: int) -> None:
        if offset not in segment.damaged:
            segment.damaged.add(offset)
            self.damages += 1
