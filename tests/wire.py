"""The daemon's HTTP side without a socket: a site on an in-memory transport and a Clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.config.loader import load
from orchestratord.nodes.directory import TableDirectory
from orchestratord.runtime.time_slices import TimeSlices
from orchestratord.security.gate import Gate
from orchestratord.wiring.access import Access
from orchestratord.wiring.http import Backend, Condition, make_http, make_scrape
from orchestratord.wiring.limits import make_limits
from orchestratord.wiring.nodes import NodeSource, make_nodes
from orchestratord.wiring.remote_write import ReportDelivery
from orchestratord.wiring.runtime import Runtime
from tests.fakes import FakeClocks, FakeUpstreams, Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from twisted.web.http import Request

    from orchestratord.nodes.directory import NodeDirectory
    from orchestratord.web.server.channel import BoundedChannel
    from orchestratord.web.server.site import OrchestratorSite

#: What a wire is made from, if a test says nothing else. No snapshots: there is no disk.
_DEFAULTS = replace(
    load({}, {}),
    stale_after=60.0,
    max_query_length=1000,
    request_timeout=30.0,
    idle_timeout=60.0,
    answer_timeout=20.0,
    snapshot_every=0.0,
)


def turn(clock: Clock) -> None:
    """Run the calls that are due now, but not those that they schedule, as one turn of a reactor does."""
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
    """A transport whose client reads at once; with `narrow` set it reads only when a test says so."""

    narrow = False
    producer: Any
    #: As a TCP connection of Twisted has them: what was not sent yet.
    offset = _tempDataLen = 0
    _said = b""

    @property
    def dataBuffer(self) -> bytes:
        """The bytes that the client has not read, or those that a test has set."""
        return self._said or self.value()

    @dataBuffer.setter
    def dataBuffer(self, data: bytes) -> None:
        self._said = data

    def fileno(self) -> int:
        """Raise ValueError: there is no kernel."""
        raise ValueError("not a socket")

    def write(self, data: bytes) -> None:
        """Take data, and pause the producer if the client does not read."""
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
        """Read what was written, as a slow client does; return the number of bytes."""
        size = len(self.transport.value())
        self.transport.clear()
        self.channel.resumeProducing()
        return size

    def leave(self) -> None:
        """Close the connection from the client's side."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    def half_close(self) -> None:
        """Close the client's sending side; the client still reads."""
        told: Any = IHalfCloseableProtocol(self.channel)
        told.readConnectionLost()

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def answers(self) -> list[Answer]:
        """Return the answers since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return answers(data)


def answers(data: bytes) -> list[Answer]:
    """Return the answers in these bytes."""
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
    """A fake of MetricsResource, which needs the threads of a real reactor."""

    isLeaf = True
    never = False
    asked: Any = None

    def render(self, request: Request) -> bytes | int:
        """Answer a fixed text; with `never`, leave the request open."""
        names = (b"Accept", b"Accept-Encoding")
        self.asked = [request.requestHeaders.getRawHeaders(name) for name in names]
        if self.never:
            return NOT_DONE_YET
        request.setHeader(b"content-type", b"text/plain")
        return b"fallback"


class Wire:
    """The HTTP side, built by `orchestratord.wiring` over fakes, and the parts that tests look at."""

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
        """`fleet` makes another node directory than that of the table, from what the wire has by then."""
        settings = replace(
            _DEFAULTS,
            max_nodes=max_nodes,
            max_report_bytes=max_body,
            max_batch=max_batch,
            max_arriving_bytes=max_arriving,
            max_connections=max_connections,
            access_log=access_log,
            admin_listen=("tcp:5001",) if admin_elsewhere else (),
        )
        self.gate = Gate({}) if gate is None else gate
        self.clock = Clock()
        self.clocks = FakeClocks()
        self.metrics = Metrics()
        self.upstreams = FakeUpstreams()
        self.fallback = FakeMetricsResource()
        self.draining = False
        self.sick: str | None = None
        self.undelivered: str | None = None
        self.in_thread: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred
        limits = make_limits(self.clock, settings)
        self.arriving, self.connections, self.readers = limits.arriving, limits.connections, limits.readers
        nodes = make_nodes(self.clock, settings, self.metrics.telemetry, self.clocks)
        self.nodes = nodes.store
        table = TableDirectory(self.nodes, self.clocks)
        self.forget: Callable[[str], Awaitable[bool]] = table.forget
        # Lambdas, where a test may change what they name.
        backend = Backend(
            runtime=Runtime(
                self.clock,
                self.clocks,
                TimeSlices(self.clock),
                in_thread=lambda work: self.in_thread(work),  # noqa: PLW0108
            ),
            nodes=nodes,
            source=NodeSource(
                table if fleet is None else fleet(self),
                forget=lambda node_id: self.forget(node_id),  # noqa: PLW0108
            ),
            client=self.upstreams,
            telemetry=self.metrics.telemetry,
            limits=limits,
            access=Access(self.gate),
            condition=Condition(
                unhealthy=lambda: self.sick,
                unready=lambda: "draining" if self.draining else None,
                draining=lambda: self.draining,
            ),
            delivery=ReportDelivery(trouble=lambda: self.undelivered),
        )
        scrape = make_scrape(settings, backend, self.metrics.registry, fallback=self.fallback)
        self._http = make_http(settings, backend, scrape)
        self.queries = self._http.queries
        self.site = self._http.site
        self.fast_path = self._http.fast_path
        self.site.startFactory()

    def admin_wire(self) -> Wire:
        """Return the administrators' own listener of the same daemon."""
        other = object.__new__(Wire)
        other.__dict__.update(self.__dict__)
        other.site = self._http.admin_site
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
