"""The source `ebpf`: a bpftrace child process counts at kernel hooks. It is restarted if it exits."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import Logger

from orchestratord.profiler.bpftrace_output import Lines, Totals, TotalsReader, bucket_between
from orchestratord.profiler.bpftrace_program import Kernel, Plan, plans, read_kernel
from orchestratord.profiler.bucket import log_left_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.base import DelayedCall
    from twisted.python.failure import Failure

    from orchestratord.profiler.bucket import Complaint, Delivery

log = Logger()

START_SECONDS = 20.0
"""bpftrace counts as hung if it takes longer to compile and attach, or if an interval is later than this."""
MAX_FAILED_STARTS = 3
"""The source complains after so many children in a row that ended without a bucket."""
MAX_RESTART_DELAY = 60.0
KILL_SECONDS = 5.0
"""The time for a child to detach its probes before it is killed."""
_ERROR_BYTES = 4096


@dataclass(frozen=True)
class Machine:
    """What the source needs on the machine. Tests pass other values."""

    euid: int = field(default_factory=os.geteuid)
    which: Callable[[str], str | None] = shutil.which
    tracefs: Path = Path("/sys/kernel/tracing")
    debugfs: Path = Path("/sys/kernel/debug/tracing")
    kallsyms: Path = Path("/proc/kallsyms")
    btf: Path = Path("/sys/kernel/btf/vmlinux")

    def obstacle(self) -> str | None:
        """Return why eBPF cannot work here, or None if it might work. Needs no privilege."""
        if self.euid != 0:
            return "not root"
        missing = [program for program in ("bpftrace", "setpriv") if self.which(program) is None]
        return f"no {missing[0]} on PATH" if missing else None

    def has_tracefs(self) -> bool:
        """Return whether the kernel's tracepoints are visible."""
        return self._tracing() is not None

    def kernel(self) -> Kernel:
        """Return what the kernel offers; blocks."""
        tracing = self._tracing()
        return Kernel(frozenset()) if tracing is None else read_kernel(tracing, self.kallsyms, self.btf)

    def _tracing(self) -> Path | None:
        return next((path for path in (self.tracefs, self.debugfs) if (path / "events").is_dir()), None)


class _Child(ProcessProtocol):
    """One run of bpftrace. Calls `totals` with its counters, and `ended` at its end with its last error line."""

    transport: Any

    def __init__(self, totals: Callable[[Totals], None], ended: Callable[[str], None]) -> None:
        self._totals = totals
        self._ended = ended
        self._lines = Lines()
        self._reader = TotalsReader()
        self._said = b""
        self.delivered = False
        self.gone: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            totals = self._reader.read(line)
            if totals is not None:
                self._totals(totals)

    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-_ERROR_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        lines = self._said.decode(errors="replace").splitlines()
        errors = [line.strip() for line in lines if "ERROR" in line and "RLIMIT_MEMLOCK" not in line]
        said = errors or [line.strip() for line in lines if line.strip()]
        self._ended(f"bpftrace said: {said[-1][:300]}" if said else f"bpftrace ended: {reason.getErrorMessage()}")
        self.gone.callback(None)

    def signal(self, name: str) -> None:
        if self.transport is not None:
            try:
                self.transport.signalProcess(name)
            except ProcessExitedAlready:
                return


class EbpfSource:
    """Measures with bpftrace; needs root.

    The child never outlives this process: the kernel kills it. The first print of the counters is only a baseline. If
    a child ends before it has counted, the next plan is used from then on, if there is one. `unix_time` is the clock
    for the timestamps of buckets.
    """

    name = "eBPF"

    def __init__(
        self,
        reactor: Any,
        interval: float,
        machine: Machine | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._interval = interval
        self._machine = Machine() if machine is None else machine
        self._unix_time = unix_time
        self._started = False
        self._child: _Child | None = None
        self._plans: list[Plan] = []
        self._before: Totals | None = None
        self._failed_starts = 0
        self._complained = False
        self._preparation: Deferred[None] = succeed(None)
        self._restart: DelayedCall | None = None
        self._watchdog: DelayedCall | None = None

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Start. Without root or bpftrace it complains once and does not try."""
        self._started, self._failed_starts, self._complained = True, 0, False
        self._deliver, self._complain = deliver, complain
        obstacle = self._machine.obstacle()
        if obstacle is not None:
            self._give_reason(obstacle)
            return
        self._begin()

    def _begin(self) -> None:
        self._preparation = Deferred.fromCoroutine(self._prepare()).addErrback(self._unprepared)

    def stop(self) -> Deferred[None]:
        """Stop the child; it is killed if it does not end within KILL_SECONDS."""
        self._started = False
        self._preparation.cancel()
        self._unwatch()
        if self._restart is not None and self._restart.active():
            self._restart.cancel()
        return Deferred.fromCoroutine(self._end())

    async def _prepare(self) -> None:
        if not self._machine.has_tracefs():
            await self._mount_tracefs()
        if not self._started:
            return
        kernel = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._machine.kernel)
        if not self._started:
            return
        if not kernel.tracepoints and not kernel.functions:
            self._child_ended(f"no tracepoints in {self._machine.tracefs}")
            return
        self._plans = plans(kernel)
        log_left_out(log, self._plans[0].missing)
        self._spawn()

    def _unprepared(self, failure: Failure) -> None:
        if self._started or not failure.check(CancelledError):
            log.failure("the eBPF source cannot start", failure=failure)
            self._give_reason(failure.getErrorMessage())

    async def _mount_tracefs(self) -> None:
        """Mount tracefs, which may be missing in a container or on a small system.

        A failure is only logged; bpftrace then says what is missing.
        """
        target = str(self._machine.tracefs)
        mount = self._machine.which("mount") or "/bin/mount"
        _, said, code = await getProcessOutputAndValue(
            mount, ["-t", "tracefs", "tracefs", target], env={"LC_ALL": "C"}, reactor=self._reactor
        )
        if code == 0:
            log.info("mounted tracefs at {target}", target=target)
        else:
            reason = " ".join(said.decode(errors="replace").split())[:300] or f"exit code {code}"
            log.warn("cannot mount tracefs at {target}: {reason}", target=target, reason=reason)

    def _spawn(self) -> None:
        self._before = None
        self._child = _Child(self._count, self._child_ended)
        milliseconds = str(max(1, round(self._interval * 1000)))
        bpftrace = self._machine.which("bpftrace") or "bpftrace"
        arguments = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            bpftrace,
            "-f",
            "json",
            "-e",
            self._plans[0].program,
            milliseconds,
        ]
        environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}
        # bpftrace gets its own settings: with BPFTRACE_BTF=/sys/kernel/btf/vmlinux it does not search for types, which
        # would need CAP_SYS_ADMIN. For everything else, CAP_BPF and CAP_PERFMON are enough.
        environment |= {name: value for name, value in os.environ.items() if name.startswith("BPFTRACE_")}
        self._watch(START_SECONDS)
        setpriv = self._machine.which("setpriv") or "setpriv"
        try:
            self._reactor.spawnProcess(self._child, setpriv, arguments, env=environment, path="/")
        except OSError as error:
            self._child_ended(f"cannot start bpftrace: {error}")

    def _count(self, totals: Totals) -> None:
        if not self._started or self._child is None:
            return
        self._watch(self._interval + START_SECONDS)
        before, self._before = self._before, totals
        if before is None:
            return
        self._child.delivered = True
        self._failed_starts, self._complained = 0, False
        self._deliver(bucket_between(before, totals, self._unix_time(), self._plans[0]))

    def _watch(self, seconds: float) -> None:
        """Restart the timer: the next print is due within `seconds`."""
        self._unwatch()
        self._watchdog = self._reactor.callLater(seconds, self._hung, seconds)

    def _unwatch(self) -> None:
        if self._watchdog is not None and self._watchdog.active():
            self._watchdog.cancel()

    def _hung(self, seconds: float) -> None:
        if self._child is not None:
            self._child.signal("KILL")
            if not self._child.delivered and len(self._plans) > 1:
                return  # when it has ended, the next plan starts
        self._give_reason(f"no counts from bpftrace within {seconds:g} s")

    def _child_ended(self, reason: str) -> None:
        child, self._child = self._child, None
        self._unwatch()
        if not self._started:
            return
        delivered = child is not None and child.delivered
        if not delivered and len(self._plans) > 1:
            log.warn(
                "counting with {next}, not {plan}: {reason}",
                next=self._plans[1].source,
                plan=self._plans.pop(0).source,
                reason=reason,
            )
            log_left_out(log, self._plans[0].missing)
            self._restart = self._reactor.callLater(0, self._spawn)
            return
        self._failed_starts = 0 if delivered else self._failed_starts + 1
        delay = min(MAX_RESTART_DELAY, 2.0 ** min(self._failed_starts, 10) / 2)
        self._restart = self._reactor.callLater(delay, self._spawn if self._plans else self._begin)
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._give_reason(reason)

    def _give_reason(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            self._complain(reason)

    async def _end(self) -> None:
        await self._preparation
        child = self._child
        if child is None:
            return
        child.signal("TERM")
        kill = self._reactor.callLater(KILL_SECONDS, child.signal, "KILL")
        await child.gone
        if kill.active():
            kill.cancel()
