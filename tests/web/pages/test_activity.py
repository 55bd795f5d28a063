"""The activity of the daemon in the last hour."""

from __future__ import annotations

import math

from twisted.internet.task import Clock

from orchestratord.nodes.store import NodeStore
from orchestratord.web.pages.activity import EVERY, ActivityRecorder
from tests.fakes import Metrics, report

ROUTES = ("/query", "/api/v1/query")


class Setup:
    """An ActivityRecorder with a Clock, and what it samples."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.nodes = NodeStore(stale_after=60, max_nodes=100)
        self.history = ActivityRecorder(self.clock, self.metrics.telemetry, self.nodes, self.clock.seconds, ROUTES)
        self.history.startService()

    def pass_time(self, seconds: float) -> None:
        """Advance the clock by so many seconds; samples are taken meanwhile."""
        self.clock.pump([EVERY] * int(seconds / EVERY))


def test_rates_are_of_the_last_half_minute() -> None:
    """Earlier activity does not count; refused reports are counted separately."""
    setup = Setup()
    setup.metrics.telemetry.reports("accepted", 9000)
    setup.pass_time(60)
    for _ in range(6):
        setup.metrics.telemetry.reports("accepted", 50)
        setup.metrics.telemetry.reports("invalid", 5)
        setup.pass_time(5)
    activity = setup.history.activity()
    assert (activity.reports_rate, activity.refused_rate) == (10, 1)
    assert activity.uptime == 90


def test_the_p99_is_a_bound_of_the_last_five_minutes() -> None:
    """Over queries of the last five minutes only."""
    setup = Setup()
    assert setup.history.activity().query_p99 is None
    setup.metrics.telemetry.request("/query", b"GET", 200, 9.0)
    setup.pass_time(400)
    for _ in range(200):
        setup.metrics.telemetry.request("/api/v1/query", b"GET", 200, 0.003)
    setup.metrics.telemetry.request("/update_metrics", b"POST", 200, 30.0)
    assert setup.history.activity().query_p99 == 0.005
    for _ in range(9):
        setup.metrics.telemetry.request("/query", b"GET", 200, 70.0)
    assert setup.history.activity().query_p99 == math.inf


def test_an_hour_is_all_that_is_kept() -> None:
    """The number of samples and the points of a line have a limit."""
    setup = Setup()
    setup.nodes.update([report("a")], setup.clock.seconds())
    setup.pass_time(3 * 3600)
    activity = setup.history.activity()
    assert len(setup.history._samples) == 721
    assert 30 <= len(activity.nodes_line) <= 61
    assert max(len(activity.reports_line), len(activity.queries_line)) <= 61


def test_a_sample_that_fails_does_not_end_the_others() -> None:
    """A LoopingCall would stop at the first exception."""
    setup = Setup()
    count = setup.nodes.count

    def fail(now: float) -> int:
        del now
        raise RuntimeError

    setup.nodes.count = fail  # type: ignore[method-assign]
    setup.pass_time(5)
    setup.nodes.count = count  # type: ignore[method-assign]
    before = len(setup.history._samples)
    setup.pass_time(5)
    assert len(setup.history._samples) == before + 1
