"""The orchestrator's own metrics, all named `orchestrator_...`, in a registry that it is given."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import twisted
from prometheus_client import Counter, Gauge, Histogram, ProcessCollector

from orchestratord import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

#: Every outcome of a report, so that each is exported from the start, as 0.
REPORT_OUTCOMES = ("accepted", "superseded", "invalid", "too_large", "unsupported", "table_full", "draining", "failed")

#: Every outcome of an upstream request.
UPSTREAM_OUTCOMES = ("answered", "unreachable", "broken", "timeout", "cancelled")

_UNNAMED = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Telemetry:
    """Counts what the daemon does. Every method may be called from any thread.

    `fresh_nodes` returns the number of fresh nodes at the time of the call; it is called at each scrape.
    """

    def __init__(self, registry: CollectorRegistry, fresh_nodes: Callable[[], int]) -> None:
        nodes = Gauge("orchestrator_nodes", "Nodes with a fresh report.", registry=registry)
        nodes.set_function(fresh_nodes)
        reports = Counter(
            "orchestrator_reports_total",
            "Reports by what became of them; a refused batch counts as one.",
            ["outcome"],
            registry=registry,
        )
        self._reports = {outcome: reports.labels(outcome) for outcome in REPORT_OUTCOMES}
        self._report_bytes = Histogram(
            "orchestrator_report_bytes",
            "Size of the bodies posted to /update_metrics, unpacked.",
            buckets=(128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576),
            registry=registry,
        )
        self._expired = Counter(
            "orchestrator_nodes_expired_total",
            "Nodes removed because they stopped reporting.",
            registry=registry,
        )
        self._unknown = Counter(
            "orchestrator_unknown_metrics_total",
            "Names in reports that are in no catalogue, and were ignored.",
            registry=registry,
        )
        self._requests = Counter(
            "orchestrator_http_requests_total",
            "HTTP requests answered; code 499 means that the client left before the answer.",
            ["route", "method", "code"],
            registry=registry,
        )
        self._durations = Histogram(
            "orchestrator_http_request_duration_seconds",
            "From the whole request's arrival to the answer's last byte written, in seconds.",
            ["route"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self._upstream_requests = Counter(
            "orchestrator_upstream_requests_total",
            "Requests to Prometheus by what became of them.",
            ["upstream", "outcome"],
            registry=registry,
        )
        self._upstream_up = Gauge(
            "orchestrator_upstream_up",
            "Whether the last request to this Prometheus reached it; 1 before the first.",
            ["upstream"],
            registry=registry,
        )
        Gauge(
            "orchestrator_build_info",
            "Always 1; the labels say what is running.",
            ["version", "python", "twisted"],
            registry=registry,
        ).labels(__version__, platform.python_version(), twisted.__version__).set(1)
        ProcessCollector(registry=registry)
        # The children of labelled metrics, bound once: a `labels()` call takes longer than what it is called for.
        self._request_children: dict[tuple[str, bytes, int], Counter] = {}
        self._duration_children: dict[str, Histogram] = {}

    def report_body(self, size: int) -> None:
        """Record the unpacked size of a report's body, in bytes."""
        self._report_bytes.observe(size)

    def reports(self, outcome: str, count: int = 1) -> None:
        """Count reports; `outcome` is one of REPORT_OUTCOMES."""
        self._reports[outcome].inc(count)

    def unknown_metrics(self, count: int) -> None:
        """Count names that are in no catalogue."""
        self._unknown.inc(count)

    def expired(self, count: int) -> None:
        """Count nodes that were removed because they went stale."""
        self._expired.inc(count)

    def request(self, route: str, method: bytes, code: int, seconds: float) -> None:
        """Record an answered request. `route` is one of a fixed set of patterns; any odd method counts as "other"."""
        key = (route, method, code)
        counter = self._request_children.get(key)
        if counter is None:
            name = method.decode("latin-1")
            name = name if name in _METHODS else "other"
            counter = self._requests.labels(route, name, str(code))
            if name != "other":
                self._request_children[key] = counter
        counter.inc()
        histogram = self._duration_children.get(route)
        if histogram is None:
            histogram = self._duration_children[route] = self._durations.labels(route)
        histogram.observe(seconds)

    def upstream_known(self, upstream: str) -> None:
        """Export an upstream from the start: up, nothing asked yet."""
        self._upstream_up.labels(upstream).set(1)
        for outcome in UPSTREAM_OUTCOMES:
            self._upstream_requests.labels(upstream, outcome)

    def upstream_request(self, upstream: str, outcome: str) -> None:
        """Count a request to an upstream; `outcome` is one of UPSTREAM_OUTCOMES."""
        self._upstream_requests.labels(upstream, outcome).inc()

    def upstream_up(self, upstream: str, *, up: bool) -> None:
        """Record whether an upstream could be reached."""
        self._upstream_up.labels(upstream).set(1 if up else 0)
