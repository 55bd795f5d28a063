"""A directory that one process at a time may use."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class InUse(OSError):
    """Another process uses the directory."""


class DirectoryLock:
    """The file `lock` in a directory, which need not be there yet. One thread at a time may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory, and keep other processes from using it until this one ends; raise InUse if one does.

        May block for as long as the disk does, and raise OSError.
        """
        if self._lock is not None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            raise InUse(f"the directory is in use by process {holder or 'unknown'}") from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        with suppress(OSError):  # it is for readers only, and the disk may be full
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let other processes use the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
