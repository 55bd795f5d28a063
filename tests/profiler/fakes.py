"""Fakes for the surroundings of the profiler. None of them opens a socket, starts a process or waits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from orchestratord.profiler.bucket import Bucket
from orchestratord.profiler.reporter import Reporter
from tests.peers import report_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestratord.profiler.bucket import Complaint, Delivery


def bucket(timestamp: float, page_faults: int = 0, source: str = "fake") -> Bucket:
    """Return a bucket; tests tell buckets apart by their timestamps."""
    return Bucket(
        timestamp=timestamp,
        source=source,
        mem_bytes_allocated=1,
        page_faults=page_faults,
        ctx_switches_graceful=3,
        ctx_switches_forced=4,
        fs_read_count=5,
        fs_read_size_kb=6.5,
        fs_write_count=7,
        fs_write_size_kb=8.5,
    )


class FakeSource:
    """A source that delivers and complains when the test calls it. Its stop ends when `stopped` fires."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.running = False
        self.starts = 0
        self.stopped: Deferred[None] = Deferred()
        self.obstacle: str | None = None

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Keep both callbacks; complain at once if there is an obstacle."""
        self.running = True
        self.starts += 1
        self.deliver, self.complain = deliver, complain
        if self.obstacle is not None:
            complain(self.obstacle)

    def stop(self) -> Deferred[None]:
        """Return `stopped`."""
        self.running = False
        return self.stopped


class Orchestrator(Resource):
    """Receives reports, and answers with the next of `answers`, or with 200 if none is left."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[dict[str, Any]] = []
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.silent = False
        self.half = False
        self.paths: list[bytes] = []
        self.authorizations: list[str | None] = []

    def render_POST(self, request: Request) -> bytes | int:
        """Keep the report and answer it. It refuses what the real orchestrator refuses."""
        refused = report_refusal(b"POST", request.path, request.getHeader(b"Content-Type"))
        if refused is not None:
            request.setResponseCode(refused)
            return b'{"error": "refused"}'
        self.paths.append(request.path)
        self.authorizations.append(request.getHeader("Authorization"))
        self.reports.append(json.loads(request.content.read() if request.content else b""))
        if self.silent:
            return NOT_DONE_YET
        if self.half:
            request.setHeader("Content-Length", "100")
            request.write(b"{")
            return NOT_DONE_YET
        code, body, headers = self.answers.pop(0) if self.answers else (200, b'{"status": "Metrics updated"}', {})
        request.setResponseCode(code)
        for name, value in headers.items():
            request.setHeader(name, value)
        return body


@dataclass
class Network:
    """A client whose requests reach `orchestrator` within the test, or fail with `broken`."""

    orchestrator: Orchestrator = field(default_factory=Orchestrator)
    broken: Exception | None = None

    def __post_init__(self) -> None:
        stub: Any = StubTreq
        self.treq: Any = stub(self.orchestrator)

    def post(self, url: str, /, **arguments: Any) -> Deferred[Any]:
        """Send a request."""
        if self.broken is not None:
            failed: Deferred[Any] = Deferred()
            failed.errback(self.broken)
            return failed
        return self.treq.post(url, **arguments)  # type: ignore[no-any-return]  # treq.testing has no types

    def flush(self) -> None:
        """Deliver what was written."""
        self.treq.flush()


class FakeProcess:
    """The transport of a child; the test makes the child write and end."""

    def __init__(self, protocol: Any, executable: str, arguments: list[str]) -> None:
        self.protocol = protocol
        self.executable = executable
        self.arguments = arguments
        self.signals: list[str] = []
        self.ended = False

    def signalProcess(self, name: str) -> None:
        """Keep the signal."""
        if self.ended:
            raise ProcessExitedAlready
        self.signals.append(name)

    def end(self, reason: Exception | None = None) -> None:
        """End the child."""
        self.ended = True
        failure = Failure(ProcessDone(0) if reason is None else reason)
        self.protocol.processExited(failure)
        self.protocol.processEnded(failure)

    def say(self, data: bytes) -> None:
        """Write to standard output."""
        self.protocol.childDataReceived(1, data)

    def complain(self, data: bytes) -> None:
        """Write to standard error."""
        self.protocol.childDataReceived(2, data)

    def closeStdin(self) -> None:
        """Nothing is written to a child."""


class FakePool:
    """A thread pool that does its work when the test calls `run`."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], None], work: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Keep the work."""

        def run() -> None:
            try:
                result = work(*args, **kwargs)
            except OSError:
                done(False, Failure())
            else:
                done(True, result)

        self.work.append(run)

    def run(self) -> None:
        """Do all pending work."""
        while self.work:
            self.work.pop(0)()


class FakeReactor(Clock):
    """A clock with a thread pool and children."""

    def __init__(self, now: float = 0.0) -> None:
        super().__init__()
        self.rightNow = now
        self.pool = FakePool()
        self.children: list[FakeProcess] = []
        self.broken: OSError | None = None

    def until_next_call(self) -> float:
        """Return the seconds to the only delayed call."""
        call: Any
        (call,) = self.getDelayedCalls()
        return float(call.getTime() - self.seconds())

    def getThreadPool(self) -> FakePool:
        """Return the pool."""
        return self.pool

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """Call at once: a test has one thread only."""
        function(*args)

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], *_: Any, **__: Any) -> FakeProcess:
        """Start a child."""
        if self.broken is not None:
            raise self.broken
        child = FakeProcess(protocol, executable, [str(argument) for argument in args])
        self.children.append(child)
        protocol.makeConnection(child)
        return child


@dataclass
class Outcome:
    """The buckets and the complaints of a source."""

    buckets: list[Bucket] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


URL = "http://orchestrator.test:5000/update_metrics"


def reporter(reactor: FakeReactor, network: Network) -> Reporter:
    """Return a reporter to `network`. Its random numbers are always 0.5, so the first retry is after 0.75 s."""
    return Reporter(
        reactor,
        network,
        URL,
        "node-1",
        deadline=5.0,
        interval=10.0,
        renew=lambda: None,
        draw=lambda: 0.5,
        unix_time=reactor.seconds,
    )
