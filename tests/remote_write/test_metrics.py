"""The metrics of remote write."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from orchestratord.remote_write.metrics import MARKER_OUTCOMES, REQUEST_OUTCOMES, RemoteWriteMetrics
from tests.fakes import NOW
from tests.promtool import promtool

SAMPLES_PER_ROW = 9
LIMIT = 1_000_000
REASONS = ("refused", "overflow", "unreadable")


class FakeSpool:
    """A spool that is in the state that the test says."""

    def __init__(self) -> None:
        self.bytes = 0
        self.held_bytes = 0
        self.failures = 0
        self.oldest: float | None = None
        self.overflowed = 0
        self.unreadable = 0


class Delivered:
    """A DeliveryMetrics in a registry of its own, the spool that it looks at, and what it has counted."""

    def __init__(self) -> None:
        self.spool = FakeSpool()
        self.metrics = RemoteWriteMetrics(self.spool, lambda: NOW, limit_bytes=LIMIT, samples_per_row=SAMPLES_PER_ROW)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample's value."""
        return self.registry.get_sample_value(f"orchestrator_{name}", labels)

    def values(self, name: str, label: str, *values: str) -> list[float | None]:
        """Return the values of samples that one label tells apart."""
        return [self.value(name, **{label: value}) for value in values]


@pytest.fixture
def delivered() -> Delivered:
    """Give metrics of which nothing has happened yet."""
    return Delivered()


def test_everything_is_there_from_the_start(delivered: Delivered) -> None:
    """Each outcome and each reason is 0, so that a rate has something to start from; the store is thought to be up."""
    for name in ("remote_write_samples_total", "remote_write_samples_retried_total", "spool_failures_total"):
        assert delivered.value(name) == 0, name
    for name in ("spool_bytes", "spool_held_bytes", "spool_oldest_seconds"):
        assert delivered.value(name) == 0, name
    assert delivered.values("remote_write_samples_dropped_total", "reason", *REASONS) == [0, 0, 0]
    assert delivered.values("remote_write_requests_total", "outcome", *REQUEST_OUTCOMES) == [0, 0, 0]
    assert delivered.values("stale_markers_total", "outcome", *MARKER_OUTCOMES) == [0, 0, 0, 0]
    assert delivered.value("remote_write_request_duration_seconds_count") == 0
    assert delivered.value("remote_write_lag_seconds_bucket", le="3600.0") == 0
    assert delivered.value("remote_write_up") == 1
    assert delivered.value("spool_limit_bytes") == LIMIT


def test_requests_and_their_samples(delivered: Delivered) -> None:
    """Samples that were refused are in no count until they are given up: they may be sent again in halves."""
    delivered.metrics.accepted(900, 0.02)
    delivered.metrics.accepted(9, 0.003)
    delivered.metrics.retried(900, 10.5)
    delivered.metrics.refused(900, 0.02)
    assert delivered.value("remote_write_samples_total") == 909
    assert delivered.value("remote_write_samples_retried_total") == 900
    assert delivered.values("remote_write_requests_total", "outcome", *REQUEST_OUTCOMES) == [2, 1, 1]
    assert delivered.values("remote_write_samples_dropped_total", "reason", *REASONS) == [0, 0, 0]
    delivered.metrics.dropped(9)
    assert delivered.values("remote_write_samples_dropped_total", "reason", *REASONS) == [9, 0, 0]


def test_the_duration_of_every_request_counts(delivered: Delivered) -> None:
    """Of those that failed, too: a store that does not answer is a slow one."""
    delivered.metrics.accepted(9, 0.005)
    delivered.metrics.refused(9, 0.02)
    delivered.metrics.retried(9, 12)
    buckets = delivered.values("remote_write_request_duration_seconds_bucket", "le", "0.005", "0.025", "10.0", "+Inf")
    assert buckets == [1, 2, 2, 3]
    assert delivered.value("remote_write_request_duration_seconds_sum") == pytest.approx(12.025)


def test_the_lag_is_that_of_reports(delivered: Delivered) -> None:
    """A request of a hundred reports weighs as much as a hundred of one: a quantile is one of reports."""
    delivered.metrics.lag(0.2, 100)
    delivered.metrics.lag(45, 1)
    assert delivered.values("remote_write_lag_seconds_bucket", "le", "0.1", "0.25", "30.0", "60.0") == [
        0,
        100,
        100,
        101,
    ]
    assert delivered.value("remote_write_lag_seconds_count") == 101
    assert delivered.value("remote_write_lag_seconds_sum") == pytest.approx(65)


def test_what_the_spool_says_is_read_at_each_scrape(delivered: Delivered) -> None:
    """Bytes, age and failures as they are now; rows that it lost as the samples that they would have been."""
    spool = delivered.spool
    spool.bytes, spool.held_bytes, spool.failures, spool.oldest = 700, 300, 4, NOW - 12.5
    spool.overflowed, spool.unreadable = 10, 2
    assert delivered.value("spool_bytes") == 700
    assert delivered.value("spool_held_bytes") == 300
    assert delivered.value("spool_failures_total") == 4
    assert delivered.value("spool_oldest_seconds") == 12.5
    assert delivered.values("remote_write_samples_dropped_total", "reason", *REASONS) == [0, 90, 18]


def test_no_report_is_younger_than_nothing(delivered: Delivered) -> None:
    """A clock that was set back makes no negative age."""
    delivered.spool.oldest = NOW + 3600
    assert delivered.value("spool_oldest_seconds") == 0


def test_whether_the_store_is_up(delivered: Delivered) -> None:
    """As it was said last."""
    delivered.metrics.up(False)
    assert delivered.value("remote_write_up") == 0
    delivered.metrics.up(True)
    assert delivered.value("remote_write_up") == 1


def test_ends_of_nodes(delivered: Delivered) -> None:
    """By outcome, one or many at a time."""
    delivered.metrics.marker("sent")
    delivered.metrics.marker("sent", 4)
    delivered.metrics.marker("heard_elsewhere", 2)
    assert delivered.values("stale_markers_total", "outcome", *MARKER_OUTCOMES) == [5, 2, 0, 0]


def test_promtool_finds_no_fault_with_them(delivered: Delivered) -> None:
    """Names, units, types and helps are as Prometheus would have them, with samples and without."""
    assert promtool("check", "metrics", given=generate_latest(delivered.registry).decode()) == ""
    delivered.metrics.accepted(9, 0.1)
    delivered.metrics.lag(0.1, 1)
    delivered.spool.oldest = NOW - 1
    assert promtool("check", "metrics", given=generate_latest(delivered.registry).decode()) == ""


def test_a_scraper_may_ask_for_one_by_name(delivered: Delivered) -> None:
    """`name[]` finds each family, by the name that its samples have."""
    (family,) = delivered.registry.restricted_registry(["orchestrator_stale_markers_total"]).collect()
    assert {sample.labels["outcome"] for sample in family.samples} == set(MARKER_OUTCOMES)
