"""The orchestrator's own metrics, all named `orchestrator_...`: plain numbers, which become samples at a scrape."""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import twisted
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from orchestratord import __version__
from orchestratord.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

#: Every outcome of a report. Each is exported from the start, as 0.
REPORT_OUTCOMES = (
    "accepted",
    "superseded",
    "invalid",
    "ahead",
    "too_large",
    "unsupported",
    "unauthorized",
    "forbidden",
    "unverified",
    "table_full",
    "busy",
    "draining",
    "failed",
)

#: Every outcome of an upstream request.
UPSTREAM_OUTCOMES = ("answered", "unreachable", "broken", "timeout", "cancelled")

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_BODY_BYTES = (128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576)
#: The bounds of the durations of requests, in seconds.
DURATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Totals(NamedTuple):
    """Counts since the start of the process."""

    #: Accepted reports (also superseded ones), and refused ones.
    reports: int
    refused: int
    #: Queries by duration: between each of DURATION_BOUNDS and the one before it, and longer than the last.
    queries: tuple[int, ...]


class UpstreamState(NamedTuple):
    """Whether an upstream is up, by queries and probes."""

    base: str
    up: bool


class SelfMetrics(Collector):
    """The counters and gauges of the daemon.

    Only the reactor thread may change them; any thread may call `collect`.
    """

    def __init__(self) -> None:
        self._nodes = 0
        self._reports = Counter(dict.fromkeys(REPORT_OUTCOMES, 0))
        self._report_bytes = Histogram(_BODY_BYTES)
        self._expired = 0
        self._unknown = 0
        self._requests: Counter[tuple[str, bytes, int]] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._upstream_requests: Counter[tuple[str, str]] = Counter()
        self._upstream_up: dict[str, bool] = {}
        self._certificate_not_after: float | None = None
        self._snapshot_failures = 0
        self._snapshot: tuple[float, float, int] | None = None
        self._watched: list[tuple[str, str, bool, Callable[[], float]]] = []

    def watch(self, name: str, help_text: str, read: Callable[[], float], *, counter: bool = False) -> None:
        """Export a gauge, or a counter, whose value `read` returns. `read` must be safe to call on any thread."""
        self._watched.append((name, help_text, counter, read))

    def nodes(self, fresh: int) -> None:
        """Record how many nodes are fresh, as a scrape begins."""
        self._nodes = fresh

    def report_body(self, size: int) -> None:
        """Record the unpacked size of a report's body, in bytes."""
        self._report_bytes.observe(size)

    def reports(self, outcome: str, count: int = 1) -> None:
        """Count reports; `outcome` is one of REPORT_OUTCOMES."""
        self._reports[outcome] += count

    def unknown_metrics(self, count: int) -> None:
        """Count names in reports that are not those of a known family."""
        self._unknown += count

    def expired(self, count: int) -> None:
        """Count nodes that were removed because they went stale."""
        self._expired += count

    def request(self, route: str, method: bytes, code: int, seconds: float) -> None:
        """Record an answered request. `route` is one of a fixed set of patterns; unknown methods count as "other"."""
        self._requests[route, method if method in _METHODS else b"other", code] += 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = Histogram(DURATION_BOUNDS)
        durations.observe(seconds)

    def upstream_known(self, upstream: str) -> None:
        """Export an upstream from the start: up, nothing asked yet."""
        self._upstream_up[upstream] = True
        for outcome in UPSTREAM_OUTCOMES:
            self._upstream_requests[upstream, outcome] = 0

    def upstream_request(self, upstream: str, outcome: str) -> None:
        """Count a request to an upstream; `outcome` is one of UPSTREAM_OUTCOMES."""
        self._upstream_requests[upstream, outcome] += 1

    def upstream_up(self, upstream: str, *, up: bool) -> None:
        """Record whether an upstream answers."""
        self._upstream_up[upstream] = up

    def totals(self, query_routes: Iterable[str]) -> Totals:
        """Return the counts so far; queries are the requests of `query_routes`. On the reactor thread."""
        counts = [self._durations[route].counts for route in query_routes if route in self._durations]
        taken = self._reports["accepted"] + self._reports["superseded"]
        return Totals(
            taken,
            sum(self._reports.values()) - taken,
            tuple(map(sum, zip(*counts, strict=True))) or (0,) * (len(DURATION_BOUNDS) + 1),
        )

    def upstreams(self) -> list[UpstreamState]:
        """Return the upstreams in their order. On the reactor thread."""
        return [UpstreamState(base, up) for base, up in self._upstream_up.items()]

    def certificate_not_after(self, unix_time: float) -> None:
        """Record when the certificate of the `tls:` listeners expires; without a call it is not exported."""
        self._certificate_not_after = unix_time

    def snapshot_written(self, unix_time: float, seconds: float, size: int) -> None:
        """Record a snapshot: when it was on the disk, how long that took, its size in bytes."""
        self._snapshot = (unix_time, seconds, size)

    def snapshot_failed(self) -> None:
        """Count a snapshot that could not be written."""
        self._snapshot_failures += 1

    def describe(self) -> Iterator[Metric]:
        """Return the families, by whose names `name[]` filters."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the families with their samples."""
        yield GaugeMetricFamily("orchestrator_nodes", "Nodes with a fresh report.", self._nodes)
        reports = CounterMetricFamily(
            "orchestrator_reports",
            "Reports by what became of them; a refused batch counts as one.",
            labels=["outcome"],
        )
        for outcome, count in dict(self._reports).items():
            reports.add_metric([outcome], count)
        yield reports
        report_bytes = HistogramMetricFamily(
            "orchestrator_report_bytes", "Size of the bodies posted to /update_metrics, unpacked, in bytes."
        )
        self._report_bytes.add_to(report_bytes, [])
        yield report_bytes
        yield CounterMetricFamily(
            "orchestrator_nodes_expired", "Nodes removed because they stopped reporting.", self._expired
        )
        yield CounterMetricFamily(
            "orchestrator_unknown_metrics",
            "Names in reports that are in no catalogue, and were ignored.",
            self._unknown,
        )
        yield from self._http()
        yield from self._upstreams()
        for name, help_text, counter, read in self._watched:
            yield (CounterMetricFamily if counter else GaugeMetricFamily)(name, help_text, read())
        if self._certificate_not_after is not None:
            yield GaugeMetricFamily(
                "orchestrator_tls_certificate_not_after_timestamp_seconds",
                "Unix time at which the certificate of the TLS listeners expires.",
                self._certificate_not_after,
            )
        yield from self._snapshots()
        build = GaugeMetricFamily(
            "orchestrator_build_info",
            "Always 1; the labels say what is running.",
            labels=["version", "python", "twisted"],
        )
        build.add_metric([__version__, platform.python_version(), twisted.__version__], 1)
        yield build

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "orchestrator_http_requests",
            "HTTP requests answered; code 499 means that the client left before the answer.",
            labels=["route", "method", "code"],
        )
        for (route, method, code), count in dict(self._requests).items():
            requests.add_metric([route, method.decode(), str(code)], count)
        yield requests
        durations = HistogramMetricFamily(
            "orchestrator_http_request_duration_seconds",
            "From the whole request's arrival to the answer's last byte written, in seconds.",
            labels=["route"],
        )
        for route, distribution in dict(self._durations).items():
            distribution.add_to(durations, [route])
        yield durations

    def _upstreams(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "orchestrator_upstream_requests",
            "Requests to Prometheus by what became of them.",
            labels=["upstream", "outcome"],
        )
        for (upstream, outcome), count in dict(self._upstream_requests).items():
            requests.add_metric([upstream, outcome], count)
        yield requests
        reachable = GaugeMetricFamily(
            "orchestrator_upstream_up",
            "Whether this Prometheus answers, by queries and by probes; 1 before the first.",
            labels=["upstream"],
        )
        for upstream, is_up in dict(self._upstream_up).items():
            reachable.add_metric([upstream], int(is_up))
        yield reachable

    def _snapshots(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "orchestrator_snapshot_failures",
            "Snapshots of the table that could not be written to --data-dir.",
            self._snapshot_failures,
        )
        written = ("last_success_timestamp_seconds", "duration_seconds", "bytes")
        helps = (
            "When the table was last written to --data-dir, in Unix seconds; absent before the first time.",
            "How long the last snapshot took to be on the disk, pauses for the reactor included.",
            "Size of the last snapshot.",
        )
        for index, (name, text) in enumerate(zip(written, helps, strict=True)):
            family = GaugeMetricFamily(f"orchestrator_snapshot_{name}", text)
            if self._snapshot is not None:
                family.add_metric([], self._snapshot[index])
            yield family
