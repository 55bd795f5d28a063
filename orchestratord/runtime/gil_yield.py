"""Long work on a pool thread, with pauses in which the reactor runs.

Without a pause the reactor would wait 5 ms, the interpreter's patience, for each step that it takes; and a single call
like the join of a large text lets go of the interpreter only when it is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

#: Seconds of a pause: long enough that whoever waits for the interpreter has it.
_PAUSE = 0.0002
#: Items let go of in one call: as a rule each is the last reference to a dozen objects.
_AT_ONCE = 500


def pause() -> None:
    """Let whoever waits for the interpreter have it."""
    time.sleep(_PAUSE)


def breathing(items: Iterable[T], every: int) -> Iterator[T]:
    """Yield the items, with a pause after every so many of them: what is done with those should take a millisecond."""
    for index, item in enumerate(items, 1):
        yield item
        if index % every == 0:
            pause()


def let_go(items: list[Any]) -> None:
    """Empty a list, with pauses: what it alone has kept is freed by that, which takes a while."""
    while items:
        del items[-_AT_ONCE:]
        if items:
            pause()
