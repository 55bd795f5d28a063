"""The choice of the kernel's hooks, for kernels that the tests make up, and what the programs for them look like."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from orchestratord.nodes.families import BUILT_IN
from orchestratord.profiler.bpftrace_program import KPROBES, TRACEPOINTS, Kernel, plans
from tests.profiler.kernels import ALL_TRACEPOINTS, FUNCTIONS, kernel_files

if TYPE_CHECKING:
    from pathlib import Path

MAPS = {
    "mem_bytes_allocated",
    "page_faults",
    "ctx_switches_graceful",
    "ctx_switches_forced",
    "fs_read_count",
    "fs_read_bytes",
    "fs_write_count",
    "fs_write_bytes",
}


def probes(program: str) -> list[str]:
    """Return the probes of a program, without its timer."""
    return re.findall(r"(?:kprobe|kretprobe|tracepoint|software):[\w:.-]+", program)


@pytest.mark.parametrize(
    ("functions", "names"),
    [
        (FUNCTIONS, FUNCTIONS),
        (
            ("vfs_read", "vfs_write", "handle_mm_fault", "__kmalloc_noprof", "finish_task_switch.isra.0"),
            ("vfs_read", "vfs_write", "handle_mm_fault", "__kmalloc_noprof", "finish_task_switch.isra.0"),
        ),
    ],
    ids=["5.4", "6.10"],
)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("state", ["__state", "state"])
def test_kernel_functions(
    tmp_path: Path, functions: tuple[str, ...], names: tuple[str, ...], listed: bool, state: str
) -> None:
    """With kprobes, the hooks are those of other profilers, by the names in this kernel."""
    kernel = kernel_files(tmp_path, ALL_TRACEPOINTS, functions, state, listed=listed).kernel()
    first, second = plans(kernel)
    assert (first.source, second.source) == (KPROBES, TRACEPOINTS)
    read, write, fault, kmalloc, switch = names
    assert probes(first.program) == [
        f"kprobe:{kmalloc}",
        f"kprobe:{fault}",
        f"kprobe:{switch}",
        f"kprobe:{read}",
        f"kretprobe:{read}",
        f"kprobe:{write}",
        f"kretprobe:{write}",
    ]
    assert f"$prev->{state} == 0" in first.program
    assert first.counters.keys() == set(BUILT_IN.names)
    assert first.missing == {}


@pytest.mark.parametrize("without", FUNCTIONS)
def test_a_kernel_function_is_missing(tmp_path: Path, without: str) -> None:
    """For example one that was inlined. Then all families are counted at tracepoints: a source has one meaning."""
    functions = [name for name in FUNCTIONS if name != without]
    (plan,) = plans(kernel_files(tmp_path, ALL_TRACEPOINTS, functions, "__state").kernel())
    assert plan.source == TRACEPOINTS


def test_types_are_missing(tmp_path: Path) -> None:
    """Without BTF the position of a task's state is unknown."""
    (plan,) = plans(kernel_files(tmp_path, ALL_TRACEPOINTS, FUNCTIONS).kernel())
    assert plan.source == TRACEPOINTS


def test_tracepoints_of_x86(tmp_path: Path) -> None:
    """All tracepoints are used."""
    (plan,) = plans(kernel_files(tmp_path, ALL_TRACEPOINTS).kernel())
    assert probes(plan.program) == [f"tracepoint:{name}" for name in ALL_TRACEPOINTS]
    assert plan.counters.keys() == set(BUILT_IN.names)


def test_kmalloc_of_a_node_until_6_0(tmp_path: Path) -> None:
    """Until 6.0 it is a separate tracepoint, and it counts too."""
    (plan,) = plans(kernel_files(tmp_path, [*ALL_TRACEPOINTS, "kmem:kmalloc_node"]).kernel())
    assert "tracepoint:kmem:kmalloc, tracepoint:kmem:kmalloc_node {" in plan.program


def test_page_faults_of_arm64(tmp_path: Path) -> None:
    """Without the tracepoints of x86, page faults are counted with perf's event."""
    offered = [name for name in ALL_TRACEPOINTS if not name.startswith("exceptions:")]
    (plan,) = plans(kernel_files(tmp_path, offered).kernel())
    assert "software:page-faults:1" in probes(plan.program)
    assert plan.counters.keys() == set(BUILT_IN.names)


@pytest.mark.parametrize(
    ("without", "families"),
    [
        ("kmem:kmalloc", {"mem_bytes_allocated"}),
        ("sched:sched_switch", {"ctx_switches_graceful", "ctx_switches_forced"}),
        ("syscalls:sys_exit_read", {"fs_read_count", "fs_read_size_kb"}),
        ("syscalls:sys_exit_write", {"fs_write_count", "fs_write_size_kb"}),
        ("syscalls:sys_exit_preadv2", set()),
    ],
)
def test_a_tracepoint_is_missing(without: str, families: set[str]) -> None:
    """Its families are left out, with a reason that names the tracepoint; the program does not use it."""
    (plan,) = plans(Kernel(frozenset(ALL_TRACEPOINTS) - {without}))
    assert f"tracepoint:{without}" not in probes(plan.program)
    assert plan.missing.keys() == families
    assert plan.counters.keys() == set(BUILT_IN.names) - families
    assert all(without in reason for reason in plan.missing.values())


def test_a_tracepoint_without_its_field(tmp_path: Path) -> None:
    """It counts as missing: bpftrace would refuse the whole program."""
    machine = kernel_files(tmp_path, ALL_TRACEPOINTS)
    (tmp_path / "events/kmem/kmalloc/format").write_text("field:size_t bytes;\n")
    (plan,) = plans(machine.kernel())
    assert plan.missing.keys() == {"mem_bytes_allocated"}


def test_what_is_printed() -> None:
    """Each map of a program is printed once per interval, followed by the line that ends it."""
    every = Kernel(frozenset(ALL_TRACEPOINTS), dict(zip(FUNCTIONS, FUNCTIONS, strict=True)), "__state")
    for plan in plans(every):
        assert sorted(re.findall(r"print\(@(\w+)\);", plan.program)) == sorted(MAPS)
        assert set(re.findall(r"@(\w+) = (?:sum|count)", plan.program)) == MAPS
        assert plan.program.count('printf("bucket\\n");') == 1
