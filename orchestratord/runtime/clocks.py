"""The two times that everything here goes by, and the machine's clocks."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

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
    a node would be as fresh as before. Only Linux has the first.
    """

    monotonic: Final[Callable[[], float]] = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )
    time: Final[Callable[[], float]] = staticmethod(time.time)


MACHINE: Final = MachineClocks()
