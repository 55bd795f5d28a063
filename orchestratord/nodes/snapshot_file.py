"""The snapshot file: it is replaced as a whole or not at all, by one process at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from orchestratord.runtime.directory_lock import DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class SnapshotFile:
    """The file `snapshot` in a directory, which may not exist yet.

    Every method may block for as long as the disk does, and raise OSError. One thread at a time may use it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "snapshot"
        self._lock = DirectoryLock(directory)

    def acquire(self) -> None:
        """Make and lock the directory; raise InUse if another process has locked it."""
        self._lock.acquire()

    def release(self) -> None:
        """Unlock the directory."""
        self._lock.release()

    def open(self) -> BinaryIO | None:
        """Open the snapshot for reading; return None if there is none."""
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return None

    def replace(self, parts: Iterable[bytes]) -> int:
        """Replace the snapshot by one of these parts, and return its size in bytes.

        On return the new snapshot is on the disk. If this raises, or the process or the machine stops meanwhile, the
        old snapshot is unchanged.
        """
        new = self.path.with_name("snapshot.new")
        size = 0
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                for part in parts:
                    size += file.write(part)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return size

    def set_aside(self) -> Path:
        """Rename the snapshot to `snapshot.bad` for an operator, replacing an earlier one; return the path."""
        aside = self.path.with_name("snapshot.bad")
        self.path.replace(aside)
        return aside
