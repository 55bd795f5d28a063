"""The spool on a disk that is really full."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import run
from tests.integration.test_faults_disk_and_clock import small_disk

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent.parent


def fill(folder: Path) -> Callable[[], None]:
    """Leave no byte free on a disk; return what makes room again."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler.unlink


def on_a_full_disk(folder: Path) -> None:
    """What `test_a_full_disk` promises, where `folder` is a disk of its own."""
    from tests.remote_write.wal.test_log import problem, read, row, spool  # noqa: PLC0415 - the program within the mount imports no more

    it = spool(folder / "spool", segment_bytes=50_000)
    it.append([row(number) for number in range(100)])
    it.sync()
    make_room = fill(folder)
    for number in range(100, 400):
        it.append([row(number)])
        if number % 100 == 0:
            it.sync()
    it.sync()
    assert it.problem == "No space left on device"
    assert it.failures >= 4
    assert it.held_bytes > 0
    assert read(it)[0] == list(range(400))
    batch = it.read(it.start, 50)
    assert batch is not None
    it.release(batch.end)
    make_room()
    it.sync()
    assert it.held_bytes == 0
    assert problem(it) is None
    it.append([row(400)])
    assert read(it, batch.end)[0] == list(range(len(batch.rows), 401))
    it.close()
    again = spool(folder / "spool")
    assert read(again)[0] == list(range(len(batch.rows), 401))
    assert (again.unreadable, again.overflowed) == (0, 0)
    again.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """Rows are held in memory, in order with those on the disk; with room again they are on it, and nothing is lost."""
    folder = tmp_path / "disk"
    call = "import sys; from pathlib import Path; from tests.integration.test_spool_full_disk import on_a_full_disk"
    program = f"{call}; on_a_full_disk(Path(sys.argv[1]))"
    done = run(*small_disk(folder), "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", program, str(folder))
    assert done.returncode == 0, done.stderr
