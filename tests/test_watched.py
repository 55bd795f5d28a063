"""Files that are read again when they change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from orchestratord.watched import LOOK_SECONDS, MAX_FILE_BYTES, FilesError, Watched, WrongFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
        self.watched = Watched(
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
    watched = Watched(clock.seconds, {"--token": tmp_path / "token"}, parse)
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
            Watched(Clock().seconds, {"--one": file}, parse)
        return str(raised.value)

    assert said() == f"--one: '{file}' cannot be read: No such file or directory"
    file.write_text("bad")
    assert said() == f"--one: '{file}' says bad"
    file.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert said() == f"--one: '{file}' is larger than {MAX_FILE_BYTES} bytes"
    file.unlink()
    os.mkfifo(file)
    assert said() == f"--one: '{file}' is no regular file"
    file.unlink()
    file.mkdir()
    assert said().startswith(f"--one: '{file}' ")
