"""Files that are read again when they change, and the watch that tells of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from twisted.application.service import MultiService
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from orchestratord.runtime.file_reload import (
    LOOK_SECONDS,
    MAX_FILE_BYTES,
    FileReloader,
    FilesError,
    Reloaded,
    ReloadedFile,
    WrongFile,
    look_again,
)
from orchestratord.security.token_file import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ONE, TWO = b"token-number-one-1", b"token-number-two-2"


def parse(contents: Mapping[str, bytes]) -> str:
    """Take any text but `bad`."""
    for option, content in contents.items():
        if content == b"odd":
            raise KeyError(content)
        if content == b"bad":
            raise WrongFile(option, "says bad")
    return " ".join(content.decode() for content in contents.values())


class Files:
    """Two files, and what is made of them."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.one, self.two = folder / "one", folder / "two"
        self.one.write_text("1")
        self.two.write_text("2")
        self.read: list[str] = []
        self.watched = Reloaded(
            self.clock.seconds, {"--one": self.one, "--two": self.two}, parse, changed=self.read.append
        )

    def later(self) -> str:
        """Return the value when the next look is due."""
        self.clock.advance(LOOK_SECONDS)
        return self.watched.value()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Two files that are right."""
    return Files(tmp_path)


def test_a_change_is_seen_at_the_next_look(files: Files) -> None:
    """Not before: the files are looked at once a second; and told once."""
    assert files.watched.value() == "1 2"
    files.one.write_text("one")
    assert files.watched.value() == "1 2"
    assert files.later() == "one 2"
    assert files.later() == "one 2"
    assert files.read == ["1 2", "one 2"]


def test_a_file_that_is_replaced_is_seen(files: Files, tmp_path: Path) -> None:
    """Of the same size and time, by its inode; as tools write that mean to be atomic."""
    before = files.one.stat()
    new = tmp_path / "new"
    new.write_text("x")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(files.one)
    assert files.later() == "x 2"


def test_links_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a Secret as links through `..data`, and swaps that one."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "token").symlink_to("..data/token")
    clock = Clock()
    watched = Reloaded(clock.seconds, {"--token": tmp_path / "token"}, parse)
    (tmp_path / "..tmp").symlink_to("second")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    clock.advance(LOOK_SECONDS)
    assert watched.value() == "second"


def test_files_that_go_wrong_leave_the_last_value(files: Files) -> None:
    """With one line for each change, and none that holds what the file says."""
    with capturedLogs() as logs:
        files.one.write_text("bad")
        for _ in range(3):
            assert files.later() == "1 2"
        files.one.unlink()
        for _ in range(3):
            assert files.later() == "1 2"
    lines = [event["error"] for event in logs]
    assert lines == [
        f"--one: '{files.one}' says bad",
        f"--one: '{files.one}' cannot be read: No such file or directory",
    ]
    files.one.write_text("good")
    assert files.later() == "good 2"


def test_what_nobody_thought_of_leaves_the_last_value_too(files: Files) -> None:
    """Without the text of the error, which may hold what a file says."""
    with capturedLogs() as logs:
        files.one.write_text("odd")
        assert files.later() == "1 2"
    assert [event["error"] for event in logs] == ["--one, --two: cannot be used (KeyError)"]


def test_other_rights_are_a_change(files: Files) -> None:
    """A file that could not be read is read as soon as it can be."""
    before = files.one.stat()
    files.one.chmod(0o600 if before.st_mode & 0o077 else 0o644)
    files.later()
    assert files.read == ["1 2", "1 2"]


def test_files_that_are_wrong_at_the_start(tmp_path: Path) -> None:
    """One line that names the option, the file and what is wrong."""
    file = tmp_path / "file"

    def said() -> str:
        with pytest.raises(FilesError) as raised:
            Reloaded(Clock().seconds, {"--one": file}, parse)
        return str(raised.value)

    assert said() == f"--one: '{file}' cannot be read: No such file or directory"
    file.write_text("bad")
    assert said() == f"--one: '{file}' says bad"
    file.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert said() == f"--one: '{file}' is larger than {MAX_FILE_BYTES} bytes"
    file.unlink()
    os.mkfifo(file)
    assert said() == f"--one: '{file}' is not a regular file"
    file.unlink()
    file.mkdir()
    assert said().startswith(f"--one: '{file}' ")


class Watching:
    """A watch on a token file."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.file = ReloadedFile(self.clock.seconds, "--token-file query", path, parse_tokens)
        self.changes = 0
        self.broken = False
        self.watch = FileReloader(self.clock, [(self.file, self.changed)])
        self.watch.startService()

    def changed(self) -> None:
        """Count."""
        self.changes += 1
        if self.broken:
            raise OSError("no space left")

    def second(self) -> list[str]:
        """Let a second pass; return what was logged at warning or above."""
        with capturedLogs() as logs:
            self.clock.advance(1)
        return [formatEvent(event) for event in logs if event["log_level"] >= LogLevel.warn]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a token."""
    path = tmp_path / "tokens"
    path.write_bytes(ONE)
    return path


def test_a_change_is_seen_within_a_second(path: Path) -> None:
    """And what goes with it is called once."""
    watching = Watching(path)
    path.write_bytes(TWO)
    assert watching.file.value() == (ONE,)
    watching.second()
    assert watching.file.value() == (TWO,)
    watching.second()
    assert watching.changes == 1


def test_a_look_may_be_asked_for(path: Path) -> None:
    """At once, of every watch below a service: what SIGHUP does."""
    watching = Watching(path)
    services, inner = MultiService(), MultiService()
    inner.setServiceParent(services)
    watching.watch.setServiceParent(inner)
    path.write_bytes(TWO)
    look_again(services)
    assert (watching.file.value(), watching.changes) == ((TWO,), 1)


def test_a_file_that_only_looks_new(path: Path) -> None:
    """Touched or written again as it was, it is no change."""
    watching = Watching(path)
    os.utime(path, ns=(1, 1))
    watching.second()
    assert watching.changes == 0


@pytest.mark.parametrize("harm", ["removed", "empty", "garbage", "directory", "too long"])
def test_the_last_good_one_goes_on(path: Path, harm: str) -> None:
    """With one warning, however long it lasts, that gives nothing of the content away; then the next good one."""
    watching = Watching(path)
    path.unlink()
    if harm == "directory":
        path.mkdir()
    elif harm != "removed":
        path.write_bytes({"empty": b"", "garbage": b"secret garbage", "too long": b"#" * (MAX_FILE_BYTES + 1)}[harm])
    (warning,) = watching.second()
    assert str(path) in warning
    assert "secret" not in warning
    assert watching.second() == []
    assert watching.file.value() == (ONE,)
    if harm == "directory":
        path.rmdir()
    path.write_bytes(TWO)
    assert watching.second() == []
    assert watching.file.value() == (TWO,)
    assert watching.changes == 1


def test_what_cannot_be_put_to_use_is_tried_again(path: Path) -> None:
    """A second later, and the watch goes on."""
    watching = Watching(path)
    watching.broken = True
    path.write_bytes(TWO)
    assert len(watching.second()) == 1
    watching.broken = False
    assert watching.second() == []
    assert watching.second() == []
    assert watching.changes == 2


def test_it_stops(path: Path) -> None:
    """With the service; and a watch on nothing asks for no turn of the reactor."""
    watching = Watching(path)
    watching.watch.stopService()
    assert watching.clock.getDelayedCalls() == []
    idle: Sequence[tuple[ReloadedFile[object], object]] = ()
    FileReloader(watching.clock, idle).startService()  # type: ignore[arg-type]  # nothing in it
    assert watching.clock.getDelayedCalls() == []


def test_what_is_wrong_with_one_file_is_told_by_its_option(path: Path) -> None:
    """At the start, in one line, by what the reading of its bytes has said."""
    path.write_bytes(b"")
    with pytest.raises(FilesError) as raised:
        ReloadedFile(Clock().seconds, "--token-file query", path, parse_tokens)
    assert str(raised.value) == f"--token-file query: {str(path)!r} holds no token"
