"""Time: the two clocks that the code reads, and the clock that the reactor's timers run by."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Clocks(Protocol):
    """Two clocks, in seconds."""

    def monotonic(self) -> float:
        """Return the time by which nodes age: it only moves forward, also while the machine is suspended."""
        ...

    def time(self) -> float:
        """Return the Unix time."""
        ...


class MachineClocks:
    """The clocks of this machine.

    Nodes age by CLOCK_BOOTTIME. CLOCK_MONOTONIC stands still while the machine is suspended: after two hours of sleep
    a node would be as fresh as before. Only Linux has CLOCK_BOOTTIME; elsewhere it is CLOCK_MONOTONIC all the same.
    """

    monotonic: Final[Callable[[], float]] = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )
    time: Final[Callable[[], float]] = staticmethod(time.time)


MACHINE: Final = MachineClocks()


def run_by_monotonic_clock(reactor: Any, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Make the reactor's timers run by a clock that only moves forward, in place of the wall clock.

    With the wall clock, a step back by one hour would stop every timer for an hour: the expiry of nodes, and the
    deadlines of requests. Twisted has no option for this, so that `reactor.seconds`, by which ReactorBase sets and runs
    its timers, is replaced. From then on it is not the Unix time.

    Call it before anything is scheduled; raises RuntimeError if something is, since that timer was set by the other
    clock. A second call with the same clock changes nothing.
    """
    if reactor.seconds is monotonic:
        return
    if reactor.getDelayedCalls():
        raise RuntimeError(f"scheduled before the clock was chosen: {reactor.getDelayedCalls()}")
    reactor.seconds = monotonic
