"""A directory tree like /proc, which a test writes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from orchestratord.profiler.procfs import ProcTree

if TYPE_CHECKING:
    from pathlib import Path


class Tree:
    """A directory like /proc, with pages of 4 KiB and 100 ticks per second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.denied: set[bytes] = set()
        self.machine(uptime=100.0)
        self.process(1, parent=0)

    def machine(self, uptime: float, pgfault: int = 1000, normal: int = 10, dma: int = 5) -> None:
        """Write the files about the whole machine."""
        (self.root / "uptime").write_text(f"{uptime:.2f} 55.00\n")
        (self.root / "vmstat").write_text(
            f"nr_free_pages 7\npgalloc_dma {dma}\npgalloc_normal {normal}\npgfault {pgfault}\npgfault_x 9\n"
        )

    def process(
        self,
        pid: int,
        *,
        started: float = 1.0,
        parent: int = 1,
        io: tuple[int, int, int, int] | None = (0, 0, 0, 0),
        switches: tuple[tuple[int, int], ...] = ((0, 0),),
    ) -> None:
        """Write a process: `io` is rchar, wchar, syscr, syscw; `switches` is a pair for each thread."""
        home = self.root / str(pid)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        threads = len(switches)
        times = f"101 0 0 0 0 0 0 0 20 0 {threads} 0 {started * 100:.0f} 3133440"
        (home / "stat").write_text(f"{pid} (a) (b c) S {parent} 1 1 0 -1 4194304 {times}\n")
        for number, (voluntary, forced) in enumerate(switches):
            thread = home / "task" / str(pid + number)
            thread.mkdir(parents=True)
            (thread / "status").write_text(
                f"Name:\ta\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{forced}\n"
            )
        shutil.copy(home / "task" / str(pid) / "status", home / "status")
        if io is not None:
            rchar, wchar, syscr, syscw = io
            (home / "io").write_text(
                f"rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}\nread_bytes: 77\nwrite_bytes: 88\n"
            )

    def ends(self, pid: int) -> None:
        """Remove a process."""
        shutil.rmtree(self.root / str(pid))

    def reader(self) -> ProcTree:
        """Return a reader of this tree, for a user who may not read the files in `denied`."""
        return Reader(self.root, self.denied)


class Reader(ProcTree):
    """Refuses files as the kernel does for a user other than root; the tests may run as root."""

    def __init__(self, root: Path, denied: set[bytes]) -> None:
        super().__init__(root, page_size=4096, ticks_per_second=100)
        self._denied = denied

    def _file(self, path: bytes) -> bytes:
        if path in self._denied:
            raise PermissionError(path)
        return super()._file(path)
