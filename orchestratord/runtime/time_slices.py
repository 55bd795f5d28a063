"""Long work on the reactor thread, in slices: together they take a few milliseconds of each turn of the reactor."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds in a turn of the reactor after which no further slice begins.
TURN_SECONDS = 0.002


class TimeSlices:
    """Gives each piece of long work at most one slice in a turn of the reactor, first come, first served.

    A piece of work ends its slice, of at most two milliseconds, by awaiting `turn`. `seconds` is the clock that
    measures slices. Belongs to the reactor thread.
    """

    def __init__(self, reactor: Any, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._waiting: deque[Deferred[None]] = deque()
        self._called = False

    async def turn(self) -> None:
        """Return in a later turn of the reactor, when the caller's next slice begins."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        self._call()
        await waiting

    def _call(self) -> None:
        if not self._called and self._waiting:
            self._called = True
            self._reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._called = False
        until = self._seconds() + TURN_SECONDS
        for _ in range(len(self._waiting)):
            if self._waiting:  # one may have cancelled another
                self._waiting.popleft().callback(None)
            if self._seconds() >= until:
                break
        self._call()
