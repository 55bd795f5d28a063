"""Values from files that are read again when the files change: certificates, keys, tokens.

Kubernetes replaces the files of a Secret while the daemon runs. If the new ones are wrong, the last good value stays in
use. The files are small, and are read on the reactor thread.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.application.service import MultiService, Service
from twisted.logger import Logger

from orchestratord.runtime.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

log = Logger()

T = TypeVar("T")

#: Seconds between two looks of a FileReloader, and the least between two looks when a value is read. The second is
#: smaller, so that no look of the FileReloader is skipped because it comes a moment too early.
LOOK_EVERY = 1.0
LOOK_SECONDS = 0.875
#: Bytes of the largest file that is read.
MAX_FILE_BYTES = 1_048_576


class WrongFile(ValueError):
    """The content of a file is wrong. `option` is the option that named it; `reason` follows the file's name."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option} {reason}")
        self.option = option
        self.reason = reason


class FilesError(Exception):
    """The files cannot be used. The text is one line with the option, the file, and what is wrong."""


class Reloaded(Generic[T]):
    """A value that is read from some files together, and again when one of them has changed.

    `files` are the paths, by the option that named each. Links are followed at each look, since Kubernetes replaces
    links. `parse` turns the files' bytes, by option, into the value; it raises WrongFile, whose reason must not quote
    the files. `seconds` is a monotonic clock; there is at most one look in LOOK_SECONDS. `changed` is called with each
    value that was read, also the first.

    The constructor raises FilesError if the files are wrong or missing. Later, such files leave the last value in use;
    each change of them is one line in the log. Belongs to the reactor thread.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        files: Mapping[str, Path],
        parse: Callable[[Mapping[str, bytes]], T],
        *,
        changed: Callable[[T], object] = lambda _: None,
    ) -> None:
        self._seconds = seconds
        self._files = {option: path.absolute() for option, path in files.items()}
        self._parse = parse
        self._changed = changed
        self._looked = seconds()
        self._seen = self._signatures()
        self._value = self._read()
        changed(self._value)

    def value(self) -> T:
        """Return the value, after a look at the files if the last one is LOOK_SECONDS ago."""
        if self._seconds() - self._looked >= LOOK_SECONDS:
            self.look()
        return self._value

    def look(self) -> None:
        """Look at the files now, and read them if one has changed."""
        self._looked = self._seconds()
        seen = self._signatures()
        if seen != self._seen:
            self._seen = seen
            self._read_again()

    def _read_again(self) -> None:
        try:
            self._value = self._read()
        except FilesError as error:
            log.warn("{error}; what was read before stays in use", error=str(error))
            return
        log.info("read again: {files}", files=", ".join(str(path) for path in self._files.values()))
        self._changed(self._value)

    def _signatures(self) -> list[tuple[int, ...] | None]:
        """Return a value for each file that changes when it is written, replaced, or given other permissions."""
        return [_signature(path) for path in self._files.values()]

    def _read(self) -> T:
        contents = {}
        for option, path in self._files.items():
            try:
                contents[option] = _content(path)
            except OSError as error:
                raise FilesError(f"{option}: {str(path)!r} cannot be read: {error.strerror}") from None
            except ValueError as error:
                raise FilesError(f"{option}: {str(path)!r} {error}") from None
        try:
            return self._parse(contents)
        except WrongFile as error:
            raise FilesError(f"{error.option}: {str(self._files[error.option])!r} {error.reason}") from None
        except Exception as error:  # noqa: BLE001 - no file may stop the daemon, whatever the parser raises
            raise FilesError(f"{', '.join(self._files)}: cannot be used ({type(error).__name__})") from None


class ReloadedFile(Reloaded[T]):
    """A Reloaded value of one file. `parse` reads its bytes, and raises ValueError, whose text must not quote them.

    `option` is the option that named the file.
    """

    def __init__(self, seconds: Callable[[], float], option: str, path: Path, parse: Callable[[bytes], T]) -> None:
        def of_bytes(contents: Mapping[str, bytes]) -> T:
            try:
                return parse(contents[option])
            except ValueError as error:
                raise WrongFile(option, str(error)) from None

        self.path = path
        super().__init__(seconds, {option: path}, of_bytes)


class FileReloader(Service):
    """While it runs, looks at files once a second, and calls the function beside a file when its value has changed."""

    def __init__(self, reactor: Any, files: Iterable[tuple[Reloaded[Any], Callable[[], object]]]) -> None:
        self._files = tuple(files)
        #: The value of each file for which its function was last called.
        self._used = [file.value() for file, _ in self._files]
        self._looking = Periodic(reactor, LOOK_EVERY, self._look, name="the look at the files")

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        if self._files:
            self._looking.start()

    def look(self) -> None:
        """Look at all files now."""
        for file, _ in self._files:
            file.look()
        self._look()

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        self._looking.stop()

    def _look(self) -> None:
        for number, (file, changed) in enumerate(self._files):
            try:
                value = file.value()
                if value != self._used[number]:
                    changed()
                    self._used[number] = value
            except Exception:  # noqa: BLE001 - one file must not keep the others from being used
                log.failure("what has changed in a file could not be put to use; it is tried again")


def look_again(services: MultiService) -> None:
    """Let every FileReloader below `services` look at its files now."""
    for service in services:
        if isinstance(service, FileReloader):
            service.look()
        elif isinstance(service, MultiService):
            look_again(service)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: Path) -> bytes:
    # Non-blocking, since opening a named pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
    return content
