"""The directory of a spool: its segments, and how far they have been accepted. By one process at a time."""

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

#: What says nothing of the file, only of us at this moment.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Files with greater numbers are none of ours.
_MAX_NUMBER = 1 << 48
_NAME = re.compile(r"([0-9a-f]{16})(\.bad)?", re.ASCII)
_POSITION = struct.Struct("<8sQQI")
_POSITION_MAGIC = b"spooled\n"


class Checkpoint(NamedTuple):
    """A place in the spool; of two, the greater comes later."""

    segment: int
    offset: int


class FoundSegment(NamedTuple):
    """A segment that lies in the directory; its frames begin at `begin`."""

    number: int
    size: int
    names: tuple[str, ...]
    begin: int


class FoundLog(NamedTuple):
    """What lies in the directory: segments in order, how many more are lost, and a number above all that were used."""

    segments: list[FoundSegment]
    lost: int
    free: int


class LogDirectory:
    """Segments `<number>` and the file `position` in a directory, which need not be there yet.

    Every method may block for as long as the disk does, and raise OSError. `create`, `open` and `note` may be called
    while another thread calls the others, which are for one thread at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = DirectoryLock(directory)
        self._position: int | None = None

    def acquire(self) -> None:
        """Make the directory and keep other processes from using it; raise InUse if one does."""
        self._lock.acquire()
        if self._position is None:
            self._position = os.open(self.directory / "position", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def release(self) -> None:
        """Let other processes use the directory."""
        if self._position is not None:
            os.close(self._position)
            self._position = None
        self._lock.release()

    def find(self) -> FoundLog:
        """Look at all that is there; what cannot be read is set aside as `<number>.bad`, and counted as lost.

        So is a number that is missing between two that are there.
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
        """Return what was noted last; None if nothing was, or it is damaged."""
        if self._position is None:
            return None
        data = os.pread(self._position, _POSITION.size, 0)
        if len(data) != _POSITION.size:
            return None
        magic, segment, offset, checksum = _POSITION.unpack(data)
        if magic != _POSITION_MAGIC or crc32(data[:-4]) != checksum or segment >= _MAX_NUMBER:
            return None
        return Checkpoint(segment, offset)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Note that all before a position has been accepted; nothing is done where the directory is not ours."""
        if self._position is not None:
            data = _POSITION.pack(_POSITION_MAGIC, *checkpoint, 0)[:-4]
            os.pwrite(self._position, data + crc32(data).to_bytes(4, "little"), 0)

    def create(self, number: int) -> int:
        """Make an empty segment, and return its descriptor."""
        return os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, number: int) -> int:
        """Open a segment to be read."""
        return os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def rename(self, number: int, new: int) -> None:
        """Give a segment another number."""
        self._path(number).rename(self._path(new))

    def remove(self, number: int) -> None:
        """Remove a segment, if it is there."""
        self._path(number).unlink(missing_ok=True)

    def sync(self, *, names: bool) -> None:
        """Bring the position to the disk, and the names of the segments, if `names`."""
        if self._position is not None:
            os.fdatasync(self._position)
        if names:
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def probe(self) -> None:
        """Raise OSError if there is no room for a frame, or it would not come to the disk."""
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
        """Return a segment, or set it aside and return None."""
        try:
            file = self.open(number)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise BadSegment("it is no file")
                names, begin = read_head(os.pread(file, MAX_HEAD, 0))
                if number >= _MAX_NUMBER:
                    raise BadSegment("no segment has such a number")
            finally:
                os.close(file)
        except (BadSegment, OSError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
            path = self.directory / name
            with suppress(OSError):  # it stays where it is, then, and is in nobody's way
                path.rename(path.with_name(name + ".bad"))
            return None
        return FoundSegment(number, status.st_size, names, begin)
