"""GET /metrics."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.logger import capturedLogs

from orchestratord.nodes.exposition import NodeCollector
from orchestratord.nodes.families import BUILT_IN
from orchestratord.web.api import metrics as scrape
from tests.fakes import FAMILIES, body, report
from tests.wire import Wire, request, turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestratord.nodes.store import Entry

ACCEPTS = {
    "text 0.0.4": "",
    "text 1.0.0": "text/plain; version=1.0.0",
    "OpenMetrics": "application/openmetrics-text; version=1.0.0",
    "Prometheus 2": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
}


def parsed(text: bytes, content_type: str) -> list[tuple[Any, ...]]:
    """Return the families of an exposition in their order, with their samples in any order."""
    parse = parse_openmetrics if content_type.startswith("application/openmetrics") else parse_text
    return [
        (
            family.name,
            family.type,
            family.documentation,
            family.unit,
            sorted((sample.name, sorted(sample.labels.items()), float(sample.value)) for sample in family.samples),
        )
        for family in parse(text.decode())
    ]


@pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS.keys())
def test_a_scrape_is_what_prometheus_client_would_answer(accept: str) -> None:
    """The same header, the same families in the same order, the same samples, in every format."""
    wire = Wire(max_nodes=3000)
    wire.nodes.update([report(f"n{i}", page_faults=i, fs_read_size_kb=i / 7) for i in range(2500)], 1000)
    wire.report(body("whole", **dict.fromkeys(FAMILIES, 2**63)))
    headers: dict[str, Any] = {"Accept": accept} if accept else {}
    connection = wire.connect()
    connection.send(request("GET", "/metrics", **headers))
    wire.clock.pump([0] * 20)
    answer = connection.answers()[0]
    registry = CollectorRegistry()
    registry.register(NodeCollector(BUILT_IN, lambda: wire.nodes.snapshot(1000)))
    registry.register(wire.metrics.telemetry)
    encoder, content_type = choose_encoder(accept)
    assert answer.headers["content-type"] == content_type
    got, expected = parsed(answer.body, content_type), parsed(encoder(registry), content_type)
    assert [family[:4] for family in got] == [family[:4] for family in expected]
    for one, other in zip(got, expected, strict=True):
        if not one[0].startswith("orchestrator_http"):  # the scrape itself is counted there by now
            assert one == other
    assert ("orchestrator_nodes", [], 2501.0) in [sample for family in got for sample in family[4]]


def test_gzip_when_accepted() -> None:
    """And the same text inside."""
    wire = Wire()
    wire.report(body("n1", page_faults=3))
    answer = wire.ask("GET", "/metrics", Accept_Encoding="gzip;q=1, deflate")
    assert answer.headers["content-encoding"] == "gzip"
    assert b'page_faults{node_id="n1"} 3\n' in gzip.decompress(answer.body)
    assert "content-encoding" not in wire.ask("GET", "/metrics").headers


def test_stale_nodes_are_not_exposed() -> None:
    """Nor counted, swept or not."""
    wire = Wire()
    wire.report(body("old"))
    wire.clocks.now += 60
    wire.report(body("new"))
    text = wire.ask("GET", "/metrics").body
    assert b'"old"' not in text
    assert b"\norchestrator_nodes 1.0\n" in text


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/metrics?name[]=page_faults", ""),
        ("GET", "/metrics", "application/openmetrics-text; version=2.0.0"),
    ],
)
def test_what_is_rare_is_left_to_prometheus_client(method: str, path: str, accept: str) -> None:
    """Its own resource is behind ours."""
    headers: dict[str, Any] = {"Accept": accept} if accept else {}
    assert Wire().ask(method, path, **headers).body == b"fallback"


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_other_methods_are_405(method: str) -> None:
    """As JSON with Allow, as everywhere: prometheus_client would answer in plain text."""
    answer = Wire().ask(method, "/metrics")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert "is not allowed here" in answer.json["error"]


def test_head_tells_the_format() -> None:
    """No body comes with it, and the connection stays usable."""
    connection = Wire().connect()
    connection.send(request("HEAD", "/metrics", Accept=ACCEPTS["OpenMetrics"]))
    connection.send(request("GET", "/-/ready"))
    head, ready = connection.answers()
    assert (head.status, head.body, ready.body) == (200, b"", b"ready\n")
    assert head.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")


def large() -> Wire:
    """Return a wire with so many nodes that a scrape takes several slices."""
    wire = Wire(max_nodes=50_000)
    wire.nodes.update([report(f"n{i:05}", **dict.fromkeys(FAMILIES, i)) for i in range(20 * scrape.BLOCK)], 1000)
    return wire


def test_a_large_scrape_gives_the_reactor_turns() -> None:
    """It is one moment's table all the same, whatever is reported meanwhile."""
    wire = large()
    connection = wire.connect()
    connection.send(request("GET", "/metrics"))
    turns = 0
    while wire.metrics.value("orchestrator_http_requests_total", route="/metrics", method="GET", code="200") is None:
        wire.report(body("n00000", page_faults=10**6 + turns))
        wire.report(body(f"late-{turns}"))
        turn(wire.clock)
        turns += 1
    assert turns > 2
    (answer,) = connection.answers()
    assert answer.headers["transfer-encoding"] == "chunked"
    text = answer.body
    assert text.count(b"\npage_faults{") == 20 * scrape.BLOCK
    assert b"late-" not in text
    assert b'page_faults{node_id="n00000"} 0\n' in text


def test_a_scraper_that_leaves_ends_its_scrape() -> None:
    """Nothing goes on for nobody."""
    wire = large()
    connection = wire.connect()
    connection.send(request("GET", "/metrics"))
    turn(wire.clock)
    connection.leave()
    turn(wire.clock)
    waiting = [call for call in wire.clock.getDelayedCalls() if call.getTime() <= wire.clock.seconds()]
    assert waiting == []


def test_scrapes_at_a_time_are_bounded() -> None:
    """Each holds a copy of the table."""
    wire = large()
    connections = [wire.connect() for _ in range(scrape.MAX_SCRAPES + 1)]
    for connection in connections:
        connection.send(request("GET", "/metrics"))
    (refused,) = connections[-1].answers()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    connections[0].leave()
    again = wire.connect()
    again.send(request("GET", "/metrics"))
    assert again.transport.value().startswith(b"HTTP/1.1 200") or not again.transport.value()


def test_a_scrape_that_fails_is_broken_off() -> None:
    """Never a short exposition that looks whole."""
    wire = Wire()
    wire.report(body("n1"))

    def broken(now: float, size: int) -> Iterator[list[Entry]]:
        yield from ()
        raise RuntimeError(now, size)

    wire.nodes.blocks = broken  # type: ignore[method-assign]  # broken on purpose
    connection = wire.connect()
    with capturedLogs() as logs:
        connection.send(request("GET", "/metrics"))
    assert connection.closed
    assert connection.answers() == []
    assert any("log_failure" in event for event in logs)


def test_the_fallback_is_asked_for_few_at_a_time() -> None:
    """It takes much memory; one too many is 503, and the plain scrapes go on."""
    wire = Wire()
    wire.fallback.never = True
    waiting = [wire.connect() for _ in range(scrape.MAX_FALLBACKS)]
    for connection in waiting:
        connection.send(request("GET", "/metrics?name[]=page_faults"))
    refused = wire.ask("GET", "/metrics?name[]=page_faults")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert wire.ask("GET", "/metrics").status == 200
    waiting[0].leave()
    wire.fallback.never = False
    assert wire.ask("GET", "/metrics?name[]=page_faults").body == b"fallback"
