"""Long work on a pool thread that lets the reactor run in between, rather than when the interpreter makes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

#: Seconds of a pause: long enough that whoever waits for the interpreter has it.
_PAUSE = 0.0002


def breathing(items: Iterable[T], every: int) -> Iterator[T]:
    """Yield the items, with a pause after every so many of them: what is done with those should take a millisecond.

    Without it the reactor would wait 5 ms, the interpreter's patience, for each step that it takes.
    """
    for index, item in enumerate(items, 1):
        yield item
        if index % every == 0:
            time.sleep(_PAUSE)
