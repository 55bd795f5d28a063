"""How old a connection may become before its client is asked, with an answer, to make a new one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds, give or take JITTER of them. Behind a balancer a new connection may lead to another replica; a client that
#: keeps one for ever would never report to a replica that was added since.
MAX_AGE = 120.0
#: So that clients which came together do not come back together.
JITTER = 0.2


def lifetime(draw: Callable[[], float] = random.random) -> float:
    """Return the seconds after which a connection is old; `draw` gives a number from 0 to 1."""
    return MAX_AGE * (1 + JITTER * (2 * draw() - 1))
