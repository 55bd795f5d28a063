"""The /nodes family, /metrics, the probes and what /query refuses by itself, as etc/openapi.yaml describes them."""

from __future__ import annotations

import gzip
import json
import time
from threading import Event, Thread
from typing import TYPE_CHECKING

import prometheus_client.openmetrics.parser as openmetrics
import prometheus_client.parser as text_format
import pytest
import requests
import twisted

import orchestratord
from tests.integration.daemon import FAMILIES, PATIENCE, Daemon, full_report, head, report, run, until
from tests.integration.upstream import FakeUpstream, echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client import Metric

pytestmark = pytest.mark.integration

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8"
#: How Prometheus 2.42 asks.
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

OWN = {
    "orchestrator_nodes": "gauge",
    "orchestrator_node_last_report_timestamp_seconds": "gauge",
    "orchestrator_reports_total": "counter",
    "orchestrator_report_bytes": "histogram",
    "orchestrator_nodes_expired_total": "counter",
    "orchestrator_unknown_metrics_total": "counter",
    "orchestrator_http_requests_total": "counter",
    "orchestrator_http_request_duration_seconds": "histogram",
    "orchestrator_upstream_requests_total": "counter",
    "orchestrator_upstream_up": "gauge",
    "orchestrator_build_info": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_open_fds": "gauge",
    "process_start_time_seconds": "gauge",
}


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeUpstream]]:
    """Give a daemon, and its upstream, which answers with what it was asked."""
    with FakeUpstream(echo) as upstream:
        options = ("--prometheus", f"{upstream.url}/prefix/", "--prometheus_http.headers", "X-Scope-OrgID: tenant-1")
        daemon = Daemon(tmp_path_factory.mktemp("echo"), *options, "--prometheus_http.headers", "X-More: a: b")
        try:
            yield daemon.started(), upstream
            daemon.stop()
        finally:
            daemon.close()


def delete(daemon: Daemon, path: str) -> requests.Response:
    """Send a DELETE."""
    return requests.delete(f"{daemon.url}{path}", timeout=PATIENCE)


def node_samples(families: list[Metric]) -> dict[str, dict[str, float]]:
    """Return the values of the eight families by family and node, each of which must be there once."""
    found: dict[str, dict[str, float]] = {}
    for family in families:
        if family.name in FAMILIES:
            assert family.name not in found
            assert all(list(sample.labels) == ["node_id"] for sample in family.samples)
            found[family.name] = {sample.labels["node_id"]: float(sample.value) for sample in family.samples}
    return found


def refused(answer: requests.Response, status: int, error_type: str) -> str:
    """Check that an answer is Prometheus' error envelope and no more; return its text."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    body = answer.json()
    assert list(body) == ["status", "errorType", "error"]
    assert (body["status"], body["errorType"]) == ("error", error_type)
    text: str = body["error"]
    return text


def test_nodes(start: Callable[..., Daemon]) -> None:
    """`/nodes` lists the fresh nodes' ids, sorted, each once."""
    daemon = start()
    empty = daemon.get("/nodes")
    assert (empty.status_code, empty.headers["Content-Type"]) == (200, "application/json")
    assert empty.json() == {"nodes": []}
    for name in ("node-2", "node-10", "Node-1", "a", "node-2", "0"):
        daemon.post(report(name)).raise_for_status()
    assert daemon.get("/nodes").json() == {"nodes": ["0", "Node-1", "a", "node-10", "node-2"]}
    assert daemon.get("/nodes", {"details": "false"}).json() == daemon.get("/nodes").json()
    many = sorted(f"many-{number}" for number in range(3000))
    daemon.post([report(name) for name in reversed(many)]).raise_for_status()
    assert daemon.nodes() == sorted([*many, "0", "Node-1", "a", "node-10", "node-2"])
    listed = daemon.get("/nodes", {"details": "true"}).json()["nodes"]
    assert [node["node_id"] for node in listed] == daemon.nodes()


def test_node_details(daemon: Daemon) -> None:
    """Details are the contract's five fields, with ages that add up to the stale limit."""
    before = time.time()
    daemon.post({**full_report("detailed"), "timestamp": before - 30}).raise_for_status()
    after = time.time()
    one = daemon.get("/nodes/detailed")
    assert (one.status_code, one.headers["Content-Type"]) == (200, "application/json")
    listed = daemon.get("/nodes", {"details": "true"}).json()["nodes"]
    (among_others,) = [node for node in listed if node["node_id"] == "detailed"]
    for node in (one.json(), among_others):
        assert list(node) == ["node_id", "last_report", "age_seconds", "expires_in_seconds", "metrics"]
        assert node["node_id"] == "detailed"
        assert before - 0.01 <= node["last_report"] <= after + 0.01
        assert 0 <= node["age_seconds"] <= time.time() - before + 0.01
        assert node["age_seconds"] + node["expires_in_seconds"] == pytest.approx(60)
        assert node["metrics"] == {name: 1 + index for index, name in enumerate(FAMILIES)}


def test_unknown_node(daemon: Daemon) -> None:
    """A node that is not there is 404 for GET and for DELETE."""
    for answer in (daemon.get("/nodes/nobody"), delete(daemon, "/nodes/nobody"), daemon.get("/nodes/%00%ff%2f")):
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json")
        assert list(answer.json()) == ["error"]


def test_delete_node(daemon: Daemon) -> None:
    """DELETE forgets a node at once: 204 and then 404; its next report brings it back."""
    daemon.post(report("drained", page_faults=1, timestamp=time.time())).raise_for_status()
    answer = delete(daemon, "/nodes/drained")
    assert (answer.status_code, answer.content) == (204, b"")
    assert delete(daemon, "/nodes/drained").status_code == 404
    assert daemon.metrics("drained") is None
    assert "drained" not in daemon.nodes()
    assert '"drained"' not in daemon.get("/metrics").text
    older = daemon.post(report("drained", page_faults=2, timestamp=time.time() - 60))
    assert older.json() == {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    assert daemon.metrics("drained") == {"page_faults": 2}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/nodes", {"GET", "HEAD"}),
        ("DELETE", "/nodes", {"GET", "HEAD"}),
        ("PUT", "/nodes/n1", {"GET", "HEAD", "DELETE"}),
        ("PUT", "/query", {"GET", "HEAD", "POST"}),
        ("DELETE", "/api/v1/series", {"GET", "HEAD", "POST"}),
        ("POST", "/-/healthy", {"GET", "HEAD"}),
        ("POST", "/-/ready", {"GET", "HEAD"}),
    ],
)
def test_other_methods(daemon: Daemon, method: str, path: str, allowed: set[str]) -> None:
    """A method that a path does not have is 405, as JSON, with Allow."""
    answer = requests.request(method, daemon.url + path, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/json")
    assert set(answer.headers["Allow"].split(", ")) == allowed
    assert list(answer.json()) == ["error"]


def test_stale_before_the_sweep(start: Callable[..., Daemon]) -> None:
    """A stale node is in no answer, though no sweep has run, and comes back with its next report."""
    daemon = start("--stale-after", "1", "--limits.expire_every", "3600")
    now = time.time()
    daemon.post(report("silent", page_faults=1, timestamp=now)).raise_for_status()
    assert daemon.nodes() == ["silent"]
    until(lambda: daemon.nodes() == [], "an end of the node that is silent")
    assert daemon.get("/nodes", {"details": "true"}).json() == {"nodes": []}
    assert daemon.get("/nodes/silent").status_code == 404
    assert "silent" not in daemon.get("/metrics").text
    assert daemon.sample("orchestrator_nodes") == 0
    assert daemon.sample("orchestrator_nodes_expired_total") == 0
    assert daemon.post(report("silent", page_faults=2, timestamp=now - 1)).json()["accepted"] == 1
    assert daemon.metrics("silent") == {"page_faults": 2}
    until(lambda: daemon.metrics("silent") is None, "an end of the node that is silent again")
    assert delete(daemon, "/nodes/silent").status_code == 404


def test_sweep(start: Callable[..., Daemon]) -> None:
    """The sweep removes stale nodes, counts them, and logs a line; fresh ones stay."""
    daemon = start("--stale-after", "1", "--limits.expire_every", "0.05")
    daemon.post([report("one"), report("two"), report("lively")]).raise_for_status()

    def swept() -> bool:
        daemon.post(report("lively")).raise_for_status()
        return daemon.sample("orchestrator_nodes_expired_total") == 2

    until(swept, "a sweep of two nodes")
    assert daemon.nodes() == ["lively"]
    daemon.said(r"expired 2 nodes without a report for 1 s: one, two")


def test_exposition_formats(daemon: Daemon) -> None:
    """Text 0.0.4 unless OpenMetrics 1.0 or text 1.0.0 is asked for."""
    for accept, content_type in (
        (None, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/plain;version=1.0.0", TEXT_1),
        ("application/openmetrics-text;version=1.0.0", OPEN_METRICS),
        (PROMETHEUS_ACCEPTS, OPEN_METRICS),
    ):
        answer = daemon.get("/metrics", headers={"Accept": accept})
        given = answer.headers["Content-Type"].partition("; escaping=")[0]
        assert (answer.status_code, given) == (200, content_type), accept
        assert answer.text.endswith("# EOF\n") == (content_type == OPEN_METRICS)


def test_parsers_read_the_same_values(start: Callable[..., Daemon]) -> None:
    """prometheus_client's own parsers, of the text and of OpenMetrics, read back what was reported."""
    daemon = start()
    reports = [full_report("n1"), full_report("n2", 10**12), report("n3", page_faults=0.25, fs_read_count=2**64 - 1)]
    reports.append(report("n4", mem_bytes_allocated=1e-300, fs_write_size_kb=123456789012345.67))
    daemon.post(reports).raise_for_status()
    expected = {name: {item["node_id"]: float(item[name]) for item in reports if name in item} for name in FAMILIES}
    plain = list(text_format.text_string_to_metric_families(daemon.get("/metrics").text))
    open_text = daemon.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).text
    opened = list(openmetrics.text_string_to_metric_families(open_text))
    for families in (plain, opened):
        assert node_samples(families) == expected
        by_name = {family.name: family for family in families}
        assert {by_name[name].type for name in FAMILIES} == {"gauge"}
        assert all(by_name[name].documentation for name in FAMILIES)
        (nodes,) = by_name["orchestrator_nodes"].samples
        assert nodes.value == 4
        last = by_name["orchestrator_node_last_report_timestamp_seconds"].samples
        assert {sample.labels["node_id"] for sample in last} == {"n1", "n2", "n3", "n4"}
        assert all(abs(sample.value - time.time()) < 60 for sample in last)


def test_promtool_check_metrics(daemon: Daemon) -> None:
    """Promtool complains of nothing but the four names of the field that cannot change."""
    daemon.post(full_report("linted")).raise_for_status()
    daemon.get("/query")
    checked = run("promtool", "check", "metrics", given=daemon.get("/metrics").text)
    complaints = (checked.stdout + checked.stderr).strip().splitlines()
    assert {line.split()[0] for line in complaints} == {
        "fs_read_count",
        "fs_write_count",
        "fs_read_size_kb",
        "fs_write_size_kb",
    }, complaints


def test_catalogue_order_and_own_metrics(daemon: Daemon) -> None:
    """The node families come first, in the catalogue's order; then all of the orchestrator's own."""
    daemon.post(full_report("ordered")).raise_for_status()
    daemon.get("/query")
    lines = daemon.get("/metrics").text.splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE "))
    helped = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    assert list(types)[:8] == list(FAMILIES)
    assert helped == list(types)
    assert {name: types.get(name) for name in OWN} == OWN
    foreign = [name for name in list(types)[8:] if not name.startswith(("orchestrator_", "process_"))]
    assert foreign == []
    for series in (
        'orchestrator_upstream_up{upstream="http://127.0.0.1:9"}',
        'orchestrator_upstream_requests_total{outcome="answered",upstream="http://127.0.0.1:9"}',
        'orchestrator_http_requests_total{code="200",method="POST",route="/update_metrics"}',
        'orchestrator_http_request_duration_seconds_count{route="/update_metrics"}',
        "orchestrator_report_bytes_count",
        "process_resident_memory_bytes",
    ):
        assert any(_same_series(line, series) for line in lines), series
    (info,) = [line for line in lines if line.startswith("orchestrator_build_info{")]
    assert f'version="{orchestratord.__version__}"' in info
    assert f'twisted="{twisted.__version__}"' in info
    assert 'python="3.' in info


def _same_series(line: str, series: str) -> bool:
    name, _, labels = line.rpartition(" ")[0].partition("{")
    wanted, _, wanted_labels = series.partition("{")
    return name == wanted and sorted(labels.rstrip("}").split(",")) == sorted(wanted_labels.rstrip("}").split(","))


def test_exposition_gzip(daemon: Daemon) -> None:
    """The exposition is packed for those who accept it, and only for them."""
    daemon.post(full_report("packed", 5)).raise_for_status()
    for encoding in ("gzip", None):
        with daemon.wire() as wire:
            wire.get("/metrics", *([f"Accept-Encoding: {encoding}"] if encoding else []))
            answer = wire.answer()
        assert answer.headers.get("content-encoding") == encoding
        text = gzip.decompress(answer.body) if encoding else answer.body
        assert b'mem_bytes_allocated{node_id="packed"} 5' in text


def test_name_filter(daemon: Daemon) -> None:
    """`name[]` gives the families that are named, and no others."""
    daemon.post(full_report("filtered")).raise_for_status()
    for names in (["page_faults"], ["fs_read_count", "mem_bytes_allocated"], ["orchestrator_nodes", "page_faults"]):
        text = daemon.get("/metrics", [("name[]", name) for name in names]).text
        families = list(text_format.text_string_to_metric_families(text))
        assert {family.name for family in families} == set(names)
        assert all(family.samples for family in families)
    assert daemon.get("/metrics", {"name[]": "no_such_family"}).text.strip() == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_metrics_is_read_only(daemon: Daemon, method: str) -> None:
    """/metrics is for reading."""
    assert requests.request(method, f"{daemon.url}/metrics", timeout=PATIENCE).status_code == 405


def test_scrapes_while_reports_arrive(start: Callable[..., Daemon]) -> None:
    """Scrapes, which run on other threads than the reactor's, are whole while the table changes under them."""
    daemon = start()
    stop = Event()
    statuses: set[int] = set()

    def keep_reporting() -> None:
        with requests.Session() as session:
            number = 0
            while not stop.is_set():
                batch = [full_report(f"n{(number + offset) % 600}") for offset in range(150)]
                statuses.add(session.post(f"{daemon.url}/update_metrics", json=batch, timeout=PATIENCE).status_code)
                statuses.add(session.delete(f"{daemon.url}/nodes/n{number % 600}", timeout=PATIENCE).status_code)
                number += 150

    reporter = Thread(target=keep_reporting, daemon=True)
    reporter.start()
    try:
        for _ in range(15):
            answer = daemon.get("/metrics")
            assert answer.status_code == 200
            samples = node_samples(list(text_format.text_string_to_metric_families(answer.text)))
            assert len({frozenset(nodes) for nodes in samples.values()}) == 1
    finally:
        stop.set()
        reporter.join(PATIENCE)
    assert statuses == {200, 204}


def test_families_from_the_configuration(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Families of the TOML file are taken, exported after the eight, with their help, kind and minimum."""
    config = tmp_path / "orchestrator.toml"
    config.write_text(
        """
        [[families]]
        name = "gpu_temperature_celsius"
        help = "Temperature."
        unit = "celsius"
        minimum = -273.15

        [[families]]
        name = "net_rx_bytes_total"
        help = "Received since boot."
        kind = "counter"
        """
    )
    daemon = start("--config", str(config))
    body = {**full_report("n1"), "gpu_temperature_celsius": -5.5, "net_rx_bytes_total": 7}
    daemon.post(body).raise_for_status()
    assert daemon.sample('gpu_temperature_celsius{node_id="n1"}') == -5.5
    assert daemon.sample('net_rx_bytes_total{node_id="n1"}') == 7
    assert daemon.sample("orchestrator_unknown_metrics_total") == 0
    lines = daemon.get("/metrics").text.splitlines()
    types = [line.split()[2:4] for line in lines if line.startswith("# TYPE ")]
    assert types[8:10] == [["gpu_temperature_celsius", "gauge"], ["net_rx_bytes_total", "counter"]]
    assert "# HELP gpu_temperature_celsius Temperature." in lines
    assert daemon.post(report("n1", gpu_temperature_celsius=-273.15)).status_code == 200
    answer = daemon.post(report("n1", gpu_temperature_celsius=-274))
    assert answer.json()["error"].endswith(" - at $.gpu_temperature_celsius")
    answer = daemon.post(report("n1", net_rx_bytes_total=-1))
    assert answer.json()["error"].endswith(" - at $.net_rx_bytes_total")
    text = daemon.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).text
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}
    assert families["gpu_temperature_celsius"].unit == "celsius"
    assert families["net_rx_bytes"].type == "counter"


def test_probes_do_not_depend_on_prometheus(daemon: Daemon) -> None:
    """Healthy and ready are 200 although the upstream is dead."""
    assert daemon.get("/query", {"q": "up"}).status_code == 502
    assert daemon.get("/-/healthy").status_code == 200
    assert daemon.get("/-/ready").status_code == 200


def test_index(daemon: Daemon) -> None:
    """`/` is there."""
    assert daemon.get("/").status_code == 200


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "Missing query parameter 'q'"),
        ({"q": ""}, "Missing query parameter 'q'"),
        ({"query": "up"}, "Missing query parameter 'q'"),
        ({"q": "up", "start": "1"}, "'end'"),
        ({"q": "up", "end": "1"}, "'start'"),
        ({"q": "up", "start": "1", "end": "2", "step": "0"}, "'step'"),
        ({"q": "up", "start": "1", "end": "2", "step": "0s"}, "'step'"),
        ({"q": "up", "start": "1", "end": "2", "step": "-1"}, "'step'"),
        ({"q": "up", "start": "1", "end": "2", "step": "soon"}, "'step'"),
        ({"q": "up", "start": "2", "end": "1"}, "'end'"),
        ({"q": "up", "start": "2023-01-01T00:00:00Z", "end": "2022-01-01T00:00:00Z"}, "'end'"),
        ({"q": "up", "time": "noon"}, "'time'"),
        ({"q": "up", "time": "NaN"}, "'time'"),
        ({"q": "up", "time": "Inf"}, "'time'"),
        ({"q": "up", "start": "noon", "end": "2"}, "'start'"),
        ({"q": "up", "start": "1", "end": "2023-13-01T00:00:00Z"}, "'end'"),
        ({"q": "up", "start": "0", "end": "11001", "step": "1"}, "11,000"),
        ({"q": "up", "timeout": "0"}, "'timeout'"),
        ({"q": "up", "timeout": "long"}, "'timeout'"),
        ({"q": "x" * 16_385}, "16384"),
        ({"q": "{" * 16_385}, "16384"),
    ],
)
def test_queries_that_are_refused(daemon: Daemon, params: dict[str, str], says: str) -> None:
    """What no Prometheus needs to be asked for is 400 bad_data, which names the parameter; by GET and by form POST."""
    asked = daemon.sample('orchestrator_upstream_requests_total{outcome="unreachable",upstream="http://127.0.0.1:9"}')
    posted = requests.post(f"{daemon.url}/query", data=params, timeout=PATIENCE)
    for answer in (daemon.get("/query", params), posted):
        text = refused(answer, 400, "bad_data")
        assert says in text
        assert says != "Missing query parameter 'q'" or text == says
    now = daemon.sample('orchestrator_upstream_requests_total{outcome="unreachable",upstream="http://127.0.0.1:9"}')
    assert now == asked


def test_a_query_without_prometheus(daemon: Daemon) -> None:
    """Without any Prometheus a query is 502 unavailable, and so is every read-only route of its API."""
    for path in ("/query?q=up", "/api/v1/query?query=up", "/api/v1/labels", "/api/v1/label/job/values"):
        refused(daemon.get(path), 502, "unavailable")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/admin/tsdb/snapshot",
        "/admin/tsdb/delete_series",
        "/status/config",
        "/status/flags",
        "/status/tsdb",
        "/status",
        "/targets",
        "/targets/metadata",
        "/alertmanagers",
        "/write",
        "/read",
        "/query/../status/config",
        "/query/%2e%2e/status/config",
        "/query%2f..%2fstatus%2fconfig",
        "/label/%2e%2e/%2e%2e/values",
        "/label/a/b/values",
        "/label//values",
        "//status/config",
        "/QUERY",
    ],
)
def test_nothing_else_reaches_prometheus(echoing: tuple[Daemon, FakeUpstream], path: str) -> None:
    """Any other path below /api/v1/ is 404, whatever way it is written, and the upstream never hears of it."""
    daemon, upstream = echoing
    heard = len(upstream.asked)
    for method in ("GET", "POST"):
        with daemon.wire() as wire:
            wire.request(method, f"/api/v1{path}", body=b"" if method == "POST" else None)
            assert wire.answer().status == 404
    assert len(upstream.asked) == heard


def test_label_names_stay_one_segment(echoing: tuple[Daemon, FakeUpstream]) -> None:
    """A label's name in the path cannot lead anywhere else in Prometheus."""
    daemon, upstream = echoing
    for method in ("GET", "POST"):
        heard = len(upstream.asked)
        for name in ("%2e%2e%2f%2e%2e%2fstatus%2fconfig%3f", "..%2f..%2fadmin", "%2e%2e", "..", "%2e", "."):
            with daemon.wire() as wire:
                wire.request(method, f"/api/v1/label/{name}/values", body=b"" if method == "POST" else None)
                assert wire.answer().status in {400, 404}
        assert len(upstream.asked) == heard
        with daemon.wire() as wire:
            wire.request(method, "/api/v1/label/a%3Fb%23c%25/values", body=b"" if method == "POST" else None)
            wire.answer()
    assert {asked.path for asked in upstream.asked[heard:]} <= {"/prefix/api/v1/label/a%3Fb%23c%25/values"}


def test_what_goes_upstream(echoing: tuple[Daemon, FakeUpstream]) -> None:
    """Parameters arrive as they were given, `step` 15s where there is none, by GET and by form POST alike."""
    daemon, _ = echoing
    selector = 'sum by (node_id) (rate(x{node_id=~"n1|n2;é+%"}[5m])) > 0'
    for given, path, expected in (
        ({"q": selector}, "/api/v1/query", [["query", selector]]),
        ({"q": "up", "time": "12.5"}, "/api/v1/query", [["query", "up"], ["time", "12.5"]]),
        (
            {"q": "up", "start": "1", "end": "2"},
            "/api/v1/query_range",
            [["query", "up"], ["start", "1"], ["end", "2"], ["step", "15s"]],
        ),
        (
            {"q": "up", "start": "2023-01-01T00:00:00Z", "end": "2023-01-01T01:00:00+00:00", "step": "1m"},
            "/api/v1/query_range",
            [["query", "up"], ["start", "2023-01-01T00:00:00Z"], ["end", "2023-01-01T01:00:00+00:00"], ["step", "1m"]],
        ),
        ({"q": "up", "start": "0", "end": "11000", "step": "1"}, "/api/v1/query_range", None),
    ):
        posted = requests.post(f"{daemon.url}/query", data=given, timeout=PATIENCE)
        for answer in (daemon.get("/query", given), posted):
            assert answer.status_code == 200
            assert answer.json()["path"] == f"/prefix{path}"
            assert expected is None or answer.json()["params"] == expected


def test_long_queries_arrive(echoing: tuple[Daemon, FakeUpstream]) -> None:
    """A query up to the limit arrives, though it is longer than proxies like a URL to be."""
    daemon, _ = echoing
    query = "x" * 16_384
    answer = requests.post(f"{daemon.url}/query", data={"q": query}, timeout=PATIENCE)
    assert answer.status_code == 200
    assert answer.json()["params"] == [["query", query]]


def test_headers_and_a_path_prefix(echoing: tuple[Daemon, FakeUpstream]) -> None:
    """Every upstream request carries the configured headers, and goes below the base URL's own path."""
    daemon, upstream = echoing
    daemon.get("/query", {"q": "up"}, headers={"X-Scope-OrgID": "forged", "Cookie": "a=b"})
    asked = upstream.asked[-1]
    assert (asked.headers["x-scope-orgid"], asked.headers["x-more"]) == ("tenant-1", "a: b")
    assert "cookie" not in asked.headers
    assert asked.path == "/prefix/api/v1/query"


def test_posted_json_is_no_form(daemon: Daemon) -> None:
    """A POST of a query is a form, and nothing else."""
    refused(requests.post(f"{daemon.url}/query", json={"q": "up"}, timeout=PATIENCE), 400, "bad_data")


def test_unknown_paths(daemon: Daemon) -> None:
    """What is no path of ours is 404, as JSON."""
    for path in ("/nowhere", "/metrics/x", "/update_metrics/x", "/nodes/a/b", "/api", "/api/v2/query"):
        answer = daemon.get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json"), path
        json.loads(answer.content)


def test_head(daemon: Daemon) -> None:
    """HEAD is answered as GET is, without the body, and the connection stays usable."""
    with daemon.wire() as wire:
        for path in ("/nodes", "/-/ready", "/-/healthy", "/", "/metrics", "/openapi.yaml"):
            wire.send(head("HEAD", path))
            answer = wire.answer(to_head=True)
            assert answer.status == 200, path
        wire.get("/-/ready")
        assert wire.answer().body == b"ready\n"
