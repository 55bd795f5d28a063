"""The source `procfs`: counts from the files of /proc, for machines on which eBPF does not work.

docs/MEASURES.md says what it counts. A family that it cannot see on a machine is left out, not reported as 0. Its cost
grows with the number of threads.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from orchestratord.profiler.bucket import Bucket, log_left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestratord.profiler.bucket import Complaint, Delivery

log = Logger()

SOURCE = "procfs"
_IO_KEYS = (b"rchar", b"wchar", b"syscr", b"syscw")
_NOTHING = (0, 0, 0, 0)
#: The share of processes whose io may be unreadable. Root cannot read the io of some sandboxed processes, and still
#: sees most of the node. Other users cannot read that of kernel threads, which are a larger share.
_MAX_DENIED = 0.1
_SWITCHES = ("ctx_switches_graceful", "ctx_switches_forced")
_IO = ("fs_read_count", "fs_read_size_kb", "fs_write_count", "fs_write_size_kb")
#: What `ns/pid` links to in the first PID namespace, in every kernel.
_INITIAL_NAMESPACE = "pid:[4026531836]"
_MAX_FILE_BYTES = 65_536


class _Process(NamedTuple):
    """One process in one reading. `io` is in the order of `_IO_KEYS`; `switches` by thread: voluntary, forced."""

    parent: int
    started: int
    io: tuple[int, int, int, int] | None
    switches: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class _Reading:
    """The result of one pass over /proc. `ticks` is the uptime of the machine before the pass, in clock ticks.

    `missing` has a reason for each family that the pass cannot see for the whole machine.
    """

    ticks: int
    page_faults: int
    bytes_allocated: int
    processes: dict[int, _Process] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    #: Processes whose io is not readable.
    denied: set[int] = field(default_factory=set)

    def leave_out(self, families: Iterable[str], reason: str) -> None:
        """Record families that are not fully visible; the first reason is kept."""
        for name in families:
            self.missing.setdefault(name, reason)


class ProcTree:
    """Reads a directory tree like /proc. Its methods block, and may be called from any thread."""

    def __init__(self, root: Path, page_size: int, ticks_per_second: int) -> None:
        self._root = os.fsencode(root)
        self._page_size = page_size
        self._ticks_per_second = ticks_per_second

    def read(self) -> _Reading:
        """Read the whole tree. Processes that end meanwhile and unreadable files of processes are skipped.

        Raises OSError or ValueError if the files about the whole machine cannot be read.
        """
        ticks = int(float(self._file(b"uptime").split()[0]) * self._ticks_per_second)
        faults = pages = None
        for line in self._file(b"vmstat").splitlines():
            if line.startswith(b"pgfault "):
                faults = int(line.split()[1])
            elif line.startswith(b"pgalloc_"):
                pages = (pages or 0) + int(line.split()[1])
        reading = _Reading(ticks, faults or 0, (pages or 0) * self._page_size)
        if faults is None:
            reading.leave_out(("page_faults",), "/proc/vmstat has no pgfault")
        if pages is None:
            reading.leave_out(("mem_bytes_allocated",), "/proc/vmstat has no pgalloc_*")
        names = [name for name in self._names(b"") if name.isdigit()]
        self._check_visibility(reading, names)
        for name in names:
            try:
                reading.processes[int(name)] = self._process(name, reading)
            except PermissionError:
                reading.leave_out((*_SWITCHES, *_IO), "/proc hides the processes of other users (hidepid)")
            except (OSError, ValueError, IndexError):
                continue
        self._check_readability(reading)
        return reading

    def _check_visibility(self, reading: _Reading, names: list[bytes]) -> None:
        """Leave out families if /proc does not show all processes."""
        try:
            namespace = str(Path(os.fsdecode(self._root), "self/ns/pid").readlink())
        except OSError:
            namespace = _INITIAL_NAMESPACE  # unknown: gVisor, for example, has no such link
        if namespace != _INITIAL_NAMESPACE:
            reason = "/proc shows the processes of this container only (no hostPID)"
            reading.leave_out((*_SWITCHES, *_IO), reason)
        elif names and b"1" not in names:
            reading.leave_out((*_SWITCHES, *_IO), "/proc hides the processes of other users (hidepid)")

    def _check_readability(self, reading: _Reading) -> None:
        """Leave out families if too few of the processes had a readable file for them."""
        processes = reading.processes.values()
        if len(reading.denied) > _MAX_DENIED * len(processes):
            reading.leave_out(_IO, "/proc/<pid>/io of other users may not be read (no root)")
        if processes and all(process.io is None for process in processes):
            reading.leave_out(_IO, "the kernel has no /proc/<pid>/io (CONFIG_TASK_IO_ACCOUNTING)")
        if processes and not any(process.switches for process in processes):
            reading.leave_out(_SWITCHES, "/proc/<pid>/status has no voluntary_ctxt_switches")

    def _process(self, pid: bytes, reading: _Reading) -> _Process:
        # The second field is the program's name in parentheses; the name may contain parentheses and spaces.
        fields = self._file(pid + b"/stat").rpartition(b")")[2].split()
        threads = [pid]
        if int(fields[17]) > 1:
            # The status of the process has the switches of its first thread only.
            threads = self._names(pid + b"/task")
        switches = {}
        for thread in threads:
            try:
                counts = self._switches(pid + b"/task/" + thread if len(threads) > 1 else pid)
            except PermissionError:
                raise
            except OSError:
                continue
            if counts is not None:
                switches[int(thread)] = counts
        return _Process(int(fields[1]), int(fields[19]), self._io(pid, reading), switches)

    def _switches(self, directory: bytes) -> tuple[int, int] | None:
        status = self._file(directory + b"/status")
        voluntary = _number_after(status, b"\nvoluntary_ctxt_switches:")
        forced = _number_after(status, b"\nnonvoluntary_ctxt_switches:")
        return None if voluntary is None or forced is None else (voluntary, forced)

    def _io(self, pid: bytes, reading: _Reading) -> tuple[int, int, int, int] | None:
        try:
            values = dict(line.split(b":") for line in self._file(pid + b"/io").splitlines())
            rchar, wchar, syscr, syscw = (int(values[key]) for key in _IO_KEYS)
        except PermissionError:
            reading.denied.add(int(pid))
            return None
        except (OSError, ValueError, KeyError):
            return None
        return rchar, wchar, syscr, syscw

    def _names(self, path: bytes) -> list[bytes]:
        with os.scandir(self._root + b"/" + path) as entries:
            return [entry.name for entry in entries]

    def _file(self, path: bytes) -> bytes:
        descriptor = os.open(self._root + b"/" + path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _MAX_FILE_BYTES)
        finally:
            os.close(descriptor)


def _number_after(text: bytes, label: bytes) -> int | None:
    """Return the number after `label`, None if there is no such label."""
    words = text.partition(label)[2].split(None, 1)
    return int(words[0]) if words else None


def bucket_between(before: _Reading, after: _Reading, timestamp: float) -> Bucket:
    """Return the counts between two readings, never negative; the interval ended at the Unix time `timestamp`.

    A family that one of the readings does not fully see is left out.
    """
    read_bytes, write_bytes, reads, writes = _io_between(before, after)
    graceful = forced = 0
    for pid, process in after.processes.items():
        known = _same_process(before, pid, process)
        if known is None and process.started < before.ticks:
            continue
        for thread, (voluntary, involuntary) in process.switches.items():
            was = (0, 0) if known is None else known.switches.get(thread, (0, 0))
            # If a count is lower than before, it is another thread with the same number.
            was = was if was[0] <= voluntary and was[1] <= involuntary else (0, 0)
            graceful += voluntary - was[0]
            forced += involuntary - was[1]
    whole = Bucket(
        timestamp=timestamp,
        source=SOURCE,
        mem_bytes_allocated=max(0, after.bytes_allocated - before.bytes_allocated),
        page_faults=max(0, after.page_faults - before.page_faults),
        ctx_switches_graceful=graceful,
        ctx_switches_forced=forced,
        fs_read_count=reads,
        fs_read_size_kb=read_bytes / 1000,
        fs_write_count=writes,
        fs_write_size_kb=write_bytes / 1000,
    )
    missing: dict[str, Any] = dict.fromkeys({**before.missing, **after.missing})
    return replace(whole, **missing)


def _same_process(before: _Reading, pid: int, process: _Process) -> _Process | None:
    """Return the earlier state of `process`, None if its pid then belonged to another process."""
    known = before.processes.get(pid)
    return known if known is not None and known.started == process.started else None


def _io_between(before: _Reading, after: _Reading) -> tuple[int, ...]:
    """Return the sums over all processes, in the order of `_IO_KEYS`.

    When a parent waits for a child that ended, the kernel adds all that the child ever read and wrote to the parent's
    counters. So processes that start and end within one interval are counted. Of a child that existed before, only the
    new part may count: its earlier count is subtracted from the ancestor that received it.
    """
    gained: dict[int, tuple[int, ...]] = {}
    for pid, process in after.processes.items():
        known = _same_process(before, pid, process)
        if process.io is None or (known is None and process.started < before.ticks):
            continue
        was = _NOTHING if known is None else known.io
        if was is not None:
            gained[pid] = tuple(max(0, now - then) for now, then in zip(process.io, was, strict=True))
    for pid, process in before.processes.items():
        alive = after.processes.get(pid)
        if process.io is None or (alive is not None and alive.started == process.started):
            continue
        heir = _heir(before, process, gained)
        if heir is not None:
            gained[heir] = tuple(now - then for now, then in zip(gained[heir], process.io, strict=True))
    return tuple(map(sum, zip(*gained.values(), strict=True))) if gained else _NOTHING


def _heir(before: _Reading, ended: _Process, gained: dict[int, tuple[int, ...]]) -> int | None:
    """Return the nearest ancestor, init as the last, whose gain is at least the earlier count of `ended`, or None."""
    ancestor, seen = ended.parent, {0}
    while ancestor not in seen:
        seen.add(ancestor)
        gain = gained.get(ancestor)
        if gain is not None and ended.io is not None and all(g >= c for g, c in zip(gain, ended.io, strict=True)):
            return ancestor
        process = before.processes.get(ancestor)
        ancestor = 1 if process is None else process.parent
    return None


class ProcfsSource:
    """Reads /proc once per interval, on a pool thread. `unix_time` is the clock for the timestamps of buckets."""

    name = SOURCE

    def __init__(
        self, reactor: Any, interval: float, tree: ProcTree, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._reactor = reactor
        self._interval = interval
        self._tree = tree
        self._unix_time = unix_time
        self._loop: LoopingCall | None = None
        self._done: Deferred[Any] = succeed(None)

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Start. The first reading is the baseline of the first bucket."""
        self._deliver, self._complain = deliver, complain
        self._before: _Reading | None = None
        self._failing = False
        self._missing: dict[str, str] = {}
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = self._reactor
        self._done = self._loop.start(self._interval)

    def stop(self) -> Deferred[None]:
        """Stop; fires after the current reading, since a thread cannot be cancelled."""
        loop, self._loop = self._loop, None
        if loop is not None and loop.running:
            loop.stop()
        return self._done.addCallback(lambda _: None)

    async def _tick(self) -> None:
        """Read and deliver. If reading fails, complain, so that the loop goes on."""
        try:
            after = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._tree.read)
        except (OSError, ValueError, IndexError) as error:
            if not self._failing and self._loop is not None:
                self._failing = True
                self._complain(str(error))
            return
        self._failing = False
        before, self._before = self._before, after
        new = {name: reason for name, reason in after.missing.items() if name not in self._missing}
        self._missing |= new
        log_left_out(log, new)
        if before is not None and self._loop is not None:
            self._deliver(bucket_between(before, after, self._unix_time()))
