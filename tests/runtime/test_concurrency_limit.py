"""Turns, and the queue for them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from orchestratord.errors import Overloaded
from orchestratord.runtime.concurrency_limit import ConcurrencyLimit


def take(limit: ConcurrencyLimit, order: list[Any], name: str) -> Deferred[None]:
    """Ask for a turn; `order` gets the name as soon as it comes, or the error."""
    asked = Deferred.fromCoroutine(limit.acquire())
    asked.addCallbacks(lambda _: order.append(name), order.append)
    return asked


def test_who_waits_is_served_in_order() -> None:
    """The first who came, as soon as somebody ends; no more have a turn at any time."""
    limit = ConcurrencyLimit(2, 3)
    order: list[Any] = []
    for name in "abcde":
        take(limit, order, name)
    assert (order, limit.taken, limit.waiting) == (["a", "b"], 2, 3)
    limit.release()
    assert (order, limit.taken, limit.waiting) == (["a", "b", "c"], 2, 2)
    for _ in range(4):
        limit.release()
    assert (order, limit.taken, limit.waiting) == (["a", "b", "c", "d", "e"], 0, 0)


def test_a_full_queue_refuses() -> None:
    """At once, and says why; without a queue too."""
    for queue, says in ((0, "1 queries are in flight already; try again"), (2, "2 wait for their turn; try again")):
        limit = ConcurrencyLimit(1, queue)
        order: list[Any] = []
        for name in range(queue + 1):
            take(limit, order, str(name))
        take(limit, order, "refused")
        failure = order[-1]
        assert isinstance(failure, Failure)
        assert failure.check(Overloaded)
        assert says in str(failure.value)


def test_who_leaves_gives_up_the_place() -> None:
    """To somebody else, and is not called."""
    limit = ConcurrencyLimit(1, 2)
    order: list[Any] = []
    take(limit, order, "a")
    leaver = take(limit, order, "b")
    take(limit, order, "c")
    leaver.cancel()
    failure = order.pop()
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)
    take(limit, order, "d")
    limit.release()
    limit.release()
    assert order == ["a", "c", "d"]
