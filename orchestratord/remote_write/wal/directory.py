"""The directory of a write-ahead log: its segment files and its checkpoint. One process at a time uses it."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from orchestratord.remote_write.wal.frames import FRAME_BYTES, MAX_HEAD, BadSegment, read_head
from orchestratord.runtime.directory_lock import DirectoryLock

if TYPE_CHECKING:
    from pathlib import Path

#: Errors that say nothing about the file: this process has too many open files, or too little memory, at the moment.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Files with this number or a greater one are not ours.
_MAX_NUMBER = 1 << 48
_NAME = re.compile(r"([0-9a-f]{16})(\.bad)?", re.ASCII)
_CHECKPOINT = struct.Struct("<8sQQI")
_CHECKPOINT_MAGIC = b"spooled\n"


class Checkpoint(NamedTuple):
    """A place in the log: the number of a segment, and bytes from its beginning. A later place compares greater."""

    segment: int
    offset: int


class FoundSegment(NamedTuple):
    """A segment file in the directory; its frames begin at `begin`, and end at `size`, in bytes."""

    number: int
    size: int
    names: tuple[str, ...]
    begin: int


class FoundLog(NamedTuple):
    """The segments in the directory in order, how many others are lost, and a number above all used ones."""

    segments: list[FoundSegment]
    lost: int
    free: int


class LogDirectory:
    """Segments `<number>` and the file `position`, which holds the checkpoint. The directory may not exist yet.

    Every method may block for as long as the disk does, and raise OSError. `create`, `open` and `write_checkpoint` may
    be called while another thread calls the others, which are for one thread at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = DirectoryLock(directory)
        self._checkpoint: int | None = None

    def acquire(self) -> None:
        """Make and lock the directory; raise InUse if another process has locked it."""
        self._lock.acquire()
        if self._checkpoint is None:
            self._checkpoint = os.open(self.directory / "position", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def release(self) -> None:
        """Unlock the directory."""
        if self._checkpoint is not None:
            os.close(self._checkpoint)
            self._checkpoint = None
        self._lock.release()

    def find(self) -> FoundLog:
        """Return the segments that are there.

        A segment that cannot be read is renamed to `<number>.bad` and counted as lost. A number that is missing between
        two segments is counted as lost too.
        """
        segments: list[FoundSegment] = []
        lost = highest = 0
        for name in sorted(path.name for path in self.directory.iterdir()):
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            number = int(match[1], 16)
            if number < _MAX_NUMBER:
                highest = max(highest, number)
            if match[2]:
                continue
            segment = self._look(name, number)
            if segment is None:
                lost += 1
            else:
                lost += bool(segments) and segments[-1].number + 1 < number
                segments.append(segment)
        return FoundLog(segments, lost, highest + 1)

    def checkpoint(self) -> Checkpoint | None:
        """Return what `write_checkpoint` wrote last; None if there is nothing, or it is damaged."""
        if self._checkpoint is None:
            return None
        data = os.pread(self._checkpoint, _CHECKPOINT.size, 0)
        if len(data) != _CHECKPOINT.size:
            return None
        magic, segment, offset, checksum = _CHECKPOINT.unpack(data)
        if magic != _CHECKPOINT_MAGIC or crc32(data[:-4]) != checksum or segment >= _MAX_NUMBER:
            return None
        return Checkpoint(segment, offset)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write down that all rows before it are accepted; do nothing if the directory is not locked."""
        if self._checkpoint is not None:
            data = _CHECKPOINT.pack(_CHECKPOINT_MAGIC, *checkpoint, 0)[:-4]
            os.pwrite(self._checkpoint, data + crc32(data).to_bytes(4, "little"), 0)

    def create(self, number: int) -> int:
        """Create an empty segment file and return its descriptor."""
        return os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, number: int) -> int:
        """Open a segment file for reading and return its descriptor."""
        return os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def rename(self, number: int, new: int) -> None:
        """Give a segment another number."""
        self._path(number).rename(self._path(new))

    def remove(self, number: int) -> None:
        """Remove a segment file, if it is there."""
        self._path(number).unlink(missing_ok=True)

    def sync(self, *, names: bool) -> None:
        """Sync the checkpoint; if `names`, also the directory itself, where the names of new files are."""
        if self._checkpoint is not None:
            os.fdatasync(self._checkpoint)
        if names:
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def probe(self) -> None:
        """Raise OSError if the disk has no room for a frame, or cannot be synced."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "probe"
        probe = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(probe, 0, FRAME_BYTES)
            os.fdatasync(probe)
        finally:
            os.close(probe)
            with suppress(OSError):
                path.unlink()

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:016x}"

    def _look(self, name: str, number: int) -> FoundSegment | None:
        """Return a segment; if it cannot be read, rename it and return None."""
        try:
            file = self.open(number)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise BadSegment("it is not a regular file")
                names, begin = read_head(os.pread(file, MAX_HEAD, 0))
                if number >= _MAX_NUMBER:
                    raise BadSegment("its number is too large")
            finally:
                os.close(file)
        except (BadSegment, OSError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
            path = self.directory / name
            with suppress(OSError):  # then it keeps its name, which does no harm
                path.rename(path.with_name(name + ".bad"))
            return None
        return FoundSegment(number, status.st_size, names, begin)
