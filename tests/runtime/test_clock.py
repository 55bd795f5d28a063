"""The clock that timers run by."""

from __future__ import annotations

import time

import pytest
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock

from orchestratord.runtime.clock import run_by_monotonic_clock


def test_timers_run_by_the_monotonic_clock() -> None:
    """All of them: a call's time is what the monotonic clock will show, whatever the wall clock does meanwhile."""
    reactor = SelectReactor()
    run_by_monotonic_clock(reactor)
    call = reactor.callLater(3600, lambda: None)
    assert 3590 < call.getTime() - time.monotonic() <= 3600
    assert 3590 < (reactor.timeout() or 0) <= 3600
    run_by_monotonic_clock(reactor)


def test_another_clock_may_be_chosen() -> None:
    """One that goes on while the machine is suspended: what is due by then runs at once, and caches are as old."""
    reactor, clock = SelectReactor(), Clock()
    run_by_monotonic_clock(reactor, clock.seconds)
    ran: list[float] = []
    reactor.callLater(3600, lambda: ran.append(reactor.seconds()))
    clock.advance(7200)
    reactor.runUntilCurrent()
    assert ran == [7200]


def test_a_timer_that_is_there_already_is_not_left_to_the_other_clock() -> None:
    """It would never fire: the mistake is said at once."""
    reactor = SelectReactor()
    reactor.callLater(1, lambda: None)
    with pytest.raises(RuntimeError, match="scheduled before the clock was chosen"):
        run_by_monotonic_clock(reactor)
