"""The age at which an answer asks the client to make a new connection."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds, plus or minus the fraction JITTER. Behind a balancer a new connection may lead to another replica. A client
#: that keeps its connection would never report to a replica that was added later.
MAX_AGE = 120.0
#: So that clients which came together do not come back together.
JITTER = 0.2


def lifetime(draw: Callable[[], float] = random.random) -> float:
    """Return the seconds after which a connection is old; `draw` gives a number from 0 to 1."""
    return MAX_AGE * (1 + JITTER * (2 * draw() - 1))
