"""POST /update_metrics."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from orchestratord.nodes.gunzip import STEP_OUT
from orchestratord.nodes.intake import LOGGED_EACH_SECOND
from orchestratord.nodes.report_decoder import SLICE
from orchestratord.web.api.report_remarks import MAX_LOGGED, ReportRemarks
from orchestratord.web.api.reports import AT_ONCE, UNPACKED_AT_ONCE
from tests.fakes import FAMILIES, NOW, body
from tests.wire import Wire, request, turn


def long_batch(count: int = 3 * SLICE, **last: Any) -> bytes:
    """Return a batch that is too long to be decoded at once."""
    bodies = [body(f"node-{i:04}", page_faults=i, fs_read_count=i, fs_write_count=i) for i in range(count)]
    batch = b"[" + b",".join([*bodies, body("last", **last)]) + b"]"
    assert len(batch) > AT_ONCE
    return batch


def test_a_report_is_stored() -> None:
    """And answered as the contract says."""
    wire = Wire()
    answer = wire.report(body("n1", page_faults=3), Content_Type="application/json")
    assert answer.status == 200
    assert answer.json == {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    assert wire.ids() == ["n1"]
    assert wire.counted("accepted") == 1
    assert wire.metrics.value("orchestrator_report_bytes_sum") == len(body("n1", page_faults=3))
    labels = {"route": "/update_metrics", "method": "POST", "code": "200"}
    assert wire.metrics.value("orchestrator_http_requests_total", **labels) == 1


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", ""])
def test_json_in_any_spelling_or_unsaid(content_type: str) -> None:
    """A report with no Content-Type is JSON too."""
    headers = {"Content_Type": content_type} if content_type else {}
    assert Wire().report(body(), **headers).status == 200


def test_other_kinds_of_body_are_415() -> None:
    """With what was sent in the text, made harmless."""
    wire = Wire()
    for headers, said in (
        ({"Content_Type": "text/plain"}, "Content-Type must be application/json, not 'text/plain'"),
        ({"Content_Encoding": "br"}, "Content-Encoding must be gzip or none, not 'br'"),
        ({"Content_Encoding": "gzip, gzip"}, "Content-Encoding must be gzip or none, not 'gzip, gzip'"),
    ):
        answer = wire.report(body(), **headers)
        assert (answer.status, answer.json) == (415, {"error": said})
    assert wire.ids() == []
    assert wire.counted("unsupported") == 3


def test_gzip_is_unpacked_within_the_limit() -> None:
    """The limit holds for what comes out."""
    wire = Wire(max_body=1000)
    assert wire.report(gzip.compress(body()), Content_Encoding="gzip").status == 200
    assert wire.report(body(), Content_Encoding="identity").status == 200
    answer = wire.report(gzip.compress(body() + b" " * 1000), Content_Encoding="gzip")
    assert (answer.status, answer.json) == (413, {"error": "the unpacked body is over the limit of 1000 bytes"})
    assert answer.headers["connection"] == "close"
    answer = wire.report(body(), Content_Encoding="gzip")
    assert answer.status == 400
    assert wire.ids() == ["n1"]


def test_a_bad_report_is_400_with_the_path_and_leaves_the_connection_usable() -> None:
    """Nothing of it is stored; the next report on the same connection is."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body("bad", page_faults="x")))
    connection.send(request("POST", "/update_metrics", body("good")))
    bad, good = connection.answers()
    assert (bad.status, bad.json) == (400, {"error": "Expected `int | float`, got `str` - at $.page_faults"})
    assert good.status == 200
    assert wire.ids() == ["good"]
    assert wire.counted("invalid") == 1


def test_other_methods_are_405() -> None:
    """With the one that there is."""
    answer = Wire().ask("GET", "/update_metrics")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json == {"error": "method 'GET' is not allowed here: POST"}


def test_an_older_report_counts_as_superseded() -> None:
    """It is answered 200, and said not to be stored."""
    wire = Wire()
    wire.report(body(timestamp=NOW))
    answer = wire.report(body(timestamp=NOW - 1))
    assert answer.json == {"status": "Metrics updated", "accepted": 0, "superseded": 1}
    assert wire.counted("superseded") == 1


def test_a_full_table_is_429_for_new_nodes() -> None:
    """With advice when to try again; known nodes are served."""
    wire = Wire(max_nodes=1)
    wire.report(body("a"))
    answer = wire.report(body("b"))
    assert (answer.status, answer.headers["retry-after"]) == (429, "10")
    assert "the table is full: 1 nodes" in answer.json["error"]
    assert wire.report(body("a")).status == 200
    assert wire.counted("table_full") == 1


def test_while_draining_reports_are_refused_and_the_connection_ends() -> None:
    """So that the client goes to the successor."""
    wire = Wire()
    wire.draining = True
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body()))
    (answer,) = connection.answers()
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert connection.closed
    assert wire.counted("draining") == 1


@pytest.mark.parametrize("headers", [{}, {"X_Other": "1"}], ids=["express", "tree"])
def test_unknown_names_are_counted_and_told(headers: dict[str, str]) -> None:
    """The report is stored; the answer, and once the log, names what was ignored, on both ways to the table."""
    wire = Wire()
    with capturedLogs() as logs:
        for _ in range(2):
            answer = wire.report(body(gpu=1, page_fault=3, fs_read_count=2), **headers)
    assert (answer.status, answer.json) == (
        200,
        {"status": "Metrics updated", "accepted": 1, "superseded": 0, "ignored": ["gpu", "page_fault"]},
    )
    assert wire.metrics.value("orchestrator_unknown_metrics_total") == 4
    assert [formatEvent(event) for event in logs if event["log_namespace"].endswith("remarks")] == [
        "the name 'gpu' in a report is not a metric family and is ignored",
        "the name 'page_fault' in a report is not a metric family and is ignored; did its profiler mean page_faults?",
    ]


@pytest.mark.parametrize("headers", [{}, {"X_Other": "1"}], ids=["express", "tree"])
def test_a_report_of_unknown_names_alone_is_refused(headers: dict[str, str]) -> None:
    """As one that is misspelt, or nested; nothing is stored, the names are counted and logged."""
    wire = Wire()
    with capturedLogs() as logs:
        answer = wire.report(body(page_fault=3), **headers)
    error = "no name in the report is a metric family: 'page_fault' (did you mean page_faults?) - at $"
    assert (answer.status, answer.json) == (400, {"error": error})
    assert wire.report(body(metrics={"page_faults": 3}), **headers).status == 400
    assert wire.report(b"[%s,%s]" % (body("a", page_faults=1), body("b", page_fault=1)), **headers).status == 400
    assert wire.ids() == []
    assert wire.counted("invalid") == 3
    assert wire.metrics.value("orchestrator_unknown_metrics_total") == 3
    assert len([event for event in logs if event["log_namespace"].endswith("remarks")]) == 1
    assert wire.report(body(), **headers).json == {"status": "Metrics updated", "accepted": 1, "superseded": 0}


def test_ignored_names_of_a_long_batch() -> None:
    """Are told once for the whole of it."""
    wire = Wire(max_nodes=1000)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", long_batch(page_faults=1, gpu=1)))
    wire.clock.pump([0] * 5)
    (answer,) = connection.answers()
    assert (answer.json["accepted"], answer.json["ignored"]) == (3 * SLICE + 1, ["gpu"])


def test_the_log_of_ignored_names_is_bounded() -> None:
    """However many different names come; and no name forges a line."""
    wire = Wire()
    with capturedLogs() as logs:
        for index in range(MAX_LOGGED + 20):
            wire.report(body("n1", page_faults=1, **{f"evil\n{index}": 1}))
    said = [formatEvent(event) for event in logs if event["log_namespace"].endswith("remarks")]
    assert len(said) == MAX_LOGGED + 1
    assert said[-1] == f"more than {MAX_LOGGED} different unknown names came in reports; no more are logged"
    assert not any("\n" in line for line in said)


def test_a_token_among_the_ignored_names_is_not_logged() -> None:
    """The log has what is left when tokens are taken out."""
    remarks = ReportRemarks(FAMILIES, 60, lambda data: data.replace(b"secret", b"[token]"))
    with capturedLogs() as logs:
        remarks.log_ignored(["my-secret"])
    assert [event["name"] for event in logs] == ["'my-[token]'"]


@pytest.mark.parametrize("headers", [{}, {"X_Other": "1"}], ids=["express", "tree"])
@pytest.mark.parametrize(
    ("interval", "warning"),
    [
        (30, None),
        (31, "one lost report makes the node absent"),
        (60, "the node is absent between two reports"),
        (120, "the node is absent between two reports"),
    ],
)
def test_reports_too_far_apart_for_the_stale_limit(headers: dict[str, str], interval: int, warning: str | None) -> None:
    """The answer says so, and the log once for all nodes that report so rarely."""
    wire = Wire()
    with capturedLogs() as logs:
        for name in ("a", "b"):
            answer = wire.report(body(name, page_faults=1, interval_seconds=interval), **headers)
    expected = f"interval_seconds {interval}, and a node is stale 60 s after its last report: {warning}"
    assert answer.json.get("warnings") == (None if warning is None else [expected])
    said = [formatEvent(event) for event in logs if event["log_namespace"].endswith("remarks")]
    assert said == ([] if warning is None else [f"node a and perhaps others: {expected}"])


def test_a_first_report_is_logged_once() -> None:
    """With the node's name."""
    wire = Wire()
    with capturedLogs() as logs:
        for node in ("a", "a", "b"):
            wire.report(body(node))
    assert [event["node_id"] for event in logs] == ["a", "b"]


def test_a_fleet_that_starts_does_not_flood_the_log() -> None:
    """A few names a second, and how many more there were."""
    wire = Wire(max_nodes=1000)
    with capturedLogs() as logs:
        wire.report(b"[" + b",".join(body(f"n{i}") for i in range(LOGGED_EACH_SECOND + 5)) + b"]")
        wire.report(body("x"))
        wire.clock.advance(1)
        wire.report(body("y"))
    assert [event.get("node_id", event.get("count")) for event in logs] == [
        *(f"n{i}" for i in range(LOGGED_EACH_SECOND)),
        6,
        "y",
    ]


def test_a_long_batch_gives_the_reactor_turns_and_is_stored_whole() -> None:
    """Nothing of it is in the table until all of it is decoded."""
    wire = Wire(max_nodes=1000)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", long_batch()))
    limit = 0
    while not (answers := connection.answers()):
        assert wire.ids() == []
        limit += 1
        turn(wire.clock)
    assert answers[0].json == {"status": "Metrics updated", "accepted": 3 * SLICE + 1, "superseded": 0}
    assert limit == 4
    assert len(wire.ids()) == 3 * SLICE + 1


def test_a_long_batch_with_an_error_at_its_end_stores_nothing() -> None:
    """Whole or not at all; the path tells which one it was."""
    wire = Wire(max_nodes=1000)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", long_batch(page_faults=-1)))
    wire.clock.pump([0] * 5)
    (answer,) = connection.answers()
    assert (answer.status, answer.json["error"]) == (400, f"Expected `int` >= 0 - at $[{3 * SLICE}].page_faults")
    assert wire.ids() == []
    assert wire.counted("invalid") == 1


def test_a_long_batch_whose_client_leaves_is_not_stored() -> None:
    """It is not answered, so it is not stored."""
    wire = Wire(max_nodes=1000)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", long_batch()))
    turn(wire.clock)
    connection.leave()
    wire.clock.advance(100)
    assert wire.ids() == []
    assert wire.counted("failed") == 0


def test_a_failure_of_ours_is_500_and_logged() -> None:
    """With nothing told to the client; long or short."""
    wire = Wire(max_nodes=1000)
    wire.nodes.update = None  # type: ignore[assignment,method-assign]  # broken on purpose
    for data in (body(), long_batch()):
        connection = wire.connect()
        with capturedLogs() as logs:
            connection.send(request("POST", "/update_metrics", data))
            wire.clock.pump([0] * 5)
        (answer,) = connection.answers()
        assert answer.status == 500
        assert answer.json == {"error": "internal error; the log of the orchestrator says more"}
        assert any("log_failure" in event for event in logs)
    assert wire.counted("failed") == 2


def test_a_long_gzip_body_lets_the_reactor_turn() -> None:
    """However little it is packed: each step of unpacking and each slice of decoding is a turn's."""
    wire = Wire(max_nodes=10_000)
    batch = b"[" + b",".join(body(f"n{number}") for number in range(8000)) + b"]"
    packed = gzip.compress(batch)
    assert len(packed) < AT_ONCE < len(batch)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", packed, Content_Encoding="gzip"))
    limit = 0
    while not connection.transport.value():
        turn(wire.clock)
        limit += 1
        assert limit < 1000
    assert connection.answers()[0].json["accepted"] == 8000
    assert limit >= len(batch) // STEP_OUT + 8000 // SLICE


def test_a_gzip_body_that_is_made_to_take_long() -> None:
    """Fifty thousand empty members: refused after the first few, and counted."""
    wire = Wire(max_body=2_000_000)
    answer = wire.report(gzip.compress(b"", mtime=0) * 52_425 + gzip.compress(body()), Content_Encoding="gzip")
    assert answer.status == 400
    assert answer.json["error"] == "the gzip body has more than 64 members - at $"
    assert wire.ids() == []
    assert wire.counted("invalid") == 1


def test_what_is_unpacked_is_held() -> None:
    """With all else that arrives; a bomb has no room either, but is too large first."""
    wire = Wire(max_nodes=10_000, max_arriving=800_000)
    for size, status in ((900_000, 503), (2_000_000, 413)):
        connection = wire.connect()
        connection.send(
            request("POST", "/update_metrics", gzip.compress(b" " * size + body()), Content_Encoding="gzip")
        )
        wire.clock.pump([0] * 20)
        assert connection.answers()[0].status == status
        assert wire.arriving.held == 0


def test_bodies_that_are_unpacked_are_few_at_a_time() -> None:
    """The others wait, packed; one whose client leaves gives its place away, or never takes it."""
    wire = Wire()
    packed = gzip.compress(b" " * 900_000 + body())
    connections = [wire.connect() for _ in range(UNPACKED_AT_ONCE + 3)]
    for connection in connections:
        connection.send(request("POST", "/update_metrics", packed, Content_Encoding="gzip"))
    assert wire.arriving.held < len(connections) * 600_000
    connections[0].leave()
    connections[UNPACKED_AT_ONCE + 1].leave()
    wire.clock.pump([0] * 100)
    answered = [len(connection.answers()) for connection in connections]
    assert answered == [0, *[1] * UNPACKED_AT_ONCE, 0, 1]
    assert wire.arriving.held == 0


def test_x_gzip_is_gzip() -> None:
    """As RFC 9110 has it."""
    wire = Wire()
    assert wire.report(gzip.compress(body("n1")), Content_Encoding="x-gzip").status == 200
    assert wire.ids() == ["n1"]
