"""Figures of several rounds, what they must show, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once a round."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.values)

    def __str__(self) -> str:
        return f"{_short(self.median)} {self.unit}"

    @property
    def spread(self) -> str:
        """The least and the most of the rounds."""
        return f"{_short(min(self.values))} to {_short(max(self.values))}"


@dataclass(frozen=True)
class SampleRow:
    """A line of the table: our figure, a peer's if there is one, their ratio, and whether that is what it must be.

    `met` is None where nothing is demanded.
    """

    what: str
    ours: Figure
    peer: Figure | None = None
    ratio: float | None = None
    must: str = ""
    met: bool | None = None


def at_least(what: str, ours: Figure, peer: Figure, factor: float) -> SampleRow:
    """Return a row where ours must be `factor` times the peer's or more."""
    ratio = ours.median / peer.median
    return SampleRow(what, ours, peer, ratio, f">= {factor:g}x", ratio >= factor)


def at_most(what: str, ours: Figure, peer: Figure, factor: float) -> SampleRow:
    """Return a row where ours must be `factor` times the peer's or less."""
    ratio = ours.median / peer.median
    return SampleRow(what, ours, peer, ratio, f"<= {factor:g}x", ratio <= factor)


def faster(what: str, ours: Figure, peer: Figure, factor: float) -> SampleRow:
    """Return a row of times where the peer's must be `factor` times ours or more."""
    ratio = peer.median / ours.median
    return SampleRow(what, ours, peer, ratio, f">= {factor:g}x faster", ratio >= factor)


def above(what: str, ours: Figure, limit: float) -> SampleRow:
    """Return a row where ours must be the limit or more."""
    return SampleRow(what, ours, must=f">= {limit:,g} {ours.unit}", met=ours.median >= limit)


def below(what: str, ours: Figure, limit: float) -> SampleRow:
    """Return a row where ours must be under the limit in every round."""
    return SampleRow(what, ours, must=f"< {limit:g} {ours.unit}", met=max(ours.values) < limit)


def stated(what: str, ours: Figure, peer: Figure | None = None) -> SampleRow:
    """Return a row that demands nothing."""
    return SampleRow(what, ours, peer, ours.median / peer.median if peer and peer.median else None)


def markdown(rows: Iterable[SampleRow]) -> str:
    """Return the rows as a table."""
    lines = [
        "| what | ours | spread | peer | its figure | spread | ratio | must | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = (row.peer.name, str(row.peer), row.peer.spread) if row.peer else ("", "", "")
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        cells = (row.what, str(row.ours), row.ours.spread, *peer, ratio, row.must, met)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
