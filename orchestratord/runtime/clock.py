"""Timers that a step of the wall clock neither stalls nor fires early."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def run_by_monotonic_clock(reactor: Any, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Make the reactor's timers, and all deadlines that are reckoned from them, run by a clock that only moves forward.

    Twisted's go by the wall clock: one that steps back an hour would stall every timer, the sweep and the deadlines of
    requests too, for an hour. From now on `reactor.seconds` is no Unix time. To be called before anything is scheduled:
    a timer that is there already was set by the other clock. A second call with the same clock changes nothing.

    Raises RuntimeError if there is one.
    """
    if reactor.seconds is monotonic:
        return
    if reactor.getDelayedCalls():
        raise RuntimeError(f"scheduled before the clock was chosen: {reactor.getDelayedCalls()}")
    reactor.seconds = monotonic
