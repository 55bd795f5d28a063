"""Where rows wait for the store: on disk, across restarts; in memory as long as the disk refuses.

The rows are in segments, one after the other. A segment is a file or, in memory, the bytes that the file would have; so
its frames are read alike, and it is written down as it is when the disk is back.

Who may do what: `_lock` guards all that is in memory, and is held by the reactor thread for a write or a read of the
page cache at most. `_disk` is held by the one thread that opens, syncs or closes. Only that thread closes descriptors,
so none is closed while it is synced, and it takes them from their segment under `_lock`, so none is closed while it is
read. Only the last segment is written to. One that has left the list is touched by that thread alone.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING

from orchestratord.remote_write.wal.directory import PASSING, Checkpoint, LogDirectory
from orchestratord.remote_write.wal.frames import FRAME_BYTES, Content, frames, head, resume, scan
from orchestratord.remote_write.wal.segments import Batch, Segment, Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: In the class itself the name is that of its size.
_Bytes = bytes

__all__ = ["Batch", "Checkpoint", "WriteAheadLog"]

#: Bytes that are read at a time: so many for each row asked for, within these bounds.
_ROW_BYTES = 128
_LEAST_READ = 4096
_MOST_READ = 1 << 20


class WriteAheadLog:
    """Takes rows, and gives them back in their order until they are released; `names` are those of their values.

    It has at most `max_bytes`, of which `held_bytes` in memory; above that the oldest segments are dropped. On the disk
    those dropped since the last `sync` are still there. `now` returns the Unix time. The disk may refuse whatever it
    likes: nothing here raises OSError.

    `append`, `read` and `release` are for the reactor thread; `open`, `sync` and `close` block for as long as the disk
    does. What is no method may be read by any thread.
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
        #: Whether the directory is ours, and its segments are in the list.
        self._entered = self._closed = False
        #: There are files whose names are not synced.
        self._new_names = False
        self._oldest: tuple[Checkpoint, int, float] | None = None
        #: The first position that is not released: where reading begins after a restart.
        self.start = Checkpoint(0, 0)
        #: How often the disk has refused.
        self.failures = 0
        #: Rows or frames lost to damage.
        self.unreadable = 0
        #: Why the disk refuses now; None when it does not.
        self.problem: str | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that are not released and are in memory, since the disk refuses or has refused."""
        with self._lock:
            return self._segments.waiting()[1]

    @property
    def overflowed(self) -> int:
        """Rows dropped for want of room; those of a segment that had been read in part are counted at the next sync."""
        return self._segments.dropped

    @property
    def oldest(self) -> float | None:
        """The Unix time at which the oldest row that is not released was spooled; None if there is none."""
        with self._lock:
            released, dropped = self._segments.released, self._segments.dropped
            if self._oldest is None or self._oldest[:2] != (released, dropped):
                batch = self._read(released, 1)
                if batch is None:
                    return None
                self._oldest = (released, dropped, batch.written)
            return self._oldest[2]

    def open(self) -> None:
        """Take the directory, and find what the last run has left. Comes before everything else."""
        with self._disk:
            try:
                self._enter(late=False)
            except OSError as error:
                with self._lock:
                    self._failed(error)
            self.start = self._segments.released

    def append(self, rows: Sequence[_Bytes]) -> None:
        """Take the rows of one turn, as RowFormat has them; when this returns, the kernel or memory has them all."""
        if not rows:
            return
        with self._lock:
            self._write_in_pieces(frames(rows, round(self._now() * 1000), self._frame_bytes))
            self._segments.bound()

    def read(self, start: Checkpoint, most: int) -> Batch | None:
        """Return about `most` rows from `start` on, whole frames and at least one; None if there is nothing (yet).

        Where `start` has been dropped, the first that are there are returned.
        """
        with self._lock:
            return self._read(start, most)

    def release(self, end: Checkpoint) -> None:
        """Give up all before `end`: it has been accepted."""
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
        """Bring to the disk what is new, remove what has gone, and try again what the disk has refused."""
        with self._disk:
            if not self._closed:
                self._sync()

    def close(self) -> None:
        """Sync, and leave the directory to others. What the disk has not taken by now is lost when the process ends."""
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
        """Bytes that are not released, on disk and in memory; 0 when there is no row. The files may be larger."""
        with self._lock:
            return self._segments.waiting()[0]

    # What follows is called with `_lock` held.

    def _write_in_pieces(self, made: list[tuple[_Bytes, int]]) -> None:
        """Write frames, as many at a time as a segment has room for."""
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
        """Return how large a segment may become, unless one frame is larger."""
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
                # What the kernel has taken is cut off at the next sync, and nobody reads it until then.
                segment.torn = True
                self._failed(error)
                self._segments.seal()
                segment = self._begin()
                written = self._head + data
        if segment.held is not None:
            segment.held += written
        self._segments.grow(segment, len(written), rows)

    def _begin(self) -> Segment:
        """Return a new segment to be written to: a file if the disk does not refuse."""
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

    def _read(self, start: Checkpoint, most: int) -> Batch | None:
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

    def _read_segment(self, segment: Segment, offset: int, most: int) -> Batch | None:
        """Return what is behind an offset, or behind the damage there; None if that is nothing. Raises OSError."""
        if segment.held is None and segment.descriptor < 0:
            segment.descriptor = self._files.open(segment.number)
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
            self.unreadable += 1

    # What follows is called with `_disk` held, and without `_lock`.

    def _sync(self) -> None:
        self._sweep()
        if self.problem is not None:
            self._retry()
        self._flush()

    def _enter(self, *, late: bool) -> None:
        """Take the directory and what is in it. Raises OSError.

        `late` is when rows may have come and gone without it: what is in it gets new numbers, so that it is read behind
        them. They are given under the lock, so that no reader has gone past them before it could see them.
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
                    self._files.rename(number, segment.number)  # if it fails, all are found anew
                adopted.append(segment)
            segments.adopt(adopted)
            self.unreadable += found.lost
            self._entered = self._new_names = True
            segments.bound()

    def _retry(self) -> None:
        """See whether the disk takes again what it has refused: there must be room for a frame, and for all in memory.

        As long as it does not, rows go on being held, so that it is not asked at each turn.
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
        """Make a segment in memory, which nobody writes to any more, a file. Raises OSError."""
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
        """Remove the files of the segments that have gone, and count what was lost with them."""
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
        """Bring to the disk what is new, and close what is not needed."""
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
                # Nobody reads from it any more, nor will before it is opened anew.
                segment.close()
