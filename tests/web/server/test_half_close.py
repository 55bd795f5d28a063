"""A client that shuts down its writing side after its request gets its answer; one that has gone costs little."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from orchestratord.promql.client import Answer
from orchestratord.web.server.channel import HALF_CLOSE_SECONDS
from tests.certificates import Authority
from tests.fakes import body
from tests.web.tls_client import TlsClient
from tests.wire import Wire, request

FOUND = Answer(200, b"application/json", b'{"status":"success"}')


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has signed `server`."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("server", "localhost")
    return authority


REPORT = request("POST", "/update_metrics", body("n1"), Content_Type="application/json")
REQUESTS = {
    "nodes": request("GET", "/nodes"),
    "metrics": request("GET", "/metrics"),
    "query": request("GET", "/query?q=up"),
    "report": REPORT,
    "report-ordinary": request("POST", "/update_metrics", body("n1"), X="y"),
    "refused": request("POST", "/update_metrics", b"{"),
}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS)
def test_an_answer_that_is_at_hand(data: bytes) -> None:
    """It is there whole, and the connection ends by our side then."""
    wire = Wire()
    wire.upstreams.answer = FOUND
    connection = wire.connect()
    connection.send(data)
    connection.half_close()
    wire.clock.pump([0] * 20)
    (answer,) = connection.answers()
    assert answer.status == (400 if data == REQUESTS["refused"] else 200)
    assert connection.closed


def test_an_answer_that_waits_for_prometheus() -> None:
    """It comes when Prometheus answers; requests behind it are answered too."""
    wire = Wire()
    answer: Deferred[Answer] = Deferred()
    wire.upstreams.answer = answer
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up") + REPORT + request("GET", "/nodes"))
    connection.half_close()
    connection.half_close()  # as the reactor says it again when reading is resumed
    wire.clock.advance(3)
    assert not connection.closed
    answer.callback(FOUND)
    assert [one.status for one in connection.answers()] == [200, 200, 200]
    assert connection.closed
    assert wire.ids() == ["n1"]


def test_a_client_that_gives_up_waiting() -> None:
    """Its query is cancelled: it looks the same on the wire, and is told apart by how long it has waited."""
    wire = Wire()
    cancelled: list[object] = []
    wire.upstreams.answer = Deferred(cancelled.append)
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    wire.clock.advance(HALF_CLOSE_SECONDS + 1)
    connection.half_close()
    assert connection.closed
    connection.leave()
    assert cancelled
    assert wire.metrics.value("orchestrator_http_requests_total", route="/query", method="GET", code="499") == 1


def test_a_client_that_may_be_gone_has_a_deadline() -> None:
    """No query is worked on for it longer than an answer may take."""
    wire = Wire()
    cancelled: list[object] = []
    wire.upstreams.answer = Deferred(cancelled.append)
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    connection.half_close()
    wire.clock.pump([1] * 19)
    assert not connection.closed
    wire.clock.pump([1] * 2)
    assert connection.closed
    connection.leave()
    assert cancelled


def test_a_request_behind_has_the_same_deadline() -> None:
    """Though it was answered only after the one before it."""
    wire = Wire()
    first: Deferred[Answer] = Deferred()
    wire.upstreams.answer = first
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up") * 2)
    connection.half_close()
    wire.upstreams.answer = Deferred()
    first.callback(FOUND)
    assert [one.status for one in connection.answers()] == [200]
    assert not connection.closed
    wire.clock.pump([1] * 21)
    assert connection.closed


@pytest.mark.parametrize("part", [REPORT[:10], REPORT[:60], REPORT[:-1], request("GET", "/nodes")[:-2]])
@pytest.mark.parametrize("before", [b"", REPORT])
def test_half_a_request(part: bytes, before: bytes) -> None:
    """It is refused, and nothing is stored of it."""
    wire = Wire()
    connection = wire.connect()
    for data in filter(None, (before, part)):
        connection.send(data)
    connection.half_close()
    answers = connection.answers()
    assert [one.status for one in answers] == ([200, 400] if before else [400])
    assert answers[-1].json == {"error": "the connection ended before the request did"}
    assert connection.closed
    assert wire.arriving.held == 0


@pytest.mark.parametrize("data", [b"", REPORT, request("GET", "/nodes")])
def test_an_idle_client_that_leaves(data: bytes) -> None:
    """The connection ends without a word."""
    connection = Wire().connect()
    if data:
        connection.send(data)
        connection.answers()
    connection.half_close()
    assert connection.closed
    assert connection.answers() == []


def test_a_client_whose_body_was_refused() -> None:
    """It has its answer: the connection ends, and does not wait for the rest."""
    connection = Wire(max_body=10).connect()
    connection.send(REPORT[:-3])
    assert [one.status for one in connection.answers()] == [413]
    connection.half_close()
    assert connection.closed
    assert connection.answers() == []


@pytest.mark.parametrize("end", ["close_notify", "fin", "both"])
def test_in_tls(authority: Authority, end: str) -> None:
    """By TLS' own word, by the end of the TCP connection below, or by one after the other."""

    def says_so(client: TlsClient) -> None:
        if end != "fin":
            client.ours.dataReceived(client.close_notify())
        if end != "close_notify":
            client.ours.readConnectionLost()

    wire = Wire()
    answer: Deferred[Answer] = Deferred()
    wire.upstreams.answer = answer
    client = TlsClient(wire, authority)
    client.send(request("GET", "/query?q=up"))
    says_so(client)
    assert not client.closed
    answer.callback(FOUND)
    assert [one.status for one in client.answers()] == [200]
    assert client.closed
    client = TlsClient(wire, authority)
    client.send(REPORT)
    says_so(client)
    assert [one.status for one in client.answers()] == [200]
    assert client.closed
    client = TlsClient(wire, authority)
    says_so(client)
    assert client.closed


@pytest.mark.parametrize("end", ["close_notify", "fin"])
def test_a_request_and_its_end_in_one_segment(authority: Authority, end: str) -> None:
    """In TLS the answer is not lost then either."""
    wire = Wire()
    client = TlsClient(wire, authority)
    segment = client.records(REPORT[:50], REPORT[50:])
    client.ours.dataReceived(segment + (client.close_notify() if end == "close_notify" else b""))
    if end == "fin":
        client.ours.readConnectionLost()
    assert [one.status for one in client.answers()] == [200]
    assert client.closed


def test_an_end_in_the_handshake(authority: Authority) -> None:
    """The connection ends."""
    client = TlsClient(Wire(), authority)
    client.ours._handshakeDone = False
    client.ours.readConnectionLost()
    assert client.closed


def test_a_connection_that_breaks_in_tls(authority: Authority) -> None:
    """What it asked for is cancelled at once: a reset is no half-close."""
    wire = Wire()
    cancelled: list[Any] = []
    wire.upstreams.answer = Deferred(cancelled.append)
    client = TlsClient(wire, authority)
    client.send(request("GET", "/query?q=up"))
    client.ours.connectionLost(Failure(ConnectionDone()))
    assert cancelled
