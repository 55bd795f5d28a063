"""Pauses in long work on a pool thread, in which the reactor thread gets the GIL.

Without them the reactor would wait 5 ms, the interpreter's switch interval, for each of its steps; and a single call,
such as the join of a large text, gives the GIL back only when it is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

#: Seconds of a pause: long enough that a thread that waits for the GIL gets it.
_PAUSE = 0.0002
#: Items freed in one call: most are the last reference to a dozen objects.
_AT_ONCE = 500


def pause() -> None:
    """Give the GIL to a thread that waits for it."""
    time.sleep(_PAUSE)


def breathing(items: Iterable[T], every: int) -> Iterator[T]:
    """Yield the items, with a pause after every `every` of them: the work on so many should take a millisecond."""
    for index, item in enumerate(items, 1):
        yield item
        if index % every == 0:
            pause()


def let_go(items: list[Any]) -> None:
    """Empty a list with pauses, since freeing many objects takes long."""
    while items:
        del items[-_AT_ONCE:]
        if items:
            pause()
