"""Files whose content may change while we run, such as Secrets that Kubernetes swaps: the last good content is kept."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = Logger()

T = TypeVar("T")

#: Bytes of a file; what is read here is small.
MAX_FILE = 262_144
#: Seconds between two looks.
LOOK_EVERY = 1.0


class FileError(Exception):
    """A file cannot be used; one line that names the option, the path and the reason, nothing of what is in it."""


class WatchedFile(Generic[T]):
    """What a file holds, as `parse` reads it; `parse` raises ValueError, whose text must tell nothing of the content.

    `option` is how the user named the file. The first reading raises FileError. Reads on the thread it is called on,
    which for so small a file may be the reactor's.
    """

    def __init__(self, option: str, path: Path, parse: Callable[[bytes], T]) -> None:
        self._option = option
        self.path = path
        self._parse = parse
        self._complaint = ""
        self._seen = self._signature()
        self.value = self._read()

    def look(self) -> bool:
        """Read the file again if it is another one than before; return whether what it holds has changed.

        One that cannot be used is one warning in the log, and what was held before stays.
        """
        try:
            seen = self._signature()
            if seen == self._seen and not self._complaint:
                return False
            value = self._read()
        except FileError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warn("{complaint}; what it held before goes on", complaint=self._complaint)
            return False
        self._seen = seen
        self._complaint = ""
        changed = value != self.value
        if changed:
            self.value = value
            log.info("{option}: {path} has changed and was read again", option=self._option, path=str(self.path))
        return changed

    def _signature(self) -> tuple[int, ...]:
        """Return what tells one state of the file from another; symbolic links are followed."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise self._error("is no regular file")
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> T:
        try:
            # Whatever it has become since the look at it, opening it does not wait.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from None
        if len(data) > MAX_FILE:
            raise self._error(f"is longer than {MAX_FILE} bytes")
        try:
            return self._parse(data)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _error(self, reason: str) -> FileError:
        return FileError(f"{self._option}: {str(self.path)!r} {reason}")


class FileWatch(Service):
    """Looks at files once a second while it runs, and calls what goes with one that has changed."""

    def __init__(self, reactor: Any, files: Iterable[tuple[WatchedFile[Any], Callable[[], None]]]) -> None:
        self._files = tuple(files)
        #: Those that have changed, but what goes with them has failed and is tried again.
        self._pending: set[int] = set()
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Look from now on."""
        super().startService()
        if self._files:
            self._loop.start(LOOK_EVERY)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        for number, (file, changed) in enumerate(self._files):
            try:
                if file.look() or number in self._pending:
                    self._pending.add(number)
                    changed()
                    self._pending.discard(number)
            except Exception:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
                log.failure("what has changed in {path} could not be put to use", path=str(file.path))
