"""Kernels that a test makes up: their tracepoints and functions, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestratord.profiler.ebpf import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_READS = ("read", "readv", "pread64", "preadv", "preadv2")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
#: The tracepoints of x86 from 6.1 on.
ALL_TRACEPOINTS = (
    "kmem:kmalloc",
    "exceptions:page_fault_user",
    "exceptions:page_fault_kernel",
    "sched:sched_switch",
    *(f"syscalls:sys_exit_{name}" for name in (*_READS, *_WRITES)),
)
FUNCTIONS = ("vfs_read", "vfs_write", "handle_mm_fault", "__kmalloc", "finish_task_switch")
_FIELDS = {
    "kmem:kmalloc": "size_t bytes_req",
    "kmem:kmalloc_node": "size_t bytes_req",
    "sched:sched_switch": "long prev_state",
}


def kernel_files(
    root: Path, tracepoints: Iterable[str], functions: Iterable[str] = (), state: str = "", *, listed: bool = True
) -> Machine:
    """Write what a kernel shows of itself, and return the machine. Without `functions` it has no kprobes.

    `listed` says whether the function tracer lists its functions; else only kallsyms does.
    """
    for name in tracepoints:
        directory = root / "events" / name.replace(":", "/")
        directory.mkdir(parents=True)
        (directory / "format").write_text(f"name: x\n\tfield:{_FIELDS.get(name, 'long ret')};\toffset:16;\tsize:8;\n")
    functions = [*functions, "vfs_read_not", "schedule"] if functions else []
    if functions:
        (root / "kprobe_events").write_text("")
    if functions and listed:
        (root / "available_filter_functions").write_text("".join(f"{name}\n" for name in functions) + "x [module]\n")
    symbols = [f"ffffffff81000000 {'t' if len(name) % 2 else 'T'} {name}\n" for name in functions]
    (root / "kallsyms").write_text("".join(symbols) + "0000000000000000 d __kmalloc_noprof\n")
    if state:
        (root / "btf").write_bytes(b"\x9f\xeb\0task_struct\0pid\0%s\0comm\0" % state.encode())
    return Machine(
        euid=0,
        which=lambda name: f"/usr/bin/{name}",
        tracefs=root,
        debugfs=root / "debug",
        kallsyms=root / "kallsyms",
        btf=root / "btf",
    )
