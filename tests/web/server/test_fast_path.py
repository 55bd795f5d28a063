"""The short way of a report: same answers, same bounds, and never for what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.nodes.families import BUILT_IN
from orchestratord.promql.client import Answer
from orchestratord.promql.memory import MemoryClient
from orchestratord.runtime.time_slices import TimeSlices
from tests.fakes import body
from tests.wire import Wire, request


def twisted_way(wire: Wire) -> Wire:
    """Have every request go Twisted's way."""
    wire.site.context.fast_path = None
    return wire


HEADERS: list[dict[str, Any]] = [
    {"Content_Type": "application/json", "User_Agent": "python-requests/2.32", "Accept": "*/*"},
    {"Connection": "keep-alive", "Accept_Encoding": "gzip, deflate"},
    {"Connection": "close"},
    {"Content_Type": "text/plain"},
    {"Content_Encoding": "gzip"},
    {"X_Other": "1"},
    {"Expect": "100-continue"},
    {"Content_Length": "3"},
]
BODIES = [
    body("n1", page_faults=3),
    body("n1", timestamp=1),
    b"[" + body("a") + b"," + body("b") + b"]",
    b"[]",
    b"{",
    b"{}",
]


@pytest.mark.parametrize("headers", HEADERS, ids=[next(reversed(headers)) for headers in HEADERS])
@pytest.mark.parametrize("data", BODIES)
def test_both_ways_answer_the_same(headers: dict[str, Any], data: bytes) -> None:
    """Status, body, connection, what is stored and what is counted, whether the short way takes it or not."""
    seen = []
    for wire in (Wire(), twisted_way(Wire())):
        connection = wire.connect()
        connection.send(request("POST", "/update_metrics", data, **headers))
        answers = [(one.status, one.body, one.headers.get("connection")) for one in connection.answers()]
        counted = {
            outcome: wire.counted(outcome) for outcome in ("accepted", "superseded", "invalid", "unsupported", "failed")
        }
        bodies = wire.metrics.value("orchestrator_report_bytes_count")
        requests = wire.metrics.value("orchestrator_http_request_duration_seconds_count", route="/update_metrics")
        seen.append((answers, connection.closed, wire.ids(), counted, bodies, requests))
    assert seen[0] == seen[1]


@given(st.lists(st.integers(1, 400), max_size=6))
def test_a_report_may_come_in_any_pieces(cuts: list[int]) -> None:
    """Head and body in packets of their own, as `requests` sends them, or cut anywhere; two reports on a connection."""
    wire = Wire()
    connection = wire.connect()
    data = b"".join(
        request("POST", "/update_metrics", body(node, page_faults=1), Content_Type="application/json") for node in "ab"
    )
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > at:
            connection.send(data[at:cut])
            at = cut
    assert [answer.status for answer in connection.answers()] == [200, 200]
    assert wire.ids() == ["a", "b"]


def test_a_connection_may_change_its_way() -> None:
    """A report, a listing, a report; and a bad one in between does not end it."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body("a")))
    connection.send(request("POST", "/update_metrics", b"nonsense"))
    connection.send(request("GET", "/nodes"))
    connection.send(request("POST", "/update_metrics", body("b")))
    assert [answer.status for answer in connection.answers()] == [200, 400, 200, 200]
    assert wire.ids() == ["a", "b"]


def test_a_report_that_does_not_end_has_its_deadline() -> None:
    """The held part is a request that arrives; it gets 408, and nothing of it is stored."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body("a")))
    wire.clock.advance(50)
    connection.send(request("POST", "/update_metrics", body("b"))[:-1])
    wire.clock.advance(29)
    assert not connection.closed
    wire.clock.advance(1)
    assert [answer.status for answer in connection.answers()] == [200, 408]
    assert connection.closed
    assert wire.ids() == ["a"]


def test_heads_that_are_remembered_are_bounded() -> None:
    """A client that makes up heads makes no memory grow."""
    wire = Wire()
    connection = wire.connect()
    for number in range(1100):
        connection.send(request("POST", "/update_metrics", body("a"), User_Agent=f"agent-{number}"))
    assert len(connection.answers()) == 1100
    assert wire.site.context.fast_path is not None
    assert len(wire.site.context.fast_path._known) <= 1000


def from_memory() -> Wire:
    """Return a wire that answers plain selectors from its table."""
    wire = Wire()
    wire.report(body("n1", page_faults=3))
    wire.queries._client = MemoryClient(
        TimeSlices(wire.clock),
        wire.upstreams,
        wire.nodes,
        BUILT_IN,
        clocks=wire.clocks,
        mode="always",
        budget=wire.arriving,
    )
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    return wire


@pytest.mark.parametrize(
    "target",
    [
        "/query?q=page_faults%7Bnode_id%3D%22n1%22%7D",
        '/api/v1/query?query=page_faults{node_id=~"n1|n2"}',
        "/query?q=page_faults",
        "/query?q=sum(page_faults)",
        "/query?time=x&q=page_faults",
        "/query?q=",
        "/query?q=%ff",
        "/nodes?details=true",
    ],
)
@pytest.mark.parametrize("connection_header", ["keep-alive", "close", "upgrade"])
def test_both_ways_answer_queries_the_same(target: str, connection_header: str) -> None:
    """Whether the answer is at hand, has to be fetched, or is a refusal."""
    seen = []
    for wire in (from_memory(), twisted_way(from_memory())):
        connection = wire.connect()
        connection.send(request("GET", target, Connection=connection_header))
        wire.clock.pump([0] * 5)
        answers = [
            (one.status, one.body, one.headers.get("connection"), one.headers.get("x-orchestrator-source"))
            for one in connection.answers()
        ]
        counted = wire.metrics.value("orchestrator_http_request_duration_seconds_count", route=target.partition("?")[0])
        seen.append((answers, connection.closed, counted, wire.upstreams.asked))
    assert seen[0] == seen[1]
