"""The profiler against this machine's kernel: a real /proc, a real bpftrace, and the process as twistd starts it."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from orchestratord import __version__
from orchestratord.profiler.bpftrace_program import KPROBES, Kernel, plans
from orchestratord.profiler.ebpf import EbpfSource, Machine
from orchestratord.profiler.procfs import ProcfsSource, ProcTree
from tests.peers import report_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twisted.python.failure import Failure

    from orchestratord.profiler.bucket import Bucket

pytestmark = pytest.mark.integration

T = TypeVar("T")

reactor: Any = _reactor
DEADLINE = 60.0
ROOT = Path(__file__).parents[2]


async def soon(waiting: Deferred[T]) -> T:
    """Return what `waiting` fires with, which must not take longer than the deadline of a test."""
    return await waiting.addTimeout(DEADLINE, reactor)


def is_alive(pid: int) -> bool:
    """Return whether there is such a process; a zombie counts too."""
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int) -> None:
    """Return when the process has ended, which must not take longer than 10 s."""
    deadline = reactor.seconds() + 10
    while is_alive(pid):
        assert reactor.seconds() < deadline, f"process {pid} is still there"
        await deferLater(reactor, 0.05)


def bpftraces_below(pid: int) -> list[int]:
    """Return the bpftrace processes whose parent is `pid`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == "bpftrace" and int(rest.split()[1]) == pid:
            found.append(int(directory.name))
    return found


class Reports(Resource):
    """Stands for the orchestrator: keeps what is posted, and the client's port it came from."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.received: DeferredQueue[dict[str, Any]] = DeferredQueue()
        self.ports: set[int] = set()

    def render_POST(self, request: Request) -> bytes:
        """Accept a report; what the real one refuses is refused."""
        assert request.content is not None
        refused = report_refusal(b"POST", request.path, request.getHeader(b"Content-Type"))
        if refused is not None:
            request.setResponseCode(refused)
            return b'{"error": "refused"}'
        client: Any = request.getClientAddress()
        self.ports.add(client.port)
        self.received.put(json.loads(request.content.read()))
        return b'{"status": "Metrics updated", "accepted": 1, "superseded": 0}'


class Twistd(ProcessProtocol):
    """A `twistd profiler` that a test has started."""

    transport: Any

    def __init__(self) -> None:
        self.output = ""
        self.exit_code: Deferred[int | None] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep what it says, for a test that fails."""
        del childFD
        self.output += data.decode()

    def processEnded(self, reason: Failure) -> None:
        """Tell the test."""
        ended: Any = reason.value
        self.exit_code.callback(ended.exitCode)

    @property
    def pid(self) -> int:
        """The process, of which no other is ever signalled."""
        return int(self.transport.pid)


class Listening:
    """A listening stand-in, and the profilers that report to it."""

    def __init__(self) -> None:
        self.reports = Reports()
        self.port: Any = reactor.listenTCP(0, Site(self.reports), interface="127.0.0.1")
        self.started: list[Twistd] = []

    def profiler(self, *arguments: str) -> Twistd:
        """Start `twistd profiler` with an interval of 1 s."""
        twistd = Twistd()
        url = f"http://127.0.0.1:{self.port.getHost().port}"
        options = ["profiler", "--orchestrator", url, "--node-id", "n1", "--interval", "1", *arguments]
        command = [sys.executable, str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", *options]
        path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
        reactor.spawnProcess(twistd, sys.executable, command, env={**os.environ, "PYTHONPATH": path}, path=str(ROOT))
        self.started.append(twistd)
        return twistd

    async def close(self) -> None:
        """End all of it."""
        for twistd in self.started:
            if not twistd.exit_code.called:
                twistd.transport.signalProcess("KILL")
                await twistd.exit_code
        await self.port.stopListening()


@pytest_twisted.async_yield_fixture
async def site() -> AsyncIterator[Listening]:
    """Give a listening stand-in; what reported to it does not outlive the test."""
    listening = Listening()
    yield listening
    await listening.close()


class Measured:
    """What a source delivers, one bucket after the other."""

    def __init__(self) -> None:
        self.buckets: DeferredQueue[Bucket] = DeferredQueue()
        self.complaints: list[str] = []

    async def next(self) -> Bucket:
        """Return the next bucket."""
        try:
            return await soon(self.buckets.get())
        finally:
            assert self.complaints == []


def work() -> None:
    """Do what all eight families count: 2000 reads and writes of 1000 bytes, and fresh memory."""
    descriptor = os.memfd_create("work")
    try:
        for _ in range(2000):
            os.write(descriptor, b"x" * 1000)
            os.pread(descriptor, 1000, 0)
    finally:
        os.close(descriptor)
    with mmap.mmap(-1, 8_000_000) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)  # a fault for each page, not one for 2 MB
        for at in range(0, len(fresh), 4096):
            fresh[at] = 1


def expected_ebpf_source() -> str:
    """Return what eBPF is called on this machine: at kernel functions where it has kprobes."""
    return plans(Machine().kernel())[0].source


async def check_counts(measured: Measured) -> None:
    """Check that what this process does is in the next buckets."""
    await measured.next()
    work()
    counted = [await measured.next(), await measured.next()]

    def total(family: str) -> float:
        return float(sum(getattr(one, family) for one in counted))

    assert total("fs_write_count") >= 2000
    assert total("fs_write_size_kb") >= 2000
    assert total("fs_read_count") >= 2000
    assert total("fs_read_size_kb") >= 2000
    assert total("page_faults") >= 1000
    assert total("mem_bytes_allocated") > 0
    assert total("ctx_switches_graceful") > 0
    assert 0 < counted[1].timestamp - counted[0].timestamp < 3


@pytest_twisted.ensureDeferred
async def test_procfs() -> None:
    """The procfs source counts what this process does, from the kernel's own /proc."""
    measured = Measured()
    tree = ProcTree(Path("/proc"), os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK"))
    source = ProcfsSource(reactor, 1.0, tree)
    source.start(measured.buckets.put, measured.complaints.append)
    try:
        await check_counts(measured)
    finally:
        await source.stop()


@pytest_twisted.ensureDeferred
async def test_ebpf() -> None:
    """The eBPF source counts what this process does, with a real bpftrace, which ends with it."""
    assert Machine().obstacle() is None, "this test needs root and bpftrace"
    measured = Measured()
    source = EbpfSource(reactor, 1.0)
    source.start(measured.buckets.put, measured.complaints.append)
    try:
        await check_counts(measured)
        assert len(bpftraces_below(os.getpid())) == 1
    finally:
        await source.stop()
    assert bpftraces_below(os.getpid()) == []


class WithoutFaultTracepoints(Machine):
    """This machine, as if it were an arm64 one."""

    def kernel(self) -> Kernel:
        """Leave out the tracepoints of page faults, and kprobes."""
        here = super().kernel()
        return Kernel(frozenset(name for name in here.tracepoints if not name.startswith("exceptions:")))


@pytest_twisted.ensureDeferred
async def test_ebpf_without_the_tracepoints_of_page_faults() -> None:
    """As on arm64, which has none: page faults are counted all the same."""
    measured = Measured()
    source = EbpfSource(reactor, 1.0, WithoutFaultTracepoints())
    source.start(measured.buckets.put, measured.complaints.append)
    try:
        await check_counts(measured)
    finally:
        await source.stop()


def test_the_program_for_kprobes_compiles() -> None:
    """Bpftrace takes it, for the types of this machine's kernel; whether it attaches is for a kernel with kprobes."""
    functions = ("vfs_read", "vfs_write", "handle_mm_fault", "__kmalloc", "finish_task_switch")
    offered = dict(zip(functions, functions, strict=True)) | {"finish_task_switch": "finish_task_switch.isra.0"}
    state = "__state" if b"\0__state\0" in Path("/sys/kernel/btf/vmlinux").read_bytes() else "state"
    plan = plans(Kernel(frozenset(), offered, state))[0]
    assert plan.source == KPROBES
    command = ["bpftrace", "-d", "-e", plan.program, "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert "ERROR: " not in done.stderr.replace("ERROR: Unknown error -1: couldn't set RLIMIT_MEMLOCK", "")
    wrong = [*command[:3], plan.program.replace(f"->{state}", "->no_such_field"), "10000"]
    assert subprocess.run(wrong, capture_output=True, timeout=DEADLINE, check=False).returncode != 0


def test_procfs_without_root() -> None:
    """The counts of other users' processes cannot be read: the family is left out, rather than counted in part."""
    script = (
        "import pathlib;"
        "from orchestratord.profiler.procfs import ProcTree;"
        "print(sorted(ProcTree(pathlib.Path('/proc'), 4096, 100).read().missing))"
    )
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*nobody, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True, cwd=ROOT)
    missing = ["fs_read_count", "fs_read_size_kb", "fs_write_count", "fs_write_size_kb"]
    assert done.stdout == f"{missing}\n"


@pytest_twisted.ensureDeferred
async def test_ebpf_survives_its_child() -> None:
    """A bpftrace that is killed is replaced, and the counting goes on."""
    assert Machine().obstacle() is None, "this test needs root and bpftrace"
    measured = Measured()
    source = EbpfSource(reactor, 1.0)
    source.start(measured.buckets.put, measured.complaints.append)
    try:
        await measured.next()
        (child,) = bpftraces_below(os.getpid())
        os.kill(child, signal.SIGKILL)
        await gone(child)
        while not bpftraces_below(os.getpid()):
            await deferLater(reactor, 0.05)
        assert ((await measured.next()).page_faults or 0) > 0
    finally:
        await source.stop()


@pytest.mark.parametrize("source", ["procfs", "ebpf"])
@pytest.mark.parametrize("number", ["TERM", "INT"])
@pytest_twisted.ensureDeferred
async def test_twistd(site: Listening, source: str, number: str) -> None:
    """`twistd profiler` reports bucket after bucket over one connection, and ends with 0 at SIGTERM and at SIGINT."""
    twistd = site.profiler("--source", source)
    reports = [await soon(site.reports.received.get()) for _ in range(3)]
    for report in reports:
        assert report.pop("node_id") == "n1"
        assert report.pop("timestamp") == pytest.approx(time.time(), abs=30)
        assert report.pop("source") == ("procfs" if source == "procfs" else expected_ebpf_source())
        assert report.pop("interval_seconds") == 1
        assert report.pop("profiler_version") == __version__
        assert sorted(report) == [
            "ctx_switches_forced",
            "ctx_switches_graceful",
            "fs_read_count",
            "fs_read_size_kb",
            "fs_write_count",
            "fs_write_size_kb",
            "mem_bytes_allocated",
            "page_faults",
        ]
        assert all(value >= 0 for value in report.values())
    assert len(site.reports.ports) == 1
    children = bpftraces_below(twistd.pid)
    assert len(children) == (1 if source == "ebpf" else 0)
    twistd.transport.signalProcess(number)
    assert await soon(twistd.exit_code) == 0, twistd.output
    for child in children:
        await gone(child)


@pytest_twisted.ensureDeferred
async def test_killed_profiler_leaves_no_bpftrace(site: Listening) -> None:
    """The bpftrace ends with the profiler even when nothing in the profiler can see to it."""
    twistd = site.profiler("--source", "ebpf")
    await soon(site.reports.received.get())
    (child,) = bpftraces_below(twistd.pid)
    twistd.transport.signalProcess("KILL")
    await soon(twistd.exit_code)
    await gone(child)


@pytest_twisted.ensureDeferred
async def test_auto_without_bpftrace(site: Listening, tmp_path: Path) -> None:
    """Where there is no bpftrace `auto` reports from /proc, and the log says in one line why."""
    previous = os.environ["PATH"]
    os.environ["PATH"] = str(tmp_path)
    try:
        twistd = site.profiler("--source", "auto")
    finally:
        os.environ["PATH"] = previous
    await soon(site.reports.received.get())
    assert "measuring with procfs, not eBPF: no bpftrace on PATH" in twistd.output


@pytest_twisted.ensureDeferred
async def test_wrong_option(site: Listening) -> None:
    """A wrong value ends the start with one line that names option and value, and an exit code that is not 0."""
    twistd = site.profiler("--interval", "often")
    assert await soon(twistd.exit_code) == 1
    assert twistd.output.splitlines() == ["twistd profiler: --interval 'often' is not from 1 to 3600 seconds"]
