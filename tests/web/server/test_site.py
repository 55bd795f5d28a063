"""The HTTP server's bounds: bodies, deadlines, a clean end."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from orchestratord.promql.client import Answer
from orchestratord.web.server.channel import LINGER_SECONDS
from orchestratord.web.server.connection_age import JITTER, MAX_AGE, lifetime
from tests.fakes import body
from tests.wire import Connection, Wire, request


def drain(wire: Wire, seconds: float) -> list[object]:
    """Start draining; what is returned holds an item once it is over."""
    over: list[object] = []
    Deferred.fromCoroutine(wire.site.drain(seconds)).addBoth(over.append)
    return over


def refused(connection: Connection) -> None:
    """Check that the body was refused ahead of its end."""
    (answer,) = connection.answers()
    assert answer.status == 413
    assert answer.json == {"error": "the body is over the limit of 100 bytes"}
    assert answer.headers["connection"] == "close"


def test_a_body_that_says_it_is_too_long_is_refused_unread() -> None:
    """The answer is there before the body; what follows is dropped, and the end of it ends the connection."""
    wire = Wire(max_body=100)
    connection = wire.connect()
    data = request("POST", "/update_metrics", b"x" * 101, Expect="100-continue")
    connection.send(data[:-101])
    refused(connection)
    assert not connection.closed
    connection.send(b"x" * 101)
    assert connection.closed
    assert connection.answers() == []
    assert wire.counted("too_large") == 1


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_long() -> None:
    """Whatever follows; a body of exactly the limit is taken."""
    wire = Wire(max_body=100)
    fits = body("a" * (100 - len(body(""))))
    assert wire.report(fits).status == 200
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", Transfer_Encoding="chunked"))
    connection.send(b"64\r\n" + b"x" * 100 + b"\r\n")
    assert connection.answers() == []
    connection.send(b"1\r\nx\r\n")
    refused(connection)
    connection.send(b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")
    assert connection.answers() == []
    assert connection.closed


def test_a_refused_client_that_goes_on_is_cut() -> None:
    """After a while in which it could read the answer."""
    wire = Wire(max_body=100)
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", b"x" * 101)[:-50])
    for _ in range(int(LINGER_SECONDS)):
        assert not connection.closed
        connection.send(b"x")
        wire.clock.advance(1)
    assert connection.closed


def test_a_request_has_one_deadline_to_arrive() -> None:
    """A client that sends a byte now and then is cut all the same, with 408."""
    wire = Wire()
    connection = wire.connect()
    data = request("POST", "/update_metrics", body())
    for byte in data[:29]:
        wire.clock.advance(1)
        connection.send(bytes([byte]))
    assert not connection.closed
    wire.clock.advance(1)
    assert connection.closed


def test_a_body_that_does_not_arrive_is_answered_408() -> None:
    """So that the client knows why."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body())[:-1])
    wire.clock.advance(30)
    (answer,) = connection.answers()
    assert (answer.status, answer.json) == (408, {"error": "the request did not arrive within 30 s"})
    assert connection.closed
    assert wire.ids() == []


def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    """There is no request to answer."""
    wire = Wire()
    connection = wire.connect()
    wire.clock.advance(30)
    assert connection.closed
    assert connection.answers() == []


def test_a_client_that_does_not_take_the_end_of_its_answer_is_cut() -> None:
    """A connection that was told to end and stays, because what is written is not read, ends by force."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("GET", "/-/ready", Connection="close"))
    assert connection.transport.disconnecting
    wire.clock.pump([1] * 19)
    assert not connection.transport.disconnected
    wire.clock.pump([1] * 2)
    assert connection.transport.disconnected


def test_a_kept_connection_may_be_idle_and_then_has_a_deadline_again() -> None:
    """The idle limit between requests, the deadline from the first byte of the next."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body()))
    wire.clock.advance(59)
    assert not connection.closed
    connection.send(b"P")
    wire.clock.advance(29)
    assert not connection.closed
    wire.clock.advance(1)
    assert connection.closed
    idle = wire.connect()
    idle.send(request("POST", "/update_metrics", body()))
    wire.clock.advance(60)
    assert idle.closed


def test_pipelined_requests_are_answered_in_order() -> None:
    """The second one's deadline runs although its first bytes came with the first one."""
    wire = Wire()
    connection = wire.connect()
    first, second = (request("POST", "/update_metrics", body(node)) for node in "ab")
    connection.send(first + second + first[:-1])
    assert [answer.status for answer in connection.answers()] == [200, 200]
    assert wire.ids() == ["a", "b"]
    wire.clock.advance(30)
    assert [answer.status for answer in connection.answers()] == [408]


def test_an_answer_may_take_longer_than_a_request() -> None:
    """The deadline is the request's, not the answer's."""
    wire = Wire()
    wire.upstreams.answer = Deferred()
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    wire.clock.advance(100)
    assert not connection.closed


def test_a_client_that_leaves_is_counted_as_499_and_its_query_ends() -> None:
    """The upstream's work is cut."""
    wire = Wire()
    cancelled: list[object] = []
    wire.upstreams.answer = Deferred(cancelled.append)
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    connection.leave()
    assert cancelled
    assert wire.metrics.value("orchestrator_http_requests_total", route="/query", method="GET", code="499") == 1
    assert not wire.site.context.channels


def test_drain_lets_the_request_in_flight_finish() -> None:
    """Idle connections end at once; the busy one ends with its answer."""
    wire = Wire()
    answer: Deferred[object] = Deferred()
    wire.upstreams.answer = answer
    idle, busy = wire.connect(), wire.connect()
    busy.send(request("GET", "/query?q=up"))
    over = drain(wire, 15)
    assert idle.closed
    idle.leave()
    assert not busy.closed
    assert not over
    answer.callback(Answer(200, b"application/json", b"{}"))
    assert [one.status for one in busy.answers()] == [200]
    assert busy.closed
    busy.leave()
    assert over == [None]


def test_drain_ends() -> None:
    """A request that does not is cut."""
    wire = Wire()
    wire.upstreams.answer = Deferred()
    connection = wire.connect()
    connection.send(request("GET", "/query?q=up"))
    over = drain(wire, 15)
    wire.clock.advance(15)
    assert over == [None]
    assert connection.transport.disconnected or connection.transport.disconnecting


def test_the_access_log_is_off_unless_wanted_and_cannot_be_forged() -> None:
    """One line a request, printable whatever the client sent."""
    wire = Wire()
    with capturedLogs() as logs:
        wire.ask("GET", "/-/ready")
        wire.site.context.access_log = True
        wire.ask("GET", "/-/ready?\\'")
    (line,) = logs
    assert line["method"] == "GET"
    assert line["uri"] == "/-/ready?\\\\'"
    assert line["code"] == 200
    assert line["milliseconds"] >= 0


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("POST /update_metrics", {}),
        ("POST /update_metrics", {"X_Other": "1"}),
        ("GET /nodes", {}),
        ("GET /query?q=up", {}),
    ],
    ids=["express", "hot", "tree", "query"],
)
def test_an_old_connection_ends_with_an_answer(line: str, headers: dict[str, str]) -> None:
    """So that a client which keeps its connection reaches other replicas too; each request is answered."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    method, path = line.split()
    sent = request(method, path, body("n1", page_faults=1) if method == "POST" else b"", **headers)
    connection = wire.connect()
    age = 0
    while not connection.closed:
        connection.send(sent)
        (answer,) = connection.answers()
        assert answer.status == 200
        assert answer.headers.get("connection") == ("close" if connection.closed else None)
        assert age <= MAX_AGE * (1 + JITTER)
        wire.clock.advance(1)
        age += 1
    assert age >= MAX_AGE * (1 - JITTER)


@pytest.mark.parametrize("sent", [request("GET", "/nodes"), request("POST", "/update_metrics", body("n"))])
def test_an_old_connection_answers_what_came_already(sent: bytes) -> None:
    """Requests that were sent together are all answered; the last of them ends the connection."""
    wire = Wire()
    connection = wire.connect()
    for seconds in (50, 45, 55):  # the last request before the one that is looked at comes before it can be old
        connection.send(request("GET", "/nodes"))
        wire.clock.advance(seconds)
    assert len(connection.answers()) == 3
    connection.send(sent * 3)
    wire.clock.pump([0] * 20)
    assert [answer.headers.get("connection") for answer in connection.answers()] == [None, None, "close"]
    assert connection.closed


def test_connections_do_not_get_old_together() -> None:
    """A fifth earlier or later."""
    assert [lifetime(lambda: 0.0), lifetime(lambda: 0.5), lifetime(lambda: 1.0)] == [96, 120, 144]
