"""Families that /proc does not show for the whole machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestratord.profiler.procfs import bucket_between

if TYPE_CHECKING:
    from tests.profiler.proc_tree import Tree

IO = {"fs_read_count", "fs_read_size_kb", "fs_write_count", "fs_write_size_kb"}
SWITCHES = {"ctx_switches_graceful", "ctx_switches_forced"}


class TestMissing:
    """A family that is not visible for the whole machine is left out of the bucket, with a reason; it is not 0."""

    def check(self, tree: Tree, families: set[str], reason: str) -> None:
        """Check which families are left out of a bucket between two readings of this tree."""
        reading = tree.reader().read()
        assert reading.missing == dict.fromkeys(families, reason)
        tree.machine(110.0, pgfault=1500, normal=30)
        got = bucket_between(reading, tree.reader().read(), timestamp=5.0)
        assert {
            name for name in (*IO, *SWITCHES, "page_faults", "mem_bytes_allocated") if getattr(got, name) is None
        } == (families)

    def test_io_of_other_users(self, tree: Tree) -> None:
        """Without root, only the io of the user's own processes is readable: that of the node is unknown."""
        tree.process(7, io=(3000, 0, 3, 0), switches=((1, 2),))
        tree.denied.add(b"1/io")
        self.check(tree, IO, "/proc/<pid>/io of other users may not be read (no root)")

    @pytest.mark.parametrize(("count", "families"), [(9, set()), (8, IO)])
    def test_a_process_that_root_may_not_read(self, tree: Tree, count: int, families: set[str]) -> None:
        """For example one in a sandbox: up to a tenth of all processes are skipped."""
        for pid in range(2, 2 + count):
            tree.process(pid)
        tree.denied.add(b"1/io")
        self.check(tree, families, "/proc/<pid>/io of other users may not be read (no root)")

    def test_once_is_enough(self, tree: Tree) -> None:
        """A family is in the bucket only if both readings have it."""
        before = tree.reader().read()
        tree.denied.add(b"1/io")
        after = tree.reader().read()
        tree.machine(110.0)
        for first, second in ((before, after), (after, before)):
            assert bucket_between(first, second, timestamp=5.0).fs_read_count is None

    @pytest.mark.parametrize("denied", [b"1/stat", b"1/status"])
    def test_hidden_content(self, tree: Tree, denied: bytes) -> None:
        """As with hidepid=1: the processes are visible, their files are not readable."""
        tree.denied.add(denied)
        self.check(tree, IO | SWITCHES, "/proc hides the processes of other users (hidepid)")

    def test_hidden_processes(self, tree: Tree) -> None:
        """As with hidepid=2 and systemd's ProtectProc=invisible: init is not visible."""
        tree.process(7)
        tree.ends(1)
        self.check(tree, IO | SWITCHES, "/proc hides the processes of other users (hidepid)")

    @pytest.mark.parametrize(("number", "families"), [(4026531836, set()), (4026532345, IO | SWITCHES)])
    def test_container(self, tree: Tree, number: int, families: set[str]) -> None:
        """In another PID namespace, only the processes of one container are visible; page faults are of the node."""
        (tree.root / "self" / "ns").mkdir(parents=True)
        (tree.root / "self" / "ns" / "pid").symlink_to(f"pid:[{number}]")
        self.check(tree, families, "/proc shows the processes of this container only (no hostPID)")

    def test_no_io_accounting(self, tree: Tree) -> None:
        """A kernel without I/O accounting has no io files."""
        tree.process(1, parent=0, io=None)
        tree.process(7, io=None, switches=((1, 2),))
        self.check(tree, IO, "the kernel has no /proc/<pid>/io (CONFIG_TASK_IO_ACCOUNTING)")

    def test_no_switches(self, tree: Tree) -> None:
        """The /proc of another kernel may not have them."""
        for file in tree.root.glob("1/**/status"):
            file.write_text("Name:\ta\n")
        self.check(tree, SWITCHES, "/proc/<pid>/status has no voluntary_ctxt_switches")

    @pytest.mark.parametrize(
        ("key", "family", "reason"),
        [
            ("pgfault ", "page_faults", "/proc/vmstat has no pgfault"),
            ("pgalloc_", "mem_bytes_allocated", "/proc/vmstat has no pgalloc_*"),
        ],
    )
    def test_no_vmstat_key(self, tree: Tree, key: str, family: str, reason: str) -> None:
        """A missing counter is not 0."""
        lines = (tree.root / "vmstat").read_text().splitlines(keepends=True)
        (tree.root / "vmstat").write_text("".join(line for line in lines if not line.startswith(key)))
        before = tree.reader().read()
        assert before.missing == {family: reason}
        assert getattr(bucket_between(before, tree.reader().read(), timestamp=5.0), family) is None
