"""The daemon's HTTP side without a socket: a site on an in-memory transport and a Clock, raw bytes in, answers out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.nodes.departed import DepartedNodes
from orchestratord.nodes.directory import TableDirectory
from orchestratord.nodes.exposition import Exposition
from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.store import NodeStore
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.time_slices import TimeSlices
from orchestratord.security.gate import Gate
from orchestratord.web.api.admin import Admin
from orchestratord.web.api.klein_app import AdminRoot, Api, Root, hot_leaves
from orchestratord.web.api.metrics import ScrapeResource
from orchestratord.web.api.queries import Queries
from orchestratord.web.api.report_remarks import ReportRemarks
from orchestratord.web.api.reports import AT_ONCE, ReportsResource
from orchestratord.web.pages.activity import ActivityRecorder
from orchestratord.web.pages.resource import Pages
from orchestratord.web.routes import HOT_QUERIES
from orchestratord.web.server.connection_limit import ConnectionLimit
from orchestratord.web.server.context import ServerContext
from orchestratord.web.server.fast_path import FastPath
from orchestratord.web.server.site import OrchestratorSite
from orchestratord.web.server.slow_readers import SlowReaders
from tests.fakes import FakeClocks, FakeUpstreams, Metrics, decoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from twisted.web.http import Request

    from orchestratord.nodes.directory import NodeDirectory
    from orchestratord.web.server.channel import BoundedChannel


def turn(clock: Clock) -> None:
    """Run what is due now and nothing that it calls for in its turn, as a reactor does."""
    due: list[Any] = [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]
    for call in due:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a request; header names are given with `_` for `-`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class NarrowTransport(StringTransport):
    """A transport whose client reads as fast as it is answered, until `narrow` is set: then only what it asks for."""

    narrow = False
    producer: Any
    #: As a TCP connection of Twisted has them: what was not sent yet.
    offset = _tempDataLen = 0
    _said = b""

    @property
    def dataBuffer(self) -> bytes:
        """What the client has not read, or what a test says is there."""
        return self._said or self.value()

    @dataBuffer.setter
    def dataBuffer(self, data: bytes) -> None:
        self._said = data

    def fileno(self) -> int:
        """Raise ValueError: there is no kernel."""
        raise ValueError("not a socket")

    def write(self, data: bytes) -> None:
        """Take data, and stop whoever writes if nobody reads."""
        super().write(data)
        if self.narrow and data:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Take data, all of it at once."""
        self.write(b"".join(data))


class Connection:
    """A client's connection to the site."""

    def __init__(self, site: OrchestratorSite) -> None:
        self.transport = NarrowTransport()
        channel: Any = site.buildProtocol(None)
        self.channel: BoundedChannel = channel
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.channel.dataReceived(data)

    def read(self) -> int:
        """Take what was written, as a client does that reads slowly; return how many bytes that was."""
        size = len(self.transport.value())
        self.transport.clear()
        self.channel.resumeProducing()
        return size

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    def half_close(self) -> None:
        """Say that the client sends nothing more; it still reads."""
        told: Any = IHalfCloseableProtocol(self.channel)
        told.readConnectionLost()

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def answers(self) -> list[Answer]:
        """Return what was answered since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return answers(data)


def answers(data: bytes) -> list[Answer]:
    """Return the answers that these bytes are."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            content, data = _unchunked(data)
        else:
            # The answer to a HEAD has a length and no body; no body begins like an answer.
            size = 0 if data.startswith(b"HTTP/1.1 ") else int(headers.get("content-length", 0))
            content, data = data[:size], data[size:]
        answers.append(Answer(int(first.split()[1]), headers, content))
    return answers


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    """Return a chunked body, and what comes after it."""
    content = []
    while True:
        size, _, data = data.partition(b"\r\n")
        content.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
        if not content[-1]:
            return b"".join(content), data


class FakeMetricsResource(Resource):
    """Stands for MetricsResource, which needs a real reactor's threads."""

    isLeaf = True
    never = False
    asked: Any = None

    def render(self, request: Request) -> bytes | int:
        """Answer what is rare, or never."""
        names = (b"Accept", b"Accept-Encoding")
        self.asked = [request.requestHeaders.getRawHeaders(name) for name in names]
        if self.never:
            return NOT_DONE_YET
        request.setHeader(b"content-type", b"text/plain")
        return b"fallback"


class Wire:
    """The whole tree over fakes, and what a test looks at."""

    def __init__(
        self,
        *,
        max_nodes: int = 100,
        max_body: int = 1_000_000,
        max_batch: int = 10_000,
        gate: Gate | None = None,
        access_log: bool = False,
        admin_elsewhere: bool = False,
        max_arriving: int = 100_000_000,
        max_connections: int = 10_000,
        fleet: Callable[[Wire], NodeDirectory] | None = None,
    ) -> None:
        """`fleet` makes another one than that of the table, from what is there by then."""
        self.gate = Gate({}) if gate is None else gate
        self.clock = Clock()
        self.clocks = FakeClocks()
        self.metrics = Metrics()
        self.upstreams = FakeUpstreams()
        self.fallback = FakeMetricsResource()
        self.draining = False
        self.sick: str | None = None
        self.undelivered: str | None = None
        self.arriving = MemoryBudget(max_arriving)
        self.connections = ConnectionLimit(max_connections)
        self.readers = SlowReaders(self.clock)
        self.nodes = NodeStore(stale_after=60, max_nodes=max_nodes)
        self.departed = DepartedNodes(self.nodes, self.clocks)
        self.nodes.observers.append(self.departed)
        self.in_thread: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred
        self.queries = queries = Queries(self.upstreams, max_length=1000)
        self.fleet = TableDirectory(self.nodes, self.clocks) if fleet is None else fleet(self)
        self.forget: Callable[[str], Awaitable[bool]] = TableDirectory(self.nodes, self.clocks).forget
        self.admin = Admin(
            lambda node_id: self.departed.forget(node_id, self.forget),
            unhealthy=lambda: self.sick,
            unready=lambda: "draining" if self.draining else None,
        )
        self.history = ActivityRecorder(
            self.clock, self.metrics.telemetry, self.nodes, self.clocks.monotonic, HOT_QUERIES
        )
        pages = Pages(
            self.clock,
            self.fleet,
            BUILT_IN,
            self.upstreams,
            self.clocks,
            telemetry=self.metrics.telemetry,
            history=self.history,
            departed=self.departed,
            in_thread=lambda work: self.in_thread(work),  # noqa: PLW0108 - a test may change it
            unhealthy=lambda: self.sick,
            unready=lambda: "draining" if self.draining else None,
            undelivered=lambda: self.undelivered,
            max_nodes=max_nodes,
            max_length=1000,
        )
        api = Api(
            self.fleet,
            BUILT_IN,
            queries,
            departed=self.departed,
            pages=pages,
            in_thread=lambda work: self.in_thread(work),  # noqa: PLW0108 - a test may change it
            admin=None if admin_elsewhere else self.admin,
        )
        slices = TimeSlices(self.clock)
        reports = ReportsResource(
            self.clock,
            decoder(max_batch=max_batch),
            self.nodes,
            self.metrics.telemetry,
            self.clocks,
            remarks=ReportRemarks(BUILT_IN.names, self.nodes.stale_after),
            max_bytes=max_body,
            draining=lambda: self.draining,
            slices=slices,
        )
        scrape = ScrapeResource(
            slices,
            self.nodes,
            Exposition(BUILT_IN, self.metrics.registry),
            self.metrics.telemetry,
            self.clocks,
            fallback=self.fallback,
        )
        self.fast_path = FastPath(reports, queries, self.metrics.telemetry, self.gate, max_body=min(AT_ONCE, max_body))
        self.context = partial(
            ServerContext,
            self.metrics.telemetry,
            self.clock,
            gate=self.gate,
            max_body=max_body,
            arriving=self.arriving,
            connections=self.connections,
            readers=self.readers,
            request_timeout=30,
            idle_timeout=60,
            answer_timeout=20,
        )
        hot = hot_leaves(reports, queries)
        self.site = OrchestratorSite(
            Root(api, scrape), self.context(hot=hot, fast_path=self.fast_path, access_log=access_log)
        )
        self.site.startFactory()

    def admin_wire(self) -> Wire:
        """Return the administrators' own listener of the same daemon."""
        other = object.__new__(Wire)
        other.__dict__.update(self.__dict__)
        other.site = OrchestratorSite(AdminRoot(self.admin), self.context(hot={}, fast_path=None))
        return other

    def connect(self) -> Connection:
        """Return a new connection."""
        return Connection(self.site)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send one request on a connection of its own and return its answer."""
        connection = self.connect()
        connection.send(request(method, path, body, **headers))
        if connection.channel.requests:  # where the machine is busy even a small scrape takes more than one turn
            self.clock.pump([0] * 20)
        (answer,) = connection.answers()
        return answer

    def report(self, body: bytes, **headers: str) -> Answer:
        """Post to /update_metrics."""
        return self.ask("POST", "/update_metrics", body, **headers)

    def ids(self) -> list[str]:
        """Return the fresh nodes."""
        return sorted(entry.report.node_id for entry in self.nodes.snapshot(self.clocks.monotonic()))

    def counted(self, outcome: str) -> float | None:
        """Return how many reports had an outcome."""
        return self.metrics.value("orchestrator_reports_total", outcome=outcome)
