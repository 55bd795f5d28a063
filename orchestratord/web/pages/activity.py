"""The activity of the daemon in the last hour: its counters, sampled every 5 s, and the rates between the samples."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from orchestratord.telemetry.self_metrics import DURATION_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestratord.nodes.store import NodeStore
    from orchestratord.telemetry.self_metrics import SelfMetrics, Totals

log = Logger()

#: Seconds between two samples, and for which a sample is kept.
EVERY = 5.0
KEPT = 3600.0
#: Seconds over which a rate is computed, and over which a quantile is.
_RATE_OVER = 30.0
_QUANTILE_OVER = 300.0
#: Points of a line at most.
_POINTS = 60


class _Sample(NamedTuple):
    at: float
    nodes: int
    totals: Totals


class Activity(NamedTuple):
    """The activity that the status page shows. Rates are per second, over the last 30 s; `uptime` is in seconds."""

    uptime: float
    nodes: int
    reports_rate: float
    refused_rate: float
    queries_rate: float
    #: 99 % of the queries of the last five minutes took at most so many seconds; a bound of the histogram, infinite if
    #: above its largest. None if there were no queries.
    query_p99: float | None
    #: One line each for the last hour, the oldest point first.
    nodes_line: list[float]
    reports_line: list[float]
    queries_line: list[float]


class ActivityRecorder(Service):
    """Samples the counters of `telemetry`. Belongs to the reactor thread.

    `monotonic` is the clock of the node store, in seconds; `query_routes` are the routes that answer queries.
    """

    def __init__(
        self,
        reactor: Any,
        telemetry: SelfMetrics,
        nodes: NodeStore,
        monotonic: Callable[[], float],
        query_routes: Iterable[str],
    ) -> None:
        self._telemetry = telemetry
        self._nodes = nodes
        self._monotonic = monotonic
        self._query_routes = tuple(query_routes)
        self._started = monotonic()
        self._samples: deque[_Sample] = deque([self._now()], maxlen=int(KEPT / EVERY) + 1)
        self._loop = LoopingCall(self.sample)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Start to sample."""
        super().startService()
        self._loop.start(EVERY, now=False)

    def stopService(self) -> None:
        """Stop sampling."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def sample(self) -> None:
        """Take a sample now."""
        try:
            self._samples.append(self._now())
        except Exception:  # noqa: BLE001 - a LoopingCall stops at the first exception
            log.failure("the counts could not be sampled")

    def activity(self) -> Activity:
        """Return the activity up to now."""
        now = self._now()
        before = self._ago(now.at, _RATE_OVER)
        seconds = max(now.at - before.at, 1.0)
        earlier = self._ago(now.at, _QUANTILE_OVER).totals.queries
        samples = [*self._samples, now]
        return Activity(
            uptime=now.at - self._started,
            nodes=now.nodes,
            reports_rate=(now.totals.reports - before.totals.reports) / seconds,
            refused_rate=(now.totals.refused - before.totals.refused) / seconds,
            queries_rate=(sum(now.totals.queries) - sum(before.totals.queries)) / seconds,
            query_p99=_quantile_bound(0.99, [a - b for a, b in zip(now.totals.queries, earlier, strict=True)]),
            nodes_line=_line([float(sample.nodes) for sample in samples]),
            reports_line=_line(_rates(samples, lambda totals: totals.reports)),
            queries_line=_line(_rates(samples, lambda totals: sum(totals.queries))),
        )

    def _now(self) -> _Sample:
        now = self._monotonic()
        return _Sample(now, self._nodes.count(now), self._telemetry.totals(self._query_routes))

    def _ago(self, now: float, seconds: float) -> _Sample:
        """Return the latest sample that is at least so many seconds old, or the oldest one."""
        for sample in reversed(self._samples):
            if sample.at <= now - seconds:
                return sample
        return self._samples[0]


def _rates(samples: Sequence[_Sample], count: Callable[[Totals], int]) -> list[float]:
    """Return the rate between each sample and the next, per second."""
    return [
        (count(after.totals) - count(before.totals)) / (after.at - before.at)
        for before, after in pairwise(samples)
        if after.at - before.at >= EVERY / 2
    ]


def _line(values: Sequence[float]) -> list[float]:
    """Return at most `_POINTS` values: each is the mean of as many neighbours as needed for that."""
    width = max(1, -(-len(values) // _POINTS))
    return [sum(part) / len(part) for at in range(0, len(values), width) if (part := values[at : at + width])]


def _quantile_bound(quantile: float, counts: Sequence[int]) -> float | None:
    total = sum(counts)
    if not total:
        return None
    so_far = 0
    for bound, count in zip((*DURATION_BOUNDS, float("inf")), counts, strict=True):
        so_far += count
        if so_far >= quantile * total:
            return bound
    raise AssertionError  # pragma: no cover - the last bound holds all queries
