"""The orchestrator's own metrics."""

from __future__ import annotations

from prometheus_client import generate_latest

from tests.fakes import Metrics

PROMISED = (
    "orchestrator_nodes",
    "orchestrator_reports_total",
    "orchestrator_report_bytes",
    "orchestrator_nodes_expired_total",
    "orchestrator_unknown_metrics_total",
    "orchestrator_http_requests_total",
    "orchestrator_http_request_duration_seconds",
    "orchestrator_upstream_requests_total",
    "orchestrator_upstream_up",
    "orchestrator_build_info",
    "orchestrator_snapshot_last_success_timestamp_seconds",
    "orchestrator_snapshot_failures_total",
    "orchestrator_snapshot_duration_seconds",
    "orchestrator_snapshot_bytes",
)


def test_every_metric_of_the_contract_is_there_from_the_start() -> None:
    """Outcomes too, as 0, so that a rate has something to start from."""
    metrics = Metrics()
    metrics.telemetry.upstream_known("http://p")
    text = generate_latest(metrics.registry).decode()
    for name in PROMISED:
        assert f"# TYPE {name} " in text, name
    assert metrics.value("orchestrator_reports_total", outcome="accepted") == 0
    assert metrics.value("orchestrator_upstream_requests_total", upstream="http://p", outcome="answered") == 0
    assert metrics.value("orchestrator_upstream_up", upstream="http://p") == 1


def test_requests_are_counted_by_route_method_and_code() -> None:
    """What a client makes up as a method is "other", so that it cannot make series."""
    metrics = Metrics()
    for method in (b"GET", b"GET", b"BREW", b"\xff"):
        metrics.telemetry.request("/nodes", method, 200, 0.01)
    labels = {"route": "/nodes", "code": "200"}
    assert metrics.value("orchestrator_http_requests_total", method="GET", **labels) == 2
    assert metrics.value("orchestrator_http_requests_total", method="other", **labels) == 2
    assert metrics.value("orchestrator_http_request_duration_seconds_count", route="/nodes") == 4


def test_the_certificates_end_is_there_where_there_is_a_certificate() -> None:
    """Not a 0 that would raise an alarm."""
    metrics = Metrics()
    name = "orchestrator_tls_certificate_not_after_timestamp_seconds"
    assert metrics.value(name) is None
    metrics.telemetry.certificate_not_after(1_800_000_000.0)
    assert metrics.value(name) == 1_800_000_000
