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
    """Locks a directory, which may not exist yet, by the file `lock` in it. One thread at a time may use this."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory and lock it until `release` or the end of the process; raise InUse if it is locked.

        May block as long as the disk does; raises OSError.
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
        with suppress(OSError):  # the process id is only for people, and the disk may be full
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
