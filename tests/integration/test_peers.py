"""The rules by which fakes refuse (`tests/peers.py`), asked of the real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import Daemon, asked
from tests.integration.stores import Prometheus
from tests.peers import refusal, report_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

FORM = "application/x-www-form-urlencoded"
QUERY, RANGE = "query=1", "query=1&start=1&end=2&step=1"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a real Prometheus."""
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.close()


@pytest.mark.parametrize(
    ("method", "path", "content_type", "params"),
    [
        ("GET", "/api/v1/query", None, QUERY),
        ("POST", "/api/v1/query", FORM, QUERY),
        ("POST", "/api/v1/query", f"{FORM}; charset=utf-8", QUERY),
        ("POST", "/api/v1/query", "text/plain", QUERY),
        ("POST", "/api/v1/query", "application/json", QUERY),
        ("PUT", "/api/v1/query", FORM, QUERY),
        ("DELETE", "/api/v1/query", None, QUERY),
        ("POST", "/api/v1/query_range", FORM, RANGE),
        ("POST", "/api/v1/query_range", "text/plain", RANGE),
        ("POST", "/api/v1/query_exemplars", FORM, RANGE),
        ("POST", "/api/v1/series", FORM, "match[]=up"),
        ("POST", "/api/v1/series", "text/plain", "match[]=up"),
        ("POST", "/api/v1/labels", FORM, ""),
        ("POST", "/api/v1/format_query", FORM, QUERY),
        ("GET", "/api/v1/metadata", None, ""),
        ("POST", "/api/v1/metadata", FORM, ""),
        ("GET", "/api/v1/rules", None, ""),
        ("POST", "/api/v1/alerts", FORM, ""),
        ("GET", "/api/v1/label/job/values", None, ""),
        ("POST", "/api/v1/label/job/values", FORM, ""),
        ("GET", "/api/v1/status/buildinfo", None, ""),
        ("POST", "/api/v1/status/buildinfo", FORM, ""),
        ("GET", "/api/v1/nothing", None, ""),
        ("GET", "/query", None, QUERY),
    ],
)
def test_prometheus(prometheus: Prometheus, method: str, path: str, content_type: str | None, params: str) -> None:
    """What the fake refuses the real one refuses, with the same status; and it takes what the fake takes."""
    url = f"{prometheus.url}{path}"
    if method in {"GET", "DELETE"}:
        answer = asked(method, f"{url}?{params}")
    else:
        answer = asked(method, url, data=params.encode(), headers={"Content-Type": content_type})
    expected = refusal(method.encode(), path.encode(), None if content_type is None else content_type.encode())
    assert answer.status_code == (expected or (204 if path.endswith("exemplars") else 200))


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("POST", "/update_metrics", "application/json"),
        ("POST", "/update_metrics", "application/json; charset=utf-8"),
        ("POST", "/update_metrics", "Application/JSON"),
        ("POST", "/update_metrics", "text/plain"),
        ("POST", "/update_metrics", FORM),
        ("POST", "/update_metrics", ""),
        ("PUT", "/update_metrics", "application/json"),
        ("POST", "/metrics_update", "application/json"),
    ],
)
def test_the_orchestrator(daemon: Daemon, method: str, path: str, content_type: str) -> None:
    """The same of the fakes that stand for it in the profiler's tests."""
    answer = asked(method, daemon.url + path, data=b'{"node_id":"peer"}', headers={"Content-Type": content_type})
    expected = report_refusal(method.encode(), path.encode(), content_type.encode())
    assert answer.status_code == (expected or 200)
