"""The clock that timers run by."""

from __future__ import annotations

import time

import pytest
from twisted.internet.selectreactor import SelectReactor

from orchestratord.timers import run_by_monotonic_clock


def test_timers_run_by_the_monotonic_clock() -> None:
    """All of them: a call's time is what the monotonic clock will show, whatever the wall clock does meanwhile."""
    reactor = SelectReactor()
    run_by_monotonic_clock(reactor)
    call = reactor.callLater(3600, lambda: None)
    assert 3590 < call.getTime() - time.monotonic() <= 3600
    assert 3590 < (reactor.timeout() or 0) <= 3600
    run_by_monotonic_clock(reactor)


def test_a_timer_that_is_there_already_is_not_left_to_the_other_clock() -> None:
    """It would never fire: the mistake is said at once."""
    reactor = SelectReactor()
    reactor.callLater(1, lambda: None)
    with pytest.raises(RuntimeError, match="scheduled before the clock was chosen"):
        run_by_monotonic_clock(reactor)
