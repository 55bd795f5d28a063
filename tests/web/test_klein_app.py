"""The routes."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable
from orchestratord.promql.client import Answer
from orchestratord.promql.params import Query
from tests.fakes import NOW, body, report
from tests.wire import Wire, request

FORM = "application/x-www-form-urlencoded"


def reported(*nodes: str) -> Wire:
    """Return a wire with these nodes in its table."""
    wire = Wire()
    for node in nodes:
        wire.report(body(node, page_faults=len(node)))
    return wire


def test_the_index_lists_the_endpoints() -> None:
    """As plain text."""
    answer = Wire().ask("GET", "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    for path in (b"/update_metrics", b"/nodes", b"/query", b"/api/v1/", b"/metrics", b"/-/healthy"):
        assert path in answer.body


def test_probes() -> None:
    """Healthy and ready, or why not."""
    wire = Wire()
    assert (wire.ask("GET", "/-/healthy").status, wire.ask("GET", "/-/ready").status) == (200, 200)
    wire.sick, wire.draining = "the sweep sleeps", True
    healthy, ready = wire.ask("GET", "/-/healthy"), wire.ask("GET", "/-/ready")
    assert (healthy.status, healthy.body) == (500, b"the sweep sleeps\n")
    assert (ready.status, ready.body) == (503, b"draining\n")


def test_nodes_are_sorted_and_fresh() -> None:
    """A stale one is in no answer, swept or not."""
    wire = reported("b", "c", "a")
    assert wire.ask("GET", "/nodes").json == {"nodes": ["a", "b", "c"]}
    wire.clocks.now += 60
    wire.report(body("c"))
    assert wire.ask("GET", "/nodes").json == {"nodes": ["c"]}
    assert wire.ask("GET", "/nodes/a").status == 404


def test_nodes_by_the_thousand_are_sorted_too() -> None:
    """They are sorted in blocks, which must not show."""
    wire = Wire(max_nodes=3000)
    names = [f"n{i * 7919 % 3000:04}" for i in range(3000)]
    wire.nodes.update([report(name) for name in names], wire.clocks.monotonic())
    assert wire.ask("GET", "/nodes").json == {"nodes": sorted(names)}


def test_details_tell_age_expiry_and_values() -> None:
    """For all, or for one."""
    wire = reported("node-1")
    wire.clocks.now += 12.5
    expected = {
        "node_id": "node-1",
        "last_report": NOW,
        "age_seconds": 12.5,
        "expires_in_seconds": 47.5,
        "metrics": {"page_faults": 6},
    }
    assert wire.ask("GET", "/nodes?details=true").json == {"nodes": [expected]}
    assert wire.ask("GET", "/nodes/node-1").json == expected
    assert wire.ask("GET", "/nodes?details=false").json == {"nodes": ["node-1"]}


def test_odd_details_are_400() -> None:
    """Rather than guessed at."""
    answer = Wire().ask("GET", "/nodes?details=perhaps")
    assert (answer.status, answer.json) == (
        400,
        {"error": "invalid parameter 'details': must be true or false, not 'perhaps'"},
    )


def test_parameters_that_are_none_are_400() -> None:
    """In the same words as every error that is not a query's."""
    answer = Wire().ask("GET", "/nodes?details=%ff")
    assert (answer.status, answer.json) == (400, {"error": "a parameter is not UTF-8"})


@pytest.mark.parametrize("host", ["", "a_b", "[::1]", "[::1]:5000", "x:", "x:99999999", "a" * 300, "%ff", "a..b"])
@pytest.mark.parametrize("path", ["/nodes", "/query?q=up"])
def test_an_odd_host_changes_nothing(host: str, path: str) -> None:
    """No answer depends on what the client calls this host, and no failure is logged for it."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    connection = wire.connect()
    with capturedLogs() as logs:
        connection.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    assert [answer.status for answer in connection.answers()] == [200]
    assert not [event for event in logs if "log_failure" in event]


def held_up(wire: Wire) -> list[Deferred[list[bytes]]]:
    """Have no thread end by itself; return what ends each, in the order in which they began."""
    pending: list[Deferred[list[bytes]]] = []

    def later(_work: object) -> Deferred[list[bytes]]:
        pending.append(Deferred())
        return pending[-1]

    wire.in_thread = later
    return pending


def test_listings_at_a_time_are_bounded() -> None:
    """Each of a large table takes a thread for a while: two are made at a time, six wait, and more are refused."""
    wire = reported("a")
    pending = held_up(wire)
    connections = [wire.connect() for _ in range(9)]
    for connection in connections:
        connection.send(request("GET", "/nodes"))
    assert len(pending) == 2
    (refused,) = connections[-1].answers()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    for number in range(8):
        pending[number].callback([b"{}"])
    assert [len(connection.answers()) for connection in connections[:8]] == [1] * 8
    connections[0].send(request("GET", "/nodes"))
    assert len(pending) == 9


def test_a_listing_whose_client_has_left_is_not_made() -> None:
    """If it still waited for its turn."""
    wire = reported("a")
    pending = held_up(wire)
    connections = [wire.connect() for _ in range(4)]
    for connection in connections:
        connection.send(request("GET", "/nodes"))
    connections[2].leave()
    for number in range(3):
        pending[number].callback([b"{}"])
    assert len(pending) == 3
    assert [len(connections[number].answers()) for number in (0, 1, 3)] == [1, 1, 1]


def test_a_node_can_be_forgotten() -> None:
    """204, then 404."""
    wire = reported("a", "b")
    answer = wire.ask("DELETE", "/nodes/a")
    assert (answer.status, answer.body) == (204, b"")
    again = wire.ask("DELETE", "/nodes/a")
    assert (again.status, again.json) == (404, {"error": "no fresh report of node 'a'"})
    assert wire.ids() == ["b"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/nodes", "GET, HEAD"),
        ("PUT", "/nodes/a", "DELETE, GET, HEAD"),
        ("DELETE", "/query", "GET, HEAD, POST"),
        ("POST", "/-/ready", "GET, HEAD"),
    ],
)
def test_other_methods_are_405_with_allow(method: str, path: str, allow: str) -> None:
    """As JSON."""
    answer = Wire().ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert "is not allowed here" in answer.json["error"]


@pytest.mark.parametrize(
    "path", ["/nope", "/nodes/a/b", "/api/v1/admin/tsdb/snapshot", "/api/v1/targets", "/metrics/x"]
)
def test_what_is_no_route_is_404(path: str) -> None:
    """Nothing else under /api/v1/ reaches Prometheus."""
    wire = Wire()
    answer = wire.ask("GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert wire.upstreams.asked == []
    assert wire.metrics.value("orchestrator_http_requests_total", route="other", method="GET", code="404") == 1


def test_head_is_get_without_a_body() -> None:
    """As HTTP has it."""
    connection = reported("a").connect()
    connection.send(request("HEAD", "/nodes"))
    assert connection.transport.value().startswith(b"HTTP/1.1 200")
    assert connection.transport.value().endswith(b"\r\n\r\n")


def test_a_query_is_passed_on_and_its_answer_back() -> None:
    """Status, type and body are the upstream's own, whatever they are."""
    wire = Wire()
    wire.upstreams.answer = Answer(422, b"application/json; charset=x", b"{ }")
    answer = wire.ask("GET", "/query?q=up&time=1")
    assert (answer.status, answer.headers["content-type"], answer.body) == (422, "application/json; charset=x", b"{ }")
    assert wire.upstreams.asked == [Query("/api/v1/query", (("query", "up"), ("time", "1")))]


def test_no_content_is_passed_on_as_such() -> None:
    """With no body, and so with no type and no length of one."""
    wire = Wire()
    wire.upstreams.answer = Answer(204, b"", b"")
    for path in ("/api/v1/query", "/api/v1/query_exemplars"):
        answer = wire.ask("GET", f"{path}?query=1")
        assert (answer.status, answer.body) == (204, b"")
        assert {"content-type", "content-length", "transfer-encoding"} & answer.headers.keys() == set()


def test_a_query_may_be_a_form() -> None:
    """With the same parameters; a body of another type is refused, not overlooked."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    assert wire.ask("POST", "/query", b"q=up%7B%7D", Content_Type=FORM).status == 200
    assert wire.upstreams.asked[0].params == (("query", "up{}"),)
    answer = wire.ask("POST", "/query", b'{"q":"up"}', Content_Type="application/json")
    assert (answer.status, answer.json["errorType"]) == (400, "bad_data")
    assert answer.json["error"] == f"Content-Type of a POST must be {FORM}"


def test_only_short_queries_are_remembered() -> None:
    """A client that posts long forms makes no memory grow."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    for form in (b"q=up", b"q=up", b"q=up&x=" + b"x" * 3000):
        assert wire.ask("POST", "/query", form, Content_Type=FORM).status == 200
    assert len(wire.queries._remembered) == 1


def test_a_missing_query_is_prometheus_bad_data() -> None:
    """The text is the contract's."""
    answer = Wire().ask("GET", "/query")
    assert answer.status == 400
    assert answer.json == {"status": "error", "errorType": "bad_data", "error": "Missing query parameter 'q'"}


@pytest.mark.parametrize(
    ("fault", "status", "error_type"),
    [
        (UpstreamUnavailable("gone"), 502, "unavailable"),
        (Overloaded("busy"), 503, "overloaded"),
        (QueryTimeout("late"), 504, "timeout"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
def test_failures_have_prometheus_envelope(fault: Exception, status: int, error_type: str) -> None:
    """On both faces of the API; what is our own fault tells nothing."""
    for path in ("/query?q=up", "/api/v1/query?query=up"):
        wire = Wire()
        wire.upstreams.answer = fault
        answer = wire.ask("GET", path)
        assert answer.status == status
        assert answer.json["status"] == "error"
        assert answer.json["errorType"] == error_type
        assert "secret" not in answer.json["error"]
        assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    "path",
    [
        "query",
        "query_range",
        "series",
        "labels",
        "label/node_id/values",
        "metadata",
        "format_query",
        "query_exemplars",
        "status/buildinfo",
    ],
)
def test_prometheus_own_routes_are_passed_through(path: str) -> None:
    """By GET and by form POST, with the client's own parameters."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    assert wire.ask("GET", f"/api/v1/{path}?match[]=up&limit=1").status == 200
    assert wire.ask("POST", f"/api/v1/{path}", b"match[]=up&limit=1", Content_Type=FORM).status == 200
    assert wire.upstreams.asked == [Query(f"/api/v1/{path}", (("match[]", "up"), ("limit", "1")))] * 2


def test_a_label_name_cannot_leave_its_place_in_the_path() -> None:
    """It is quoted again on its way upstream, and no step in the path."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    wire.ask("GET", "/api/v1/label/a%3Fb%23c/values")
    assert wire.upstreams.asked[0].path == "/api/v1/label/a%3Fb%23c/values"
    for name in ("..", ".", "%2e%2e", "..%2F..%2Fadmin"):
        assert wire.ask("GET", f"/api/v1/label/{name}/values").status == 404
    assert len(wire.upstreams.asked) == 1


def test_braces_and_quotes_may_stand_unescaped_in_the_url() -> None:
    """As scheduler extenders send them."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    assert wire.ask("GET", '/api/v1/query?query=mem_bytes_allocated{node_id=~"n1|n2|n3"}').status == 200
    assert wire.upstreams.asked[0].params == (("query", 'mem_bytes_allocated{node_id=~"n1|n2|n3"}'),)
