"""At most n queries at a time, and a short queue; more are refused."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from orchestratord.errors import Overloaded


class ConcurrencyLimit:
    """Lets `at_once` queries run at a time, and up to `queue` more wait, first come, first served.

    Belongs to the reactor thread.
    """

    def __init__(self, at_once: int, queue: int) -> None:
        self._at_once = at_once
        self._queue = queue
        #: How many run now.
        self.taken = 0
        self._waiting: deque[Deferred[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def acquire(self) -> None:
        """Return when the caller may run, until it calls `release`; cancelling gives up the place in the queue.

        Raises Overloaded if the queue is full.
        """
        if self.taken < self._at_once:
            self.taken += 1
            return
        if len(self._waiting) >= self._queue:
            behind = f", and {self._queue} wait for their turn" if self._queue else ""
            raise Overloaded(f"{self._at_once} queries are in flight already{behind}; try again")
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        await turn

    def release(self) -> None:
        """End what `acquire` began; the first in the queue may run now."""
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self.taken -= 1
