"""Chooses the kernel hooks at which the eBPF source counts, and writes the bpftrace program for them.

There are two plans; the first that works is used. If the kernel has kprobes, the program counts at the kernel
functions that other profilers of this wire format use, so that the values can be compared. Otherwise it counts at
tracepoints, which are the same in all kernels and see a little more. docs/MEASURES.md says what each plan counts. A
plan leaves out a family if the kernel does not have its hooks.

The maps only grow, and the reader takes the difference between two prints: to print and then clear a map would lose the
events in between. There is no output for single events, so bpftrace itself adds only a few dozen events a print.
count() and sum() are per CPU: no event is lost to a race, and none waits for a lock. Each tracepoint has one probe
only, because bpftrace 0.17 confuses two probes at the same tracepoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KPROBES, TRACEPOINTS = "ebpf-kprobe", "ebpf-tracepoint"

#: Functions by the name used here, each with the names that kernels give it, the most likely first.
_FUNCTIONS = {
    "vfs_read": ("vfs_read",),
    "vfs_write": ("vfs_write",),
    "handle_mm_fault": ("handle_mm_fault",),
    "__kmalloc": ("__kmalloc", "__kmalloc_noprof"),  # the latter from 6.10 on
    # The compiler renames a function if it changes its arguments; `prev` stays the first argument.
    "finish_task_switch": ("finish_task_switch", "finish_task_switch.isra.0", "finish_task_switch.constprop.0"),
}
_SYMBOLS = frozenset(name.encode() for names in _FUNCTIONS.values() for name in names)

_READS = ("read", "readv", "pread64", "preadv", "preadv2")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_FAULTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
#: Tracepoints that may be used, each with the field that is read from it; "" if none is.
_TRACEPOINTS = {
    "kmem:kmalloc": "bytes_req",
    "kmem:kmalloc_node": "bytes_req",  # separate from kmalloc until 6.0
    **dict.fromkeys(_FAULTS, ""),
    "sched:sched_switch": "prev_state",
    **{f"syscalls:sys_exit_{name}": "ret" for name in (*_READS, *_WRITES)},
}


@dataclass(frozen=True)
class Kernel:
    """The hooks that a kernel offers.

    `functions` maps the names used here to those of this kernel, for functions that take kprobes; empty without
    kprobes. `state` is the name of the state in `struct task_struct`, "" if the kernel does not describe its types.
    """

    tracepoints: frozenset[str]
    functions: Mapping[str, str] = field(default_factory=dict)
    state: str = ""


class Counter(NamedTuple):
    """The map of a program that counts a family: the family's value is the map's, divided by `per`."""

    map: str
    per: int = 1


class Plan(NamedTuple):
    """A program for bpftrace, and the counter of each family. `missing` has the reason for each family without one."""

    source: str
    program: str
    counters: Mapping[str, Counter]
    missing: Mapping[str, str]


class _Part(NamedTuple):
    counters: Mapping[str, Counter]
    text: str


def read_kernel(tracefs: Path, kallsyms: Path, btf: Path) -> Kernel:
    """Return what the running kernel offers, according to its files. Blocks, for 0.1 s if it has kprobes."""
    events = tracefs / "events"
    tracepoints = {
        name for name, wanted in _TRACEPOINTS.items() if _has_field(events / name.replace(":", "/") / "format", wanted)
    }
    if not (tracefs / "kprobe_events").exists():
        return Kernel(frozenset(tracepoints))
    listing = tracefs / "available_filter_functions"
    try:
        found = {line.split()[0] for line in listing.read_bytes().splitlines() if line} & _SYMBOLS
    except OSError:  # missing without the function tracer; not readable on a kernel in lockdown
        found = _functions_of(kallsyms)
    functions = {}
    for name, spellings in _FUNCTIONS.items():
        here = [spelling for spelling in spellings if spelling.encode() in found]
        if here:
            functions[name] = here[0]
    return Kernel(frozenset(tracepoints), functions, _state_of(btf))


def plans(kernel: Kernel) -> list[Plan]:
    """Return the plans for a kernel, the best first. There is at least one, which may count nothing."""
    found = []
    if kernel.functions.keys() == _FUNCTIONS.keys() and kernel.state:
        found.append(_plan(KPROBES, _kprobes(kernel), {}))
    parts, missing = _tracepoints(kernel.tracepoints)
    return [*found, _plan(TRACEPOINTS, parts, missing)]


def _kprobes(kernel: Kernel) -> list[_Part]:
    name = kernel.functions
    return [
        _Part(
            _named("mem_bytes_allocated"),
            f"kprobe:{name['__kmalloc']} {{ @mem_bytes_allocated = sum(arg0); }}",
        ),
        _Part(_named("page_faults"), f"kprobe:{name['handle_mm_fault']} {{ @page_faults = count(); }}"),
        # Not the idle task (0): nobody waits for it.
        _switches(
            f"kprobe:{name['finish_task_switch']}",
            "$prev = (struct task_struct *)arg0; $pid = $prev->pid;",
            f"$prev->{kernel.state} == 0",
        ),
        *(
            _Part(
                _file_io(what),
                f"kprobe:{name[f'vfs_{what}']} {{ @fs_{what}_count = count(); }}\n"
                f"kretprobe:{name[f'vfs_{what}']} /(int64)retval > 0/ {{ @fs_{what}_bytes = sum(retval); }}",
            )
            for what in ("read", "write")
        ),
    ]


def _tracepoints(offered: frozenset[str]) -> tuple[list[_Part], dict[str, str]]:
    """Return what these tracepoints can count, and the reason for each other family."""
    parts = []
    missing = {}
    if "kmem:kmalloc" in offered:
        # The requested bytes, as at __kmalloc. Not kmem_cache_alloc, which is not a kmalloc, and not mm_page_alloc,
        # which counts pages of user memory.
        where = _attached([name for name in ("kmem:kmalloc", "kmem:kmalloc_node") if name in offered])
        text = f"{where} {{ @mem_bytes_allocated = sum(args->bytes_req); }}"
        parts.append(_Part(_named("mem_bytes_allocated"), text))
    else:
        missing["mem_bytes_allocated"] = "the kernel has no tracepoint kmem:kmalloc"
    # Only x86 (and riscv from 6.18 on) has these tracepoints; every kernel has perf's event, which counts the same.
    faults = _attached(_FAULTS) if offered.issuperset(_FAULTS) else "software:page-faults:1"
    parts.append(_Part(_named("page_faults"), f"{faults} {{ @page_faults = count(); }}"))
    if "sched:sched_switch" in offered:
        # The same rule as for the kernel's counters of a task. Forced: the task was still runnable (0), or was
        # preempted (0x100, "R+").
        state = "args->prev_state == 0 || args->prev_state == 0x100"
        parts.append(_switches("tracepoint:sched:sched_switch", "$pid = args->prev_pid;", state))
    else:
        reason = "the kernel has no tracepoint sched:sched_switch"
        missing |= dict.fromkeys(("ctx_switches_graceful", "ctx_switches_forced"), reason)
    for what, calls in (("read", _READS), ("write", _WRITES)):
        counters = _file_io(what)
        names = [name for call in calls if (name := f"syscalls:sys_exit_{call}") in offered]
        if f"syscalls:sys_exit_{what}" not in names:
            reason = f"the kernel has no tracepoint syscalls:sys_exit_{what} (CONFIG_FTRACE_SYSCALLS)"
            missing |= dict.fromkeys(counters, reason)
            continue
        text = (
            f"{_attached(names)} {{\n"
            f"\t@fs_{what}_count = count();\n"
            f"\tif (args->ret > 0) {{ @fs_{what}_bytes = sum(args->ret); }}\n"
            "}"
        )
        parts.append(_Part(counters, text))
    return parts, missing


def _switches(where: str, first: str, forced: str) -> _Part:
    return _Part(
        _named("ctx_switches_graceful", "ctx_switches_forced"),
        f"{where} {{\n"
        f"\t{first}\n"
        "\tif ($pid != 0) {\n"
        f"\t\tif ({forced}) {{ @ctx_switches_forced = count(); }} else {{ @ctx_switches_graceful = count(); }}\n"
        "\t}\n"
        "}",
    )


def _named(*families: str) -> dict[str, Counter]:
    """Return counters in maps that have the families' names."""
    return {family: Counter(family) for family in families}


def _file_io(what: str) -> dict[str, Counter]:
    return _named(f"fs_{what}_count") | {f"fs_{what}_size_kb": Counter(f"fs_{what}_bytes", per=1000)}


def _plan(source: str, parts: Iterable[_Part], missing: Mapping[str, str]) -> Plan:
    """Return the program made of these parts; its parameter $1 is the interval in milliseconds.

    The first tick marks where the counting begins: to attach the probes takes thousands of context switches, which are
    over by then. Ticks are more frequent than intervals, because the kernel skips a tick if the CPU is inside another
    of these probes, which is often so on a busy node; the next tick then does the work. An idle tick takes about 1 us.
    """
    parts = list(parts)
    counters = {family: counter for part in parts for family, counter in part.counters.items()}
    prints = "\n".join(f"\tprint(@{counter.map});" for counter in counters.values())
    tick = (
        "interval:ms:100 /nsecs >= @due/ {\n"
        "\tif (@due == 0) { @due = nsecs; }\n"
        "\t@due = @due + (uint64)$1 * 1000000;\n"
        f'{prints}\n\tprintf("bucket\\n");\n}}'
    )
    program = "\n".join([*(part.text for part in parts), tick, ""])
    return Plan(source, program, counters, missing)


def _attached(names: Iterable[str]) -> str:
    return ", ".join(f"tracepoint:{name}" for name in names)


def _has_field(file: Path, wanted: str) -> bool:
    try:
        text = file.read_text()
    except OSError:
        return False
    return not wanted or f" {wanted};" in text


def _functions_of(kallsyms: Path) -> set[bytes]:
    try:
        lines = kallsyms.read_bytes().splitlines()
    except OSError:
        return set()
    return {words[2] for line in lines if len(words := line.split()) >= 3 and words[1] in b"tT"} & _SYMBOLS


def _state_of(btf: Path) -> str:
    """Return the name of a task's state: `__state` from 5.14 on, and in kernels with that change, else `state`."""
    try:
        names = btf.read_bytes()
    except OSError:
        return ""
    return "__state" if b"\0__state\0" in names else "state"
