"""Memory that is lent."""

from __future__ import annotations

from threading import Thread

from orchestratord.runtime.memory_budget import MemoryBudget


def test_no_more_is_lent_than_there_is() -> None:
    """A lease that finds no room is left as it was."""
    budget = MemoryBudget(100)
    one, other = budget.reservation(), budget.reservation()
    assert one.hold(60)
    assert not other.hold(41)
    assert other.hold(40)
    assert not other.hold(41)
    assert (one.held, other.held, budget.held) == (60, 40, 100)
    assert one.hold(10)
    assert other.hold(90)


def test_a_lease_ends() -> None:
    """By itself or with the last one who knows of it, once."""
    budget = MemoryBudget(100)
    one, other = budget.reservation(), budget.reservation()
    one.hold(50)
    other.hold(50)
    one.end()
    one.end()
    assert budget.held == 50
    del one, other
    assert budget.held == 0
    assert budget.reservation().hold(100)


def test_a_lease_that_another_thread_drops_is_given_back() -> None:
    """The collector of garbage may run anywhere."""
    budget = MemoryBudget(100)
    reservations = [budget.reservation() for _ in range(10)]
    for reservation in reservations:
        reservation.hold(10)
    del reservation
    thread = Thread(target=reservations.clear)
    thread.start()
    thread.join()
    assert budget.held == 0
    assert budget.reservation().hold(100)
