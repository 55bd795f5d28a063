"""Floods: of connections, of requests that do not end, of requests that come at once."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from orchestratord.promql.client import Answer
from orchestratord.web.server.channel import ANSWERED_AT_ONCE, LINGER_SECONDS
from orchestratord.web.server.connection_limit import REFUSAL_SECONDS, REFUSALS
from tests.fakes import body
from tests.wire import Answer as WireAnswer
from tests.wire import Connection, Wire, request, turn


def test_one_connection_too_many() -> None:
    """Is answered 503 before it has asked, and ends; once another has left there is room."""
    wire = Wire(max_connections=2)
    kept = [wire.connect(), wire.connect()]
    refused = wire.connect()
    (answer,) = refused.answers()
    assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
    assert answer.json == {"error": "too many connections; try again"}
    assert not refused.closed
    refused.send(request("POST", "/update_metrics", body()))
    assert refused.closed
    refused.leave()
    assert wire.ids() == []
    kept[0].leave()
    assert wire.report(body()).status == 200
    assert (wire.connections.open, wire.connections.refused) == (2, 1)


def test_a_refused_connection_that_says_nothing_is_cut() -> None:
    """After a moment."""
    wire = Wire(max_connections=0)
    refused = wire.connect()
    wire.clock.advance(REFUSAL_SECONDS)
    assert refused.transport.disconnected


def test_refusals_are_few_at_a_time() -> None:
    """Above that a connection is closed without a word, which costs nothing."""
    wire = Wire(max_connections=0)
    refused = [wire.connect() for _ in range(REFUSALS)]
    assert wire.site.buildProtocol(None) is None
    refused[0].leave()
    assert wire.site.buildProtocol(None) is not None
    assert wire.connections.refused == REFUSALS + 2


def overwhelmed(connection: Connection) -> None:
    """Check that a request was refused because there is no memory for it."""
    answer: WireAnswer
    (answer,) = connection.answers()
    assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
    assert answer.json == {"error": "the requests that arrive fill their memory; try again"}


@pytest.mark.parametrize(
    "start",
    [
        request("POST", "/update_metrics", b"x" * 100_000)[:-50_000],
        request("POST", "/update_metrics", b"x" * 20_000)[:-1],
        request("POST", "/update_metrics", Transfer_Encoding="chunked") + b"c350\r\n" + b"x" * 50_000,
        b"GET /" + b"x" * 60_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(200)),
    ],
    ids=["body", "short body", "chunks", "line", "headers"],
)
def test_requests_that_do_not_end(start: bytes) -> None:
    """All that arrive together have a bound; one over it is refused, those before it go on, and who ends makes room."""
    wire = Wire(max_arriving=130_000)
    connections: list[Connection] = []
    while not connections or not connections[-1].transport.value():
        connections.append(wire.connect())
        connections[-1].send(start)
    *kept, refused = connections
    assert 2 <= len(kept) <= 6
    overwhelmed(refused)
    refused.send(b"x" * 1000)
    assert refused.answers() == []
    for _ in range(int(LINGER_SECONDS)):
        wire.clock.advance(1)
    assert refused.closed
    assert not kept[0].closed
    held = wire.arriving.held
    assert held <= 130_000
    kept[0].leave()
    assert wire.arriving.held < held
    assert wire.report(body("n1")).status == 200
    for connection in kept[1:]:
        connection.leave()
    assert wire.arriving.held == 0


def test_a_body_that_was_refused_takes_no_memory() -> None:
    """Whatever more comes of it."""
    wire = Wire(max_body=100, max_arriving=10_000)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", b"x" * 100_000)[:-100_000])
    for _ in range(90):
        connection.send(b"x" * 1000)
    assert [answer.status for answer in connection.answers()] == [413]
    assert wire.arriving.held == 0


def test_batches_at_a_time() -> None:
    """A batch takes more memory than its body while it is read; one that finds none is 503, with Retry-After."""
    wire = Wire(max_arriving=1_200_000, max_nodes=3000)
    batch = b"[" + b",".join(body(f"n{number}") for number in range(3000)) + b"]"
    one, other, third = wire.connect(), wire.connect(), wire.connect()
    for connection in (one, other, third):
        connection.send(request("POST", "/update_metrics", batch))
    (refused,) = third.answers()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert wire.counted("busy") == 1
    wire.clock.pump([0] * 1000)
    assert [answer.status for answer in one.answers() + other.answers()] == [200, 200]
    assert wire.arriving.held == 0


def test_requests_that_come_at_once_are_answered_in_turns() -> None:
    """So many in one turn of the reactor, all of them in the end, in their order."""
    wire = Wire()
    connection = wire.connect()
    connection.send(b"".join(request("GET", f"/nodes/n{number}") for number in range(100)))
    assert len(connection.answers()) == ANSWERED_AT_ONCE
    wire.clock.pump([0] * 10)
    assert len(connection.answers()) == 100 - ANSWERED_AT_ONCE
    assert wire.arriving.held == 0
    connection.send(request("GET", "/-/ready"))
    assert connection.answers()[0].status == 200


@pytest.mark.parametrize("data", [request("GET", "/-/ready"), request("POST", "/update_metrics", body())])
def test_requests_that_wait_for_their_turn_are_not_read(data: bytes) -> None:
    """The rest of a packet waits here, further packets outside: all are answered in the end."""
    wire = Wire()
    connection = wire.connect()
    connection.send(data * 1000)
    sent = 1000
    while sent < 5000:
        assert connection.transport.producerState == "paused"
        while connection.transport.producerState == "paused":
            turn(wire.clock)
        assert wire.arriving.held < 20_000
        connection.send(data * 1000)
        sent += 1000
    wire.clock.pump([0] * 100)
    assert len(connection.answers()) == sent


def test_a_client_that_leaves_between_turns() -> None:
    """Is forgotten."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("GET", "/-/ready") * 100)
    connection.leave()
    wire.clock.pump([0] * 10)
    assert not wire.site.context.channels
    assert wire.arriving.held == 0
    assert wire.metrics.value("orchestrator_http_requests_total", route="/-/ready", method="GET", code="499") is None


def test_requests_behind_one_that_is_being_answered() -> None:
    """Are read as far as a few packets, and no further."""
    wire = Wire()
    wire.upstreams.answer = Deferred()
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    assert connection.transport.producerState == "producing"
    connection.send(request("GET", "/-/ready") * 1000)
    assert connection.transport.producerState == "paused"
    wire.upstreams.answer.callback(Answer(200, b"application/json", b"{}"))
    wire.clock.pump([0] * 100)
    assert len(connection.answers()) == 1001
    assert connection.transport.producerState == "producing"


def test_a_report_behind_a_query_that_the_stop_waits_for_is_answered() -> None:
    """503, with the connection's end, rather than nothing."""
    wire = Wire()
    wire.upstreams.answer = Deferred()
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    wire.draining = True
    Deferred.fromCoroutine(wire.site.drain(15))
    connection.send(request("POST", "/update_metrics", body("n1")))
    wire.upstreams.answer.callback(Answer(200, b"application/json", b"{}"))
    query, report = connection.answers()
    assert (query.status, report.status, report.headers["connection"]) == (200, 503, "close")
    assert connection.closed
    assert wire.ids() == []


@pytest.mark.parametrize("form", [b"%" * 8001, b"%41" * 8001, b"x" * 8001])
@pytest.mark.parametrize("path", ["/query", "/api/v1/query", "/api/v1/series"])
def test_a_form_that_is_surely_too_long_is_not_unpacked(
    form: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking 1 MiB takes 0.4 s."""
    monkeypatch.setattr("orchestratord.web.api.queries.arguments", None)
    answer = Wire().ask("POST", path, b"q=" + form)
    assert (answer.status, answer.json["errorType"]) == (400, "bad_data")
    assert answer.json["error"] == "the parameters are longer than 2000 characters"


def test_a_form_of_long_characters_is_within_the_limit() -> None:
    """The limit is in characters, however many bytes they take."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    assert wire.ask("POST", "/query", f"q={quote(chr(0x1F600) * 1000)}".encode()).status == 200
