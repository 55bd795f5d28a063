"""The fleet as cells: one a node, or one for several neighbours where there are many; and their colours. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.runtime.gil_yield import breathing
from orchestratord.web.api.nodes import sorted_by_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.store import Entry

#: Cells drawn at the most; each costs 80 us to write and 80 bytes.
MAX_CELLS = 2000
#: Nodes whose cells are large enough for names.
MAX_TILES = 60
#: Colours.
STEPS = 7
#: Nodes in the list of the most loaded.
TOP = 10
#: The share of the stale limit after which a node is late: at 60 s and a report every 10 s, three in a row are missing.
LATE = 2 / 3
#: The smallest ratio between the ends of the scale, lest small differences look large.
_MIN_RATIO = 8.0
#: What is this small is as good as 0, and has no ratio to anything.
_NOTHING = 1e-300
_SAMPLED = 2000
_BLOCK = 1000


class Scale(NamedTuple):
    """The lower bounds of the colours; `logarithmic` if each step is the same ratio, else the same difference."""

    bounds: tuple[float, ...]
    logarithmic: bool

    def step(self, value: float) -> int:
        """Return the colour of a value, 0 to STEPS - 1."""
        step = 0
        while step < STEPS - 1 and value >= self.bounds[step + 1]:
            step += 1
        return step


class Cell(NamedTuple):
    """One cell: `size` neighbouring nodes from `first` to `last`, the highest of which is `node_id`.

    `value` is None where none of them has reported the family; `late` is how many have been silent for long.
    """

    node_id: str
    value: float | None
    step: int | None
    late: int
    size: int
    first: str
    last: str


class LoadedNode(NamedTuple):
    """One of the most loaded nodes; `share` is its value as a part of the highest, 0 to 1."""

    node_id: str
    value: float
    age: float
    late: bool
    share: float


class Heatmap(NamedTuple):
    """All that the picture shows."""

    nodes: int
    late: int
    #: Nodes that did not report the family.
    without: int
    #: Nodes in a cell; 1 where each has its own.
    group: int
    scale: Scale | None
    cells: list[Cell]
    top: list[LoadedNode]


def heatmap(entries: list[Entry], family: int, now: float, stale_after: float) -> Heatmap:
    """Return the picture of the fresh entries by the family of that index; `now` as the table's clock has it."""
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
    """Return them by id, 2 before 10 as long as they are few enough for that to be cheap."""
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
    """Return equal ratios from about the lowest to the highest value: what is far above the others stands out."""
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
    """Return the highest, each block's own first: one call of heapq over 100,000 would hold the interpreter."""
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
