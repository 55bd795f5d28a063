"""Slow readers have a deadline for progress, and make room for others."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from orchestratord.promql.client import Answer
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.web import klein_app as api
from orchestratord.web.server.send_buffer import PIECE
from orchestratord.web.server.slow_readers import GRACE_SECONDS, MOST, PROGRESS_SECONDS
from tests.fakes import body
from tests.wire import Connection, Wire, request

BIG = bytes(10 * PIECE)


def slow(wire: Wire, target: str) -> Connection:
    """Return the connection of a client that has asked and reads only when it is told to."""
    connection = wire.connect()
    connection.transport.narrow = True
    connection.send(request("GET", target))
    wire.clock.pump([0] * 20)
    return connection


def big_answer(wire: Wire, budget: MemoryBudget | None = None) -> None:
    """Have queries answered with much, held of a room."""
    reservation = budget.reservation() if budget else None
    assert reservation is None or reservation.hold(len(BIG))
    wire.upstreams.answer = Answer(200, b"application/json", BIG, reservation=reservation)


def test_a_client_that_takes_nothing_is_cut() -> None:
    """Long before the deadline for the whole answer; the request counts as one whose client left."""
    wire = Wire()
    big_answer(wire)
    connection = slow(wire, "/query?q=up")
    wire.clock.pump([1] * (int(PROGRESS_SECONDS) - 1))
    assert not connection.transport.disconnected
    wire.clock.pump([1] * 2)
    assert connection.transport.disconnected
    connection.leave()
    assert wire.metrics.value("orchestrator_http_requests_total", route="/query", method="GET", code="499") == 1
    assert (len(wire.readers), wire.readers.cut) == (0, 1)


def test_a_client_that_takes_some_has_its_whole_time() -> None:
    """A piece in each period is progress."""
    wire = Wire()
    big_answer(wire)
    connection = slow(wire, "/query?q=up")
    for _ in range(2):
        wire.clock.pump([1] * 8)
        connection.read()
    assert not connection.transport.disconnected
    while connection.read():
        pass
    assert len(wire.readers) == 0
    wire.clock.pump([1] * 30)
    assert not connection.transport.disconnected
    assert wire.readers.cut == 0


def test_the_slowest_makes_room() -> None:
    """Clients that do not read shut nothing for others; one that reads something stays."""
    wire = Wire()
    wire.in_thread = lambda _: succeed([BIG, b"]"])
    readers = [slow(wire, "/nodes") for _ in range(api._MAX_LISTINGS)]
    wire.clock.advance(GRACE_SECONDS)
    readers[0].read()
    newcomer = slow(wire, "/nodes")
    assert newcomer.transport.value().startswith(b"HTTP/1.1 200")
    assert [reader.transport.disconnected for reader in readers] == [False, True, *[False] * (api._MAX_LISTINGS - 2)]
    assert wire.readers.cut == 1


def test_who_has_just_come_is_not_slow_yet() -> None:
    """Those that are too many for that moment are told to try again."""
    wire = Wire()
    wire.in_thread = lambda _: succeed([BIG, b"]"])
    readers = [slow(wire, "/nodes") for _ in range(api._MAX_LISTINGS)]
    wire.clock.advance(GRACE_SECONDS / 2)
    assert wire.ask("GET", "/nodes").status == 503
    assert not any(reader.transport.disconnected for reader in readers)


def test_a_listing_in_the_making_is_not_a_slow_reader() -> None:
    """It waits for us, not we for it."""
    wire = Wire()
    wire.report(body("n1"))
    wire.in_thread = lambda _: Deferred()
    readers = [slow(wire, "/nodes") for _ in range(api._MAX_LISTINGS)]
    wire.clock.advance(GRACE_SECONDS)
    assert wire.ask("GET", "/nodes").status == 503
    assert not any(reader.transport.disconnected for reader in readers)


def test_the_memory_of_answers_goes_to_those_that_read() -> None:
    """A new answer finds room where old ones are not read."""
    wire, budget = Wire(), MemoryBudget(2 * len(BIG))
    budget.free = wire.readers.free_memory
    readers = []
    for _ in range(2):
        big_answer(wire, budget)
        readers.append(slow(wire, "/query?q=up"))
        wire.upstreams.answer = None
        wire.clock.advance(0.4)
    newest = budget.reservation()
    assert not newest.hold(1)
    wire.clock.advance(GRACE_SECONDS - 0.8)
    assert not newest.hold(3 * len(BIG))
    assert wire.readers.cut == 0
    assert newest.hold(1)
    assert [reader.transport.disconnected for reader in readers] == [True, False]
    assert budget.held == len(BIG) + 1


def test_an_answer_that_nobody_counts_is_counted_while_it_waits() -> None:
    """A document of ours, or a page, to clients that do not read: beyond a bound the slowest of them is cut."""
    wire = Wire()
    wire.site.context.waiting.limit = 2 * len(BIG)
    big_answer(wire)
    first, second = slow(wire, "/query?q=up"), slow(wire, "/query?q=down")
    assert wire.site.context.waiting.held == 2 * len(BIG)
    third = slow(wire, "/query?q=up")
    assert third.transport.disconnected
    wire.clock.advance(GRACE_SECONDS)
    fourth = slow(wire, "/query?q=up")
    assert not fourth.transport.disconnected
    assert [first.transport.disconnected, second.transport.disconnected] == [True, False]
    for connection in (first, second, fourth):
        connection.leave()
    assert wire.site.context.waiting.held == 0


def test_what_was_cut_is_written_no_more() -> None:
    """What is made of an answer after its connection was cut is dropped."""
    wire = Wire()
    wire.upstreams.answer = Deferred()
    connection = slow(wire, "/query?q=up")
    (asking,) = connection.channel.requests
    asking.write(BIG)
    connection.channel.abort()
    written = len(connection.transport.value())
    asking.write(BIG)
    asking.finish()
    assert (asking.waiting, len(connection.transport.value())) == (0, written)
    connection.leave()


def test_slow_readers_are_so_many() -> None:
    """Each has a piece of its answer on its connection: one too many takes the place of the one that was slow first."""
    wire = Wire()
    big_answer(wire)
    wire.site.context.waiting.limit = 10**12
    first, second = slow(wire, "/query?q=up"), slow(wire, "/query?q=up")
    for _ in range(MOST - 2):
        slow(wire, "/query?q=up")
    slow(wire, "/query?q=up")
    assert (len(wire.readers), wire.readers.cut) == (MOST + 1, 0)
    wire.clock.advance(GRACE_SECONDS)
    slow(wire, "/query?q=up")
    assert [first.transport.disconnected, second.transport.disconnected] == [True, False]
    assert wire.readers.cut == 1


def test_a_long_answer_that_is_at_hand_is_written_as_far_as_it_is_read() -> None:
    """It does not take the short way, which would put all of it on a connection that may not be read."""
    wire = Wire()
    for kept in (Answer(200, b"application/json", bytes(PIECE)), Answer(200, b"application/json", bytes(PIECE + 1))):
        big_answer(wire)
        wire.upstreams.asked.clear()
        wire.upstreams.kept = kept
        slow(wire, "/query?q=up")
        assert len(wire.upstreams.asked) == (len(kept.body) > PIECE)
