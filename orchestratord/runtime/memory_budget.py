"""Memory that may be held at one time for one purpose: each holder has a lease, and no more is lent than there is."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryBudget:
    """So many bytes, for all holders together. Belongs to the reactor thread."""

    def __init__(self, limit: int, free: Callable[[], bool] | None = None) -> None:
        self.limit = limit
        #: Frees some of what is lent, where there is no room; False if nothing could be freed.
        self.free = free
        self._lent = 0
        #: What leases held that nobody ended: they may be collected on any thread, and appending is safe there.
        self._dropped: deque[int] = deque()

    @property
    def held(self) -> int:
        """How many bytes are held now; any thread may ask."""
        return self._lent - sum(list(self._dropped))

    def take(self, size: int) -> bool:
        """Lend so many bytes more, or take them back if it is less than 0; False if there is no room."""
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
        """Take back what nobody has any more, on any thread."""
        self._dropped.append(size)

    def reservation(self) -> Reservation:
        """Return a lease that holds nothing yet."""
        return Reservation(self)


class Reservation:
    """What one holder holds of a room; given back when it ends, or when the last one who knows of it has let it go."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        #: How many bytes this lease holds.
        self.held = 0

    def hold(self, size: int) -> bool:
        """Hold so many bytes in the place of what was held; False, and nothing changed, if there is no room."""
        if not self._budget.take(size - self.held):
            return False
        self.held = size
        return True

    def end(self) -> None:
        """Give all of it back."""
        self.hold(0)

    def __del__(self) -> None:
        if self.held:
            self._budget.drop(self.held)
