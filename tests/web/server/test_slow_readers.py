"""Clients that read slowly, or not at all."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.defer import Deferred

from orchestratord.promql.client import Answer
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.web.api.metrics import AHEAD, MAX_SCRAPES
from orchestratord.web.server.send_buffer import PIECE
from tests.fakes import body
from tests.wire import Connection, Wire, request

BIG = bytes(range(256)) * 4096  # 1 MiB


def slow(wire: Wire) -> Connection:
    """Return the connection of a client that reads only when it is told to."""
    connection = wire.connect()
    connection.transport.narrow = True
    return connection


def asked(wire: Wire) -> Connection:
    """Return a slow client that has asked what has a big answer."""
    wire.upstreams.answer = Answer(200, b"application/json", BIG)
    connection = slow(wire)
    connection.send(request("GET", "/query?q=up"))
    return connection


def test_an_answer_is_written_as_far_as_it_is_read() -> None:
    """Piece by piece, and it comes whole; then the connection serves the next request."""
    connection = asked(Wire())
    came = b""
    while connection.transport.value():
        assert len(connection.transport.value()) <= PIECE + 1000
        came += connection.transport.value()
        connection.read()
    assert came.partition(b"\r\n\r\n")[2] == BIG
    connection.transport.narrow = False
    connection.send(request("GET", "/-/ready"))
    assert [answer.status for answer in connection.answers()] == [200]


def test_an_answer_in_chunks_comes_whole_too() -> None:
    """Pieces of what has no length are chunks, and the last one is there."""
    wire = Wire()
    connection = slow(wire)
    channel: Any = connection.channel
    wire.upstreams.answer = Deferred()
    connection.send(request("GET", "/query?q=up"))
    (asking,) = channel.requests
    for part in (BIG, b"small", b"", BIG):
        asking.write(part)
    asking.finish()
    came = b""
    while connection.transport.value():
        came += connection.transport.value()
        connection.read()
    connection.transport.write(came)
    (answer,) = connection.answers()
    assert answer.body == BIG + b"small" + BIG


def test_a_client_that_does_not_take_its_answer_is_cut() -> None:
    """At its deadline, though it takes a piece now and then; the request counts as one whose client left."""
    wire = Wire()
    connection = asked(wire)
    for _ in range(4):
        wire.clock.pump([1] * 4)
        connection.read()
    assert not connection.transport.disconnected
    wire.clock.pump([1] * 4)
    assert connection.transport.disconnected
    connection.leave()
    assert wire.metrics.value("orchestrator_http_requests_total", route="/query", method="GET", code="499") == 1


def test_reports_whose_answers_are_not_read() -> None:
    """The connection is not read any more, and cut."""
    wire = Wire()
    connection = slow(wire)
    connection.send(request("POST", "/update_metrics", body("n1")))
    assert connection.transport.producerState == "paused"
    wire.clock.pump([1] * 20)
    assert connection.transport.disconnected


def test_requests_whose_answers_are_not_read() -> None:
    """Are not answered any more, nor read, until the client reads; then all are."""
    wire = Wire()
    connection = slow(wire)
    connection.send(request("GET", "/-/ready") * 50)
    wire.clock.pump([0] * 100)
    assert connection.transport.producerState == "paused"
    assert connection.transport.value().count(b"HTTP/1.1 200") == 1
    came = b""
    while connection.transport.value():
        came += connection.transport.value()
        connection.read()
        wire.clock.pump([0] * 10)
    assert came.count(b"HTTP/1.1 200") == 50
    assert connection.transport.producerState == "producing"
    connection.send(request("GET", "/-/ready") * 50)
    wire.clock.pump([1] * 20)
    assert connection.transport.disconnected
    connection.leave()
    assert not wire.site.context.channels


def test_what_comes_while_an_answer_is_not_read_waits_outside() -> None:
    """Whatever is sent behind it."""
    wire = Wire()
    connection = asked(wire)
    assert connection.transport.producerState == "paused"
    while connection.read():
        pass
    assert connection.transport.producerState == "producing"


def test_an_end_that_the_client_does_not_take() -> None:
    """A connection that was ended is gone after a while, even if its client never reads the last of it."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request("GET", "/-/ready", Connection="close"))
    assert connection.transport.disconnecting
    assert not connection.transport.disconnected
    wire.clock.pump([1] * 20)
    assert connection.transport.disconnected


def test_the_memory_of_an_answer_is_free_once_it_was_taken_or_its_client_has_left() -> None:
    """Not before, and without waiting for the collector of garbage."""
    gc.disable()
    try:
        for leaves in (False, True):
            wire, budget = Wire(), MemoryBudget(10_000_000)
            reservation = budget.reservation()
            reservation.hold(len(BIG))
            wire.upstreams.answer = Answer(200, b"application/json", BIG, reservation=reservation)
            del reservation
            one, other = slow(wire), slow(wire)
            for connection in (one, other):
                connection.send(request("GET", "/query?q=up"))
            wire.upstreams.answer = None
            one.leave()
            assert budget.held == len(BIG)
            if leaves:
                other.leave()
            else:
                while other.read():
                    pass
            assert budget.held == 0
    finally:
        gc.enable()


def test_a_listing_is_under_way_until_it_is_read() -> None:
    """Eight clients that do not read are all that are served."""
    wire = Wire()
    wire.report(body("n1"))
    connections = [slow(wire) for _ in range(9)]
    wire.in_thread = lambda _: Deferred()
    for connection in connections:
        connection.send(request("GET", "/nodes"))
    (refused,) = connections[8].answers()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    connections[0].leave()
    wire.in_thread = lambda _: BIG  # type: ignore[assignment,return-value]
    assert wire.ask("GET", "/-/ready").status == 200


def test_a_scrape_is_made_as_far_as_it_is_read() -> None:
    """Not much more of it than that is in memory, and scrapes that are not read are ten at the most."""
    wire = Wire(max_nodes=60_000)
    for start in range(0, 60_000, 5000):
        batch = b",".join(body(f"a-node-with-a-name-{start + n}", page_faults=1, fs_read_count=2) for n in range(5000))
        connection = wire.connect()
        connection.send(request("POST", "/update_metrics", b"[" + batch + b"]"))
        wire.clock.pump([0] * 1000)
        assert connection.answers()[0].status == 200
    connections = [slow(wire) for _ in range(MAX_SCRAPES + 1)]
    for connection in connections:
        connection.send(request("GET", "/metrics"))
    assert connections[MAX_SCRAPES].answers()[0].status == 503
    wire.clock.pump([0] * 2000)
    channel: Any = connections[0].channel
    assert AHEAD < channel.requests[0].waiting < AHEAD + 1_000_000
    for connection in connections[1:MAX_SCRAPES]:
        connection.leave()
    came = 0
    while connections[0].transport.value():
        came += connections[0].read()
        wire.clock.pump([0] * 2)
    assert came > AHEAD + 1_000_000
    assert wire.ask("GET", "/-/ready").status == 200
