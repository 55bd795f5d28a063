"""The two times that everything here goes by; the module `time` has both."""

from __future__ import annotations

from typing import Protocol


class Clocks(Protocol):
    """Two clocks, in seconds."""

    def monotonic(self) -> float:
        """Return the time by which nodes age: it only moves forward."""
        ...

    def time(self) -> float:
        """Return the Unix time."""
        ...
