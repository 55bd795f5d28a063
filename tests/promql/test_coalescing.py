"""Identical queries share an exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable
from orchestratord.promql.client import Answer
from orchestratord.promql.coalescing import CoalescingClient
from orchestratord.promql.params import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall

UP = Query("/api/v1/query", (("query", "up"),))
DOWN = Query("/api/v1/query", (("query", "down"),))
GOOD = Answer(200, b"application/json", b"good")


class Upstream:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Query] = []
        self.open: list[Deferred[Answer]] = []
        self.cancelled = 0

    def at_once(self, query: Query) -> Answer | None:
        """Return nothing."""

    async def fetch(self, query: Query) -> Answer:
        """Wait for the test."""
        self.asked.append(query)
        waiting: Deferred[Answer] = Deferred()
        self.open.append(waiting)
        try:
            return await waiting
        except CancelledError:
            self.cancelled += 1
            raise


class StrictClock(Clock):
    """A Clock that takes no time in the past, as no reactor does."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:  # noqa: A002
        """Call it after so many seconds."""
        assert delay >= 0
        return super().callLater(delay, callable, *args, **kw)


class Setup:
    """A Coalescing over an Upstream."""

    def __init__(self, **options: Any) -> None:
        self.clock = StrictClock()
        self.upstream = Upstream()
        self.client = CoalescingClient(
            self.clock, self.upstream, **({"query_timeout": 10, "cache_seconds": 0} | options)
        )

    def fetch(self, query: Query = UP) -> list[Any]:
        """Ask; the list holds what has come."""
        came: list[Any] = []
        self.last = Deferred.fromCoroutine(self.client.fetch(query))
        self.last.addBoth(came.append)
        return came


def test_identical_queries_in_flight_are_asked_once() -> None:
    """Every client has the one answer; another query is another exchange; afterwards it is asked again."""
    setup = Setup()
    came = [setup.fetch(), setup.fetch(), setup.fetch(DOWN)]
    assert setup.upstream.asked == [UP, DOWN]
    setup.upstream.open[0].callback(GOOD)
    assert came == [[GOOD], [GOOD], []]
    setup.fetch()
    assert setup.upstream.asked == [UP, DOWN, UP]


def test_a_failure_is_shared_too() -> None:
    """By those that wait for it, and nobody later."""
    setup = Setup()
    came = [setup.fetch(), setup.fetch()]
    setup.upstream.open[0].errback(Failure(UpstreamUnavailable("gone")))
    assert all(one[0].check(UpstreamUnavailable) for one in came)
    setup.fetch()
    assert len(setup.upstream.asked) == 2


@pytest.mark.parametrize("outcome", [GOOD, Overloaded("busy")])
def test_an_outcome_that_is_there_at_once(outcome: Answer | Overloaded) -> None:
    """As when too many queries are in flight: nobody waits for what has already come."""
    setup = Setup()

    async def at_once(query: Query) -> Answer:
        setup.upstream.asked.append(query)
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    setup.upstream.fetch = at_once  # type: ignore[method-assign]  # the point of the test
    for _ in range(2):
        (came,) = setup.fetch()
        assert getattr(came, "value", came) is outcome
    assert len(setup.upstream.asked) == 2


def test_a_client_may_leave() -> None:
    """The others have their answer; when the last one leaves, the exchange ends."""
    setup = Setup()
    gone = setup.fetch()
    leaver = setup.last
    stays = setup.fetch()
    leaver.cancel()
    assert gone[0].check(CancelledError)
    assert setup.upstream.cancelled == 0
    setup.upstream.open[0].callback(GOOD)
    assert stays == [GOOD]
    setup.fetch()
    setup.last.cancel()
    assert setup.upstream.cancelled == 1


def test_each_client_has_its_own_deadline() -> None:
    """It counts from its own arrival; an exchange that began earlier and timed out is asked again for who has time."""
    setup = Setup()
    first = setup.fetch()
    setup.clock.advance(6)
    second = setup.fetch()
    setup.upstream.open[0].errback(Failure(QueryTimeout("no whole answer from Prometheus within 10 s")))
    assert first[0].check(QueryTimeout)
    assert second == []
    assert len(setup.upstream.asked) == 2
    setup.clock.advance(9)
    third = setup.fetch()
    setup.clock.advance(1)
    assert second[0].check(QueryTimeout)
    assert str(second[0].value) == "no whole answer from Prometheus within 10 s"
    setup.upstream.open[1].callback(GOOD)
    assert third == [GOOD]


def test_a_shorter_deadline_is_kept() -> None:
    """The client's own timeout is part of the query, and holds here too."""
    setup = Setup()
    came = setup.fetch(Query(UP.path, UP.params, timeout=1))
    setup.clock.advance(1)
    with pytest.raises(QueryTimeout, match="within 1 s"):
        came[0].raiseException()


def test_a_deadline_may_pass_before_the_exchange_has_begun() -> None:
    """As one of a nanosecond does, which is longer over when the waiting would start: a timeout, and no failure."""
    setup = Setup()
    ask = setup.upstream.fetch

    async def slow(query: Query) -> Answer:
        setup.clock.advance(0.5)
        return await ask(query)

    setup.upstream.fetch = slow  # type: ignore[method-assign]  # the clock moves meanwhile, as clocks do
    came = setup.fetch(Query(UP.path, UP.params, timeout=1e-9))
    setup.clock.advance(0)
    with pytest.raises(QueryTimeout, match="within"):
        came[0].raiseException()
    assert setup.upstream.cancelled == 1


def test_an_answer_is_kept_for_a_while() -> None:
    """With its age; then it is asked again. Only complete answers of status 200."""
    setup = Setup(cache_seconds=5)
    assert setup.fetch() == []
    setup.upstream.open[0].callback(GOOD)
    setup.clock.advance(4.5)
    (kept,) = setup.fetch()
    assert (kept.body, kept.headers) == (b"good", ((b"Age", b"4"),))
    setup.clock.advance(0.5)
    assert setup.fetch() == []
    bad = Answer(422, b"application/json", b"bad")
    setup.upstream.open[1].callback(bad)
    assert setup.fetch() == []
    setup.upstream.open[2].errback(Failure(UpstreamUnavailable("gone")))
    assert setup.fetch() == []
    assert len(setup.upstream.asked) == 4


def test_nothing_is_kept_unless_wanted() -> None:
    """The default."""
    setup = Setup()
    setup.fetch()
    setup.upstream.open[0].callback(GOOD)
    assert setup.fetch() == []


def test_what_is_kept_is_bounded() -> None:
    """In bytes, with all that a query takes; the oldest goes first, and the room is there again when one is too old."""
    setup = Setup(cache_seconds=5, cache_bytes=5000)
    long = [Query(UP.path, (("query", f"{number}" * 2500),)) for number in range(2)]
    for query in long:
        setup.fetch(query)
        setup.upstream.open[-1].callback(GOOD)
    assert setup.fetch(long[1])
    assert not setup.fetch(long[0])
    assert setup.client._cache.held <= 5000
    setup.clock.advance(5)
    assert not setup.fetch(long[1])
    assert setup.client._cache.held == 0


def test_a_deadline_that_passes_before_it_is_set() -> None:
    """A process that is stopped in the midst of a query, by a noisy neighbour, answers 504 and not 500."""
    clock = StrictClock()

    class Stopped(Upstream):
        async def fetch(self, query: Query) -> Answer:
            clock.advance(11)
            return await super().fetch(query)

    came: list[Any] = []
    client = CoalescingClient(clock, Stopped(), query_timeout=10, cache_seconds=0)
    Deferred.fromCoroutine(client.fetch(UP)).addBoth(came.append)
    clock.advance(0)
    assert came[0].check(QueryTimeout)
