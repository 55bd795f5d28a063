"""The metrics of remote write: reports that were sent, retried or dropped, and those that wait in the spool."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from orchestratord.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

#: Every outcome of a request to the store: each is exported from the start, as 0.
REQUEST_OUTCOMES = ("accepted", "retried", "refused")

#: The outcomes for a node that is gone: stale markers were sent; or none were, because another replica has heard from
#: the node, because its series had ended already, or because the store did not answer.
MARKER_OUTCOMES = ("sent", "heard_elsewhere", "ended_already", "unanswered")

#: The bounds of the durations of requests to the store, in seconds.
_REQUEST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: The bounds of the time from a report's arrival to its acceptance, in seconds: up to the length of an outage.
_LAG_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)


class LogState(Protocol):
    """The state of the write-ahead log; any thread may read it, and no property waits for the disk."""

    @property
    def bytes(self) -> int:
        """Bytes in the log, on the disk and in memory."""

    @property
    def held_bytes(self) -> int:
        """Those of them that are only in memory, because the disk fails."""

    @property
    def failures(self) -> int:
        """How often the disk has failed."""

    @property
    def oldest(self) -> float | None:
        """When the oldest undelivered report was written, in Unix seconds; None if there is none."""

    @property
    def overflowed(self) -> int:
        """Rows that were dropped because the log was full."""

    @property
    def unreadable(self) -> int:
        """Frames or segments that were lost because they were damaged."""


class RemoteWriteMetrics(Collector):
    """Counts what delivery does, and reads the state of the log at each scrape.

    The reactor thread counts; any thread may collect.
    """

    def __init__(self, spool: LogState, now: Callable[[], float], *, limit_bytes: int, samples_per_row: int) -> None:
        """`now` returns Unix seconds; `samples_per_row` is the number of samples of a report with every family."""
        self._spool = spool
        self._now = now
        self._limit_bytes = limit_bytes
        self._samples_per_row = samples_per_row
        self._accepted = 0
        self._retried = 0
        self._refused = 0
        self._up = True
        self._requests = Counter(dict.fromkeys(REQUEST_OUTCOMES, 0))
        self._markers = Counter(dict.fromkeys(MARKER_OUTCOMES, 0))
        self._durations = Histogram(_REQUEST_BOUNDS)
        self._lag = Histogram(_LAG_BOUNDS)

    def accepted(self, samples: int, seconds: float) -> None:
        """Count a request that the store accepted, and how long it took."""
        self._accepted += samples
        self._request("accepted", seconds)

    def retried(self, samples: int, seconds: float) -> None:
        """Count a request that is sent again: no answer, 5xx, 429, or a 4xx that is not about the data."""
        self._retried += samples
        self._request("retried", seconds)

    def refused(self, samples: int, seconds: float) -> None:  # noqa: ARG002 - `dropped` counts the dropped samples
        """Count a request that the store refused; its samples may be sent again in smaller ones."""
        self._request("refused", seconds)

    def dropped(self, samples: int) -> None:
        """Count samples that are dropped because the store refuses them."""
        self._refused += samples

    def lag(self, seconds: float, reports: int) -> None:
        """Record that `reports` reports were accepted `seconds` seconds after their arrival."""
        self._lag.observe(seconds, reports)

    def up(self, up: bool) -> None:
        """Record whether the last request was answered by a healthy store, which accepted or refused the data."""
        self._up = up

    def marker(self, outcome: str, count: int = 1) -> None:
        """Count nodes that are gone; `outcome` is one of MARKER_OUTCOMES."""
        self._markers[outcome] += count

    def describe(self) -> Iterator[Metric]:
        """Return the families: what `name[]` filters by."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the families with their samples."""
        yield CounterMetricFamily(
            "orchestrator_remote_write_samples",
            "Samples that the store accepted, stale markers among them.",
            self._accepted,
        )
        yield CounterMetricFamily(
            "orchestrator_remote_write_samples_retried",
            "Samples in requests that the store answered with 5xx, with 429, or with a refusal of us (401, 403, 404),"
            " or not at all; they are sent again, and count each time.",
            self._retried,
        )
        yield _by(
            "orchestrator_remote_write_samples_dropped",
            "Samples that never reach the store: refused by it, dropped because the spool was full (overflow), or"
            " unreadable in the spool. Of the latter two, a report counts as one sample of every family.",
            "reason",
            self._dropped(),
        )
        yield _by(
            "orchestrator_remote_write_requests",
            "Requests to the store by what became of them; a refused one may be sent again in smaller parts.",
            "outcome",
            self._requests,
        )
        yield _spread(
            "orchestrator_remote_write_request_duration_seconds",
            "From the start of a request to the store to the end of its answer, or to its failure, in seconds.",
            self._durations,
        )
        yield _spread(
            "orchestrator_remote_write_lag_seconds",
            "From a report's arrival to its acceptance by the store, in seconds.",
            self._lag,
        )
        yield GaugeMetricFamily(
            "orchestrator_remote_write_up",
            "Whether the store took the last request, or refused its data; 0 after 5xx, 429, a refusal of us (401, 403,"
            " 404), or no answer; 1 before the first.",
            int(self._up),
        )
        yield _by(
            "orchestrator_stale_markers",
            "Nodes that went stale or were forgotten, by what became of their series: ended by stale markers (sent),"
            " or left alone: another replica has heard from the node (heard_elsewhere), they had been ended before"
            " (ended_already), or the store did not say (unanswered).",
            "outcome",
            self._markers,
        )
        yield from self._spooled()

    def _request(self, outcome: str, seconds: float) -> None:
        self._requests[outcome] += 1
        self._durations.observe(seconds)

    def _dropped(self) -> dict[str, int]:
        return {
            "refused": self._refused,
            "overflow": self._spool.overflowed * self._samples_per_row,
            "unreadable": self._spool.unreadable * self._samples_per_row,
        }

    def _spooled(self) -> Iterator[Metric]:
        spool, oldest = self._spool, self._spool.oldest
        yield GaugeMetricFamily(
            "orchestrator_spool_bytes",
            "Reports in the spool that the store has not accepted yet, on the disk and in memory, in bytes; 0: none.",
            spool.bytes,
        )
        yield GaugeMetricFamily(
            "orchestrator_spool_limit_bytes",
            "What the spool holds at most, in bytes; beyond it, the oldest reports are dropped.",
            self._limit_bytes,
        )
        yield GaugeMetricFamily(
            "orchestrator_spool_oldest_seconds",
            "Age of the oldest report that the store has not accepted yet, in seconds; 0 if there is none.",
            0.0 if oldest is None else max(self._now() - oldest, 0.0),
        )
        yield GaugeMetricFamily(
            "orchestrator_spool_held_bytes",
            "Those of them that are in memory, because the disk refuses them, in bytes.",
            spool.held_bytes,
        )
        yield CounterMetricFamily(
            "orchestrator_spool_failures", "Attempts to write or sync the spool that the disk refused.", spool.failures
        )


def _by(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """Return a counter with a sample for each value of its label."""
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, count in dict(counts).items():
        family.add_metric([value], count)
    return family


def _spread(name: str, help_text: str, distribution: Histogram) -> Metric:
    family = HistogramMetricFamily(name, help_text)
    distribution.add_to(family, [])
    return family
