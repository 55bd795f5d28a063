"""The cells of the heat map, and their colours: one for each node, or for several neighbours. For a pool thread."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.runtime.gil_yield import breathing
from orchestratord.web.api.nodes import sorted_by_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.store import Entry

#: Cells at most; each takes 80 us to render, and 80 bytes.
MAX_CELLS = 2000
#: Up to so many nodes, cells are large enough for names.
MAX_TILES = 60
#: Colours.
STEPS = 7
#: Nodes in the table of the most loaded nodes.
TOP = 10
#: A node is late after this share of `stale_after`: after 40 s of 60 s, it has missed three reports of one every 10 s.
LATE = 2 / 3
#: The smallest ratio between the ends of the scale, so that small differences do not look large.
_MIN_RATIO = 8.0
#: Values up to this count as 0: a logarithmic scale needs positive values.
_NOTHING = 1e-300
_SAMPLED = 2000
_BLOCK = 1000


class Scale(NamedTuple):
    """The lower bound of each colour. Steps have equal ratios if `logarithmic`, else equal differences."""

    bounds: tuple[float, ...]
    logarithmic: bool

    def step(self, value: float) -> int:
        """Return the colour of a value, 0 to STEPS - 1."""
        step = 0
        while step < STEPS - 1 and value >= self.bounds[step + 1]:
            step += 1
        return step


class Cell(NamedTuple):
    """One cell: `size` neighbouring nodes from `first` to `last`; `node_id` has the highest value of them.

    `value` is None if none of them reported the family; `late` is the number of late nodes.
    """

    node_id: str
    value: float | None
    step: int | None
    late: int
    size: int
    first: str
    last: str


class LoadedNode(NamedTuple):
    """One of the most loaded nodes. `age` is in seconds; `share` is its value divided by the highest, 0 to 1."""

    node_id: str
    value: float
    age: float
    late: bool
    share: float


class Heatmap(NamedTuple):
    """The data of the heat map and of the table below it."""

    nodes: int
    late: int
    #: Nodes that did not report the family.
    without: int
    #: Nodes in each cell; 1 if each node has its own.
    group: int
    scale: Scale | None
    cells: list[Cell]
    top: list[LoadedNode]


def heatmap(entries: list[Entry], family: int, now: float, stale_after: float) -> Heatmap:
    """Return the heat map of fresh entries. `family` is an index; `now` is by the store's clock."""
    late_before = now - LATE * stale_after
    ordered = _in_order(entries)
    reported = (entry.report.values[family] for entry in breathing(ordered, _BLOCK))
    values = [value for value in reported if value is not None]
    scale = _scale(values)
    group = max(1, -(-len(ordered) // MAX_CELLS))
    starts = breathing(range(0, len(ordered), group), max(1, _BLOCK // 4 // group))
    cells = [_cell(ordered[at : at + group], family, late_before, scale) for at in starts]
    return Heatmap(
        nodes=len(ordered),
        late=sum(cell.late for cell in cells),
        without=len(ordered) - len(values),
        group=group,
        scale=scale,
        cells=cells,
        top=_top(ordered, family, now, late_before),
    )


def _in_order(entries: list[Entry]) -> list[Entry]:
    """Sort by id. Numbers in ids are compared as numbers if there are few nodes; that is too slow for many."""
    if len(entries) <= MAX_CELLS:
        return sorted(entries, key=lambda entry: _natural(entry.report.node_id))
    return list(breathing(sorted_by_id(entries), _BLOCK))


def _natural(node_id: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d{1,18})", node_id)
    return [(1, int(part), "") if index % 2 else (2, 0, part) for index, part in enumerate(parts)]


def _cell(entries: Sequence[Entry], family: int, late_before: float, scale: Scale | None) -> Cell:
    highest, value = entries[0], entries[0].report.values[family]
    late = 0
    for entry in entries:
        here = entry.report.values[family]
        if here is not None and (value is None or here > value):
            highest, value = entry, here
        late += entry.seen <= late_before
    return Cell(
        node_id=highest.report.node_id,
        value=value,
        step=None if value is None or scale is None else scale.step(value),
        late=late,
        size=len(entries),
        first=entries[0].report.node_id,
        last=entries[-1].report.node_id,
    )


def _scale(values: Sequence[float]) -> Scale | None:
    """Return a logarithmic scale from about the lowest to the highest value; a linear one if a value is negative."""
    if not values:
        return None
    sample = sorted(values[:: max(1, len(values) // _SAMPLED)])
    blocks = [values[at : at + _BLOCK] for at in range(0, len(values), _BLOCK)]
    low, high = min(map(min, blocks)), max(map(max, blocks))
    if low < 0:
        width = (high - low) / STEPS or 1.0
        return Scale(tuple(low + width * step for step in range(STEPS)), logarithmic=False)
    positive = [value for value in sample if value > _NOTHING]
    if high <= _NOTHING or not positive:
        return Scale(tuple(float(step) for step in range(STEPS)), logarithmic=False)
    low = min(positive[len(positive) // 50], high)
    if high / low < _MIN_RATIO:
        middle = math.sqrt(high) * math.sqrt(low)
        low, high = middle / math.sqrt(_MIN_RATIO), middle * math.sqrt(_MIN_RATIO)
    ratio = math.log(high / low) / STEPS
    return Scale(tuple(low * math.exp(ratio * step) for step in range(STEPS)), logarithmic=True)


def _top(entries: Sequence[Entry], family: int, now: float, late_before: float) -> list[LoadedNode]:
    """Return the highest values, block by block: one heapq call over 100,000 nodes would block other threads."""
    best: list[tuple[float, Entry]] = []
    for at in breathing(range(0, len(entries), _BLOCK), 1):
        block = [
            (value, entry) for entry in entries[at : at + _BLOCK] if (value := entry.report.values[family]) is not None
        ]
        best = sorted([*best, *block], key=lambda pair: -pair[0])[:TOP]
    highest = max((value for value, _ in best), default=0.0)
    return [
        LoadedNode(
            entry.report.node_id,
            value,
            max(0.0, now - entry.seen),
            entry.seen <= late_before,
            max(0.0, value / highest) if highest > 0 else 0.0,
        )
        for value, entry in best
    ]
