"""What files say, read again when they change: certificates, keys, tokens; small ones, read on the reactor thread.

Such as Secrets, which Kubernetes swaps: what was read last and was right stays in use.
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

#: Seconds between two looks of a service at its files; and within which a value that is asked for is not looked at
#: again, less than that, lest every other look of the service come a moment too early.
LOOK_EVERY = 1.0
LOOK_SECONDS = 0.875
#: Bytes of the largest file that is read.
MAX_FILE_BYTES = 1_048_576


class WrongFile(ValueError):
    """A file does not say what it should. `option` is the one that named it; `reason` follows the file's name."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option} {reason}")
        self.option = option
        self.reason = reason


class FilesError(Exception):
    """What the files say cannot be used: one line that names the option, the file, and what is wrong with it."""


class Reloaded(Generic[T]):
    """What some files say together, read again when one of them has changed.

    `files` are paths by the option that named each; links are followed at each look, since Kubernetes swaps those.
    `parse` turns the files' bytes, by the same options, into the value; it raises WrongFile, whose reason must hold
    nothing of what a file says. `seconds` is a clock that only goes forward; the files are looked at once in
    LOOK_SECONDS at most. `changed` is called with each value read, the first included.

    While running, files that are wrong or gone leave the last value in its place, with one line in the log for each
    change of them. Making one raises FilesError instead. Belongs to the reactor thread.
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
        """Return what the files say, or the last that was right."""
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
        """Return what differs when a file has been written, replaced, or been given other rights."""
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
        except Exception as error:  # noqa: BLE001 - no odd file may end what works
            raise FilesError(f"{', '.join(self._files)}: cannot be used ({type(error).__name__})") from None


class ReloadedFile(Reloaded[T]):
    """What one file says, as `parse` reads its bytes; it raises ValueError, whose text tells nothing of them.

    `option` is how the user named the file.
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
    """Looks at files once a second while it runs, and calls what goes with one whose value is another than before."""

    def __init__(self, reactor: Any, files: Iterable[tuple[Reloaded[Any], Callable[[], object]]]) -> None:
        self._files = tuple(files)
        #: The values that what goes with them has been called for.
        self._used = [file.value() for file, _ in self._files]
        self._looking = Periodic(reactor, LOOK_EVERY, self._look, name="the look at the files")

    def startService(self) -> None:
        """Look from now on."""
        super().startService()
        if self._files:
            self._looking.start()

    def look(self) -> None:
        """Look at all files now."""
        for file, _ in self._files:
            file.look()
        self._look()

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._looking.stop()

    def _look(self) -> None:
        for number, (file, changed) in enumerate(self._files):
            try:
                value = file.value()
                if value != self._used[number]:
                    changed()
                    self._used[number] = value
            except Exception:  # noqa: BLE001 - the other files are looked at all the same
                log.failure("what has changed in a file could not be put to use; it is tried again")


def look_again(services: MultiService) -> None:
    """Let every FileWatch below look at its files now."""
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
    # Not to wait for whoever might write into a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
    return content
