"""The file of a snapshot, on a real disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from orchestratord.nodes.snapshot_file import SnapshotFile
from orchestratord.runtime.directory_lock import InUse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def content(file: SnapshotFile) -> bytes | None:
    """Return what is in the file, or None if it is not there."""
    opened = file.open()
    if opened is None:
        return None
    with opened:
        return opened.read()


def names(directory: Path) -> list[str]:
    """Return what is in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


def test_it_is_replaced_whole(tmp_path: Path) -> None:
    """And leaves nothing else behind; only its user may read it."""
    file = SnapshotFile(tmp_path / "a" / "b")
    file.acquire()
    assert content(file) is None
    assert file.replace([b"one", b"two"]) == 6
    assert content(file) == b"onetwo"
    assert file.replace([]) == 0
    assert content(file) == b""
    assert names(tmp_path / "a" / "b") == ["lock", "snapshot"]
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """Whatever goes wrong, and however far it had come."""

    def parts() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError(28, "No space left on device")

    file = SnapshotFile(tmp_path)
    file.replace([b"old"])
    with pytest.raises(OSError, match="No space left"):
        file.replace(parts())
    assert content(file) == b"old"
    assert names(tmp_path) == ["snapshot"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    """Half of a new one is neither read nor kept."""
    (tmp_path / "snapshot.new").write_bytes(b"half" * 100)
    file = SnapshotFile(tmp_path)
    assert content(file) is None
    file.replace([b"whole"])
    assert content(file) == b"whole"
    assert names(tmp_path) == ["snapshot"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The second is told which the first is, and may have it when that one has let go."""
    first, second = SnapshotFile(tmp_path), SnapshotFile(tmp_path)
    first.acquire()
    first.acquire()
    with pytest.raises(InUse, match=f"in use by process {os.getpid()}$"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_only_the_last_bad_one_is_kept(tmp_path: Path) -> None:
    """They would fill the disk."""
    file = SnapshotFile(tmp_path)
    for data in (b"bad", b"worse"):
        file.replace([data])
        aside = file.set_aside()
    assert aside.read_bytes() == b"worse"
    assert names(tmp_path) == [aside.name]
