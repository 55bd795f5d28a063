"""The fleet's median of each family, in steps. Pure; for a pool thread."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.breath import breathing, pause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes import Entry

#: Values sorted in one call, and merged without a pause.
_BLOCK = 1000


class Medians(NamedTuple):
    """How many nodes there are, and the median of each family, in the catalogue's order; None where none has it."""

    nodes: int
    values: Sequence[float | None]


def medians(entries: list[Entry], families: int) -> Medians:
    """Return the medians of the values that were reported, of so many families."""
    return Medians(len(entries), [_median(entries, family) for family in range(families)])


def _median(entries: list[Entry], family: int) -> float | None:
    blocks: list[list[float]] = []
    for at in range(0, len(entries), _BLOCK):
        reported = (entry.report.values[family] for entry in entries[at : at + _BLOCK])
        blocks.append(sorted(value for value in reported if value is not None))
        pause()
    count = sum(map(len, blocks))
    if not count:
        return None
    middle = islice(merge(*blocks), count // 2 + 1)
    # The last one, or the last two, up to the middle.
    last: list[float] = []
    for value in breathing(middle, _BLOCK):
        last = [*last[-1:], value]
    return last[-1] if count % 2 else last[0] / 2 + last[1] / 2
