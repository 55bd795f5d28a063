"""The median of each family over all nodes, computed in blocks. No I/O; for a pool thread."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.runtime.gil_yield import pause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.store import Entry

#: Values sorted in one call; a longer call would keep other threads waiting.
_BLOCK = 1000


class FleetMedians(NamedTuple):
    """The number of nodes, and the median of each family in their order; None if no node reported the family."""

    nodes: int
    values: Sequence[float | None]


def medians(entries: list[Entry], families: int) -> FleetMedians:
    """Return the medians of the reported values; `families` is the number of families."""
    return FleetMedians(len(entries), [_median(entries, family) for family in range(families)])


def _median(entries: list[Entry], family: int) -> float | None:
    blocks: list[list[float]] = []
    for at in range(0, len(entries), _BLOCK):
        reported = (entry.report.values[family] for entry in entries[at : at + _BLOCK])
        blocks.append(sorted(value for value in reported if value is not None))
        pause()
    count = sum(map(len, blocks))
    if not count:
        return None
    low, high = _ranked(blocks, (count - 1) // 2), _ranked(blocks, count // 2)
    return high if low == high else low / 2 + high / 2


def _ranked(blocks: Sequence[Sequence[float]], rank: int) -> float:
    """Return the value at index `rank` of the sorted union of blocks, each of which is sorted.

    In each round it takes a pivot, and drops the part of each block that cannot hold the value.
    """
    parts = [(block, 0, len(block)) for block in blocks if block]
    while True:
        middles = sorted(block[(start + end) // 2] for block, start, end in parts)
        pivot = middles[len(middles) // 2]
        lower = [bisect_left(block, pivot, start, end) for block, start, end in parts]
        upper = [bisect_right(block, pivot, start, end) for block, start, end in parts]
        below = sum(at - start for at, (_, start, _) in zip(lower, parts, strict=True))
        upto = sum(at - start for at, (_, start, _) in zip(upper, parts, strict=True))
        if rank < below:
            parts = [(block, start, at) for at, (block, start, _) in zip(lower, parts, strict=True) if start < at]
        elif rank >= upto:
            rank -= upto
            parts = [(block, at, end) for at, (block, _, end) in zip(upper, parts, strict=True) if at < end]
        else:
            return pivot
        pause()
