"""A file that changes while we run, and the watch that tells of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from orchestratord.access import parse_tokens
from orchestratord.watched import MAX_FILE_BYTES, FilesError, FileWatch, WatchedFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ONE, TWO = b"token-number-one-1", b"token-number-two-2"


class Watching:
    """A watch on a token file."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.file = WatchedFile(self.clock.seconds, "--token-file query", path, parse_tokens)
        self.changes = 0
        self.broken = False
        self.watch = FileWatch(self.clock, [(self.file, self.changed)])
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


def test_a_secret_that_kubernetes_swaps(tmp_path: Path) -> None:
    """The link's target is another directory then; the file's own name is the same link as before."""
    for name, token in (("v1", ONE), ("v2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_bytes(token)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "token").symlink_to("..data/token")
    watching = Watching(tmp_path / "token")
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    watching.second()
    assert watching.file.value() == (TWO,)


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
    idle: Sequence[tuple[WatchedFile[object], object]] = ()
    FileWatch(watching.clock, idle).startService()  # type: ignore[arg-type]  # nothing in it
    assert watching.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("directory", "is no regular file"),
        ("fifo", "is no regular file"),
        ("empty", "holds no token"),
    ],
)
def test_the_first_reading_has_to_be_good(tmp_path: Path, kind: str, said: str) -> None:
    """One line that names the option and the path; a pipe that nobody writes to is not waited for."""
    path = tmp_path / "tokens"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    with pytest.raises(FilesError) as raised:
        WatchedFile(Clock().seconds, "--token-file query", path, parse_tokens)
    assert str(raised.value) == f"--token-file query: {str(path)!r} {said}"
