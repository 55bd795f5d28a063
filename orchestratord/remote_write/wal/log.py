"""The write-ahead log: rows wait here for the store, on disk across restarts, in memory while the disk fails.

The rows are in segments, one after the other. A segment is a file or, in memory, the bytes that the file would have. So
both are read in the same way, and a segment in memory is written to a file unchanged when the disk works again.

Threads: `_lock` guards everything in memory. The reactor thread holds it for a write to the page cache, or a read from
it, at most. One thread at a time opens, syncs or closes, and holds `_disk`. Only this thread closes descriptors, so
none is closed while it is synced. It takes a descriptor from its segment under `_lock`, so none is closed while it is
read. Only the last segment is written to. A segment that was removed from the list belongs to this thread alone.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING

from orchestratord.remote_write.wal.directory import Checkpoint, LogDirectory
from orchestratord.remote_write.wal.frames import FRAME_BYTES, Content, frames, head, scan
from orchestratord.remote_write.wal.reader import LogReader
from orchestratord.remote_write.wal.segments import Batch, Segment, Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: Inside the class `bytes` is the name of a property.
_Bytes = bytes


class WriteAheadLog:
    """Takes rows, and returns them in order until they are released; `names` are the names of a row's values.

    The log holds at most `max_bytes`, and at most `held_bytes` of them in memory; above either limit the oldest
    segments are dropped. The files of dropped segments stay on the disk until the next `sync`. `now` returns the Unix
    time. Nothing here raises OSError: see `problem`.

    `append`, `read` and `release` are for the reactor thread; `open`, `sync` and `close` block for as long as the disk
    does. Properties and attributes may be read by any thread.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str],
        *,
        max_bytes: int,
        now: Callable[[], float],
        segment_bytes: int = 8 << 20,
        held_bytes: int = 64 << 20,
    ) -> None:
        self.directory = directory
        self._files = LogDirectory(directory)
        self._names = tuple(names)
        self._head = head(self._names)
        self._content = Content(self._names, self._names)
        self._now = now
        max_held = min(held_bytes, max_bytes)
        self._segment_bytes = min(segment_bytes, max_bytes // 8)
        self._held_segment_bytes = min(self._segment_bytes, max_held // 8)
        self._frame_bytes = min(FRAME_BYTES, self._held_segment_bytes)
        self._lock, self._disk = Lock(), Lock()
        self._segments = Segments(max_bytes, max_held)
        self._reader = LogReader(self._segments, self._files, self._failed)
        #: `_entered`: this process has locked the directory, and its segments are in the list.
        self._entered = self._closed = False
        #: There are new files, and the directory is not synced.
        self._new_names = False
        #: The end of what is released: reading begins here after a restart.
        self.start = Checkpoint(0, 0)
        #: How often the disk has failed.
        self.failures = 0
        #: Segments that were missing or damaged when they were found.
        self._lost = 0
        #: Why the disk fails now; None if it works.
        self.problem: str | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that are not released and are only in memory, because the disk fails or has failed."""
        with self._lock:
            return self._segments.waiting()[1]

    @property
    def overflowed(self) -> int:
        """Rows dropped because the log was full; those of a partly read segment are counted at the next sync."""
        return self._segments.dropped

    @property
    def unreadable(self) -> int:
        """How many segments or frames were lost to damage."""
        return self._lost + self._reader.damages

    @property
    def oldest(self) -> float | None:
        """The Unix time at which the oldest row that is not released was written; None if there is no such row."""
        with self._lock:
            return self._reader.oldest()

    def open(self) -> None:
        """Lock the directory and find the rows of an earlier process. Comes before every other call."""
        with self._disk:
            try:
                self._enter(late=False)
            except OSError as error:
                with self._lock:
                    self._failed(error)
            self.start = self._segments.released

    def append(self, rows: Sequence[_Bytes]) -> None:
        """Write the rows of one turn, as SampleRowFormat packs them: into the page cache, or into memory."""
        if not rows:
            return
        with self._lock:
            self._write_in_pieces(frames(rows, round(self._now() * 1000), self._frame_bytes))
            self._segments.bound()

    def read(self, start: Checkpoint, most: int) -> Batch | None:
        """Return about `most` rows from `start` on, see `LogReader.read`; None if there are none yet."""
        with self._lock:
            return self._reader.read(start, most)

    def release(self, end: Checkpoint) -> None:
        """Remove the rows before `end`: the store has accepted them."""
        with self._lock:
            if end <= self._segments.released:
                return
            self._segments.release(end)
            if self._entered:
                try:
                    self._files.write_checkpoint(end)
                except OSError as error:
                    self._failed(error)

    def sync(self) -> None:
        """Sync what is new, remove the files of removed segments, and retry what has failed."""
        with self._disk:
            if not self._closed:
                self._sync()

    def close(self) -> None:
        """Sync, and unlock the directory. What is still only in memory is lost when the process ends."""
        with self._disk:
            if self._closed:
                return
            with self._lock:
                self._segments.seal()
            self._sync()
            with self._lock:
                self._closed, self._entered, self.problem = True, False, "the spool is closed"
                self._segments.seal()
                for segment in self._segments:
                    segment.close()
                self._files.release()

    @property
    def bytes(self) -> int:
        """Bytes that are not released, on disk and in memory; 0 if there is no row. The files may be larger."""
        with self._lock:
            return self._segments.waiting()[0]

    # The methods from here on are called with `_lock` held.

    def _write_in_pieces(self, made: list[tuple[_Bytes, int]]) -> None:
        """Write frames, as many at a time as fit into a segment."""
        parts: list[_Bytes] = []
        rows = size = 0
        for frame, count in made:
            current = self._segments.current
            if parts and (current.size if current else 0) + size + len(frame) > self._limit():
                self._write(b"".join(parts), rows)
                parts, rows, size = [], 0, 0
            parts.append(frame)
            rows += count
            size += len(frame)
        self._write(b"".join(parts), rows)

    def _limit(self) -> int:
        """Return the largest size of a segment in bytes; a segment of one frame may be larger."""
        return self._segment_bytes if self.problem is None else self._held_segment_bytes

    def _write(self, data: _Bytes, rows: int) -> None:
        segment = self._segments.current
        if segment is None or segment.size + len(data) > self._limit():
            self._segments.seal()
            segment = self._begin()
        written = data if segment.size else self._head + data
        if segment.held is None:
            segment.dirty = True
            try:
                segment.write(written)
            except OSError as error:
                # The next sync cuts off what was written in part; until then nothing reads it.
                segment.torn = True
                self._failed(error)
                self._segments.seal()
                segment = self._begin()
                written = self._head + data
        if segment.held is not None:
            segment.held += written
        self._segments.grow(segment, len(written), rows)

    def _begin(self) -> Segment:
        """Return a new segment to write to: a file if the disk works."""
        segment = Segment(self._segments.next, len(self._head), 0, self._content, 0)
        if self.problem is None:
            try:
                segment.descriptor = self._files.create(segment.number)
                self._new_names = True
            except OSError as error:
                self._failed(error)
        if segment.descriptor < 0:
            segment.held = bytearray()
        self._segments.begin(segment)
        return segment

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        self.problem = error.strerror or str(error)

    # The methods from here on are called with `_disk` held, and without `_lock`.

    def _sync(self) -> None:
        self._sweep()
        if self.problem is not None:
            self._retry()
        self._flush()

    def _enter(self, *, late: bool) -> None:
        """Lock the directory and list its segments. Raises OSError.

        `late`: rows may have been written and released before. Then the segments found get new numbers, so that they
        are read after those rows. The numbers are given under the lock, so that no reader is past them already.
        """
        self._files.acquire()
        found = self._files.find()
        checkpoint = self._files.checkpoint() or Checkpoint(0, 0)
        with self._lock:
            segments = self._segments
            segments.next = max(segments.next, found.free, checkpoint.segment + 1)
            if late:
                segments.seal()
            else:
                segments.released = checkpoint
            adopted: list[Segment] = []
            for number, size, names, begin in found.segments:
                content = self._content if names == self._names else Content(names, self._names)
                segment = Segment(number, begin, size, content, None)
                if Checkpoint(number, size) <= checkpoint:
                    segments.gone.append((segment, None))
                    continue
                if late:
                    segment.number, segments.next = segments.next, segments.next + 1
                    self._files.rename(number, segment.number)  # if this fails, the next try finds them all
                adopted.append(segment)
            segments.adopt(adopted)
            self._lost += found.lost
            self._entered = self._new_names = True
            segments.bound()

    def _retry(self) -> None:
        """Check whether the disk works again: there must be room for one frame, and for every segment in memory.

        Until it does, rows stay in memory, so that a failing disk is not tried in every turn.
        """
        try:
            if not self._entered:
                self._enter(late=True)
            self._files.probe()
            self._files.write_checkpoint(self._segments.released)
            while True:
                with self._lock:
                    self._segments.seal()
                    segment = self._segments.held()
                    if segment is None:
                        self.problem = None
                        return
                self._write_down(segment)
        except OSError as error:
            with self._lock:
                self._failed(error)

    def _write_down(self, segment: Segment) -> None:
        """Write a segment that is in memory, and complete, to a file. Raises OSError."""
        file = Segment(segment.number, segment.begin, segment.size, segment.content, None)
        file.descriptor = self._files.create(segment.number)
        try:
            file.write(segment.held or b"")
        except OSError:
            file.close()
            with suppress(OSError):
                self._files.remove(segment.number)
            raise
        with self._lock:
            segment.descriptor, segment.dirty = file.descriptor, True
            self._segments.written_down(segment)
            self._new_names = True

    def _sweep(self) -> None:
        """Remove the files of removed segments, and count the rows that were dropped with them."""
        with self._lock:
            gone, self._segments.gone = self._segments.gone, []
        for segment, offset in gone:
            with suppress(OSError):
                if offset is not None:
                    if segment.held is None and segment.descriptor < 0:
                        segment.descriptor = self._files.open(segment.number)
                    lost = scan(segment.part(offset, segment.size), segment.size).rows
                    with self._lock:
                        self._segments.dropped += lost
            segment.close()
            if segment.held is None:
                with suppress(OSError):
                    self._files.remove(segment.number)

    def _flush(self) -> None:
        """Sync what is new, and close the files that are not in use."""
        with self._lock:
            files = [segment for segment in self._segments if segment.descriptor >= 0]
            dirty = [segment for segment in files if segment.dirty]
            for segment in dirty:
                segment.dirty = False
            names, self._new_names = self._new_names, False
        refused: OSError | None = None
        for segment in dirty:
            try:
                segment.sync()
            except OSError as error:
                refused = error
                with self._lock:
                    segment.dirty = True
        if self._entered:
            try:
                self._files.sync(names=names)
            except OSError as error:
                refused = error
                with self._lock:
                    self._new_names |= names
        if refused is not None:
            with self._lock:
                self._failed(refused)
                self._segments.seal()
        for segment in files:
            with self._lock:
                if segment.dirty or segment in (self._segments.current, self._segments.reading):
                    continue
                # A reader opens the file again if it needs it.
                segment.close()
