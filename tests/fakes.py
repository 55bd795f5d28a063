"""Fakes of the clocks and of Prometheus, and reports for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred

from orchestratord.nodes.exposition import SampleRenderer
from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.report_decoder import ReportDecoder
from orchestratord.promql.alerts import ALERTS
from orchestratord.promql.client import Answer
from orchestratord.telemetry.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from orchestratord.nodes.report import NodeReport
    from orchestratord.promql.params import Query

#: A Unix time for tests: 2026-11-23 09:00 UTC.
NOW = 1_795_424_400.0

FAMILIES = BUILT_IN.names


def body(node_id: str = "n1", **fields: Any) -> bytes:
    """Return the JSON of a report."""
    return msgspec.json.encode({"node_id": node_id, **fields})


def decoder(**options: Any) -> ReportDecoder:
    """Return a decoder for the built-in catalogue."""
    return ReportDecoder(BUILT_IN, SampleRenderer(BUILT_IN), **options)


_DECODER = decoder()


def report(node_id: str = "n1", *, received_at: float = NOW, **fields: Any) -> NodeReport:
    """Return a valid report."""
    return _DECODER.decode(body(node_id, **fields), received_at).reports[0]


class Metrics:
    """A Telemetry in a registry of its own, and what it has counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.telemetry = SelfMetrics()
        self.registry.register(self.telemetry)

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample's value."""
        return self.registry.get_sample_value(name, labels)


class FakeClocks:
    """Both clocks of a report's arrival, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time by which nodes age."""
        return self.now

    def time(self) -> float:
        """Return the Unix time."""
        return NOW + self.now - 1000.0


class FakeUpstreams:
    """A fake of the Prometheus servers: gives the answer that the test has set, and remembers the queries."""

    def __init__(self) -> None:
        self.asked: list[Query] = []
        self.answer: Answer | Exception | Any = None
        self.kept: Answer | None = None
        #: What is answered to the front page's own question for alerts, which is not among `asked`.
        self.alerts: Answer | Exception | Any = Answer(404, b"text/plain", b"no such path")

    def at_once(self, query: Query) -> Answer | None:
        """Return the kept answer; None unless the test has set one."""
        del query
        return self.kept

    async def fetch(self, query: Query) -> Answer:
        """Return or raise the answer, or await it."""
        if query == ALERTS:
            answer = self.alerts
        else:
            self.asked.append(query)
            answer = self.answer
        if isinstance(answer, Exception):
            raise answer
        if hasattr(answer, "__await__"):
            answer = await answer
        result: Answer = answer
        return result


def now(work: Any) -> Any:
    """Return what a coroutine returns without waiting, or raise."""
    came: list[Any] = []
    deferred = Deferred.fromCoroutine(work)
    deferred.addBoth(came.append)
    if hasattr(came[0], "raiseException"):
        came[0].raiseException()
    return came[0]
