"""A bound on the memory for one purpose: each holder has a reservation, and all together stay below the limit."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryBudget:
    """At most `limit` bytes for all reservations together. Belongs to the reactor thread."""

    def __init__(self, limit: int, free: Callable[[], bool] | None = None) -> None:
        self.limit = limit
        #: Called when there is not enough memory: frees some that is reserved; returns False if it cannot.
        self.free = free
        self._lent = 0
        #: Bytes of reservations that were deleted without `end`: on any thread, where appending is safe.
        self._dropped: deque[int] = deque()

    @property
    def held(self) -> int:
        """How many bytes are reserved now; may be read on any thread."""
        return self._lent - sum(list(self._dropped))

    def take(self, size: int) -> bool:
        """Reserve `size` bytes more, or give back if it is negative; return False if there is not enough memory."""
        self._collect()
        while size > 0 and self._lent + size > self.limit:
            if size > self.limit or self.free is None or not self.free():
                return False
            self._collect()
        self._lent += size
        return True

    def _collect(self) -> None:
        while self._dropped:
            self._lent -= self._dropped.popleft()

    def drop(self, size: int) -> None:
        """Give back the bytes of a reservation that was deleted; may be called on any thread."""
        self._dropped.append(size)

    def reservation(self) -> Reservation:
        """Return a reservation of 0 bytes."""
        return Reservation(self)


class Reservation:
    """The bytes that one holder has of a budget; given back by `end`, or when the reservation is deleted."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        #: The bytes of this reservation.
        self.held = 0

    def hold(self, size: int) -> bool:
        """Set the reservation to `size` bytes; return False, with nothing changed, if there is not enough memory."""
        if not self._budget.take(size - self.held):
            return False
        self.held = size
        return True

    def end(self) -> None:
        """Give all bytes back."""
        self.hold(0)

    def __del__(self) -> None:
        if self.held:
            self._budget.drop(self.held)
