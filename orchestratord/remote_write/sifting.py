"""Which rows of a batch a store will probably refuse, judged by what it refused before. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.remote_write.sample_row import SampleRow

#: The most nodes that are remembered because one of their rows was refused; beyond that the oldest are forgotten.
MOST_SUSPECTS = 100_000


class Sieve:
    """Remembers the nodes whose last row was refused, and up to which time the store refuses rows as too old.

    A store's age limit only moves forward: Prometheus counts it from its newest sample, for all series together. So a
    row that is older than one refused as too old is not sent.
    """

    def __init__(self) -> None:
        #: The newest timestamp that the store refused as too old, in milliseconds; -1 if it refused none.
        self.too_old = -1
        #: The store's error text about it.
        self.words = ""
        #: A dict for its order.
        self._suspects: dict[bytes, None] = {}

    def part(self, rows: Sequence[SampleRow]) -> tuple[list[SampleRow], list[SampleRow]]:
        """Return the rows of nodes whose last row was not refused, and the rows of the other nodes."""
        suspects = self._suspects
        if not suspects:
            return list(rows), []
        trusted = [row for row in rows if row.node_id not in suspects]
        return trusted, [row for row in rows if row.node_id in suspects]

    def accepted(self, rows: Sequence[SampleRow]) -> None:
        """Remember that the store accepted rows."""
        if self._suspects:
            for row in rows:
                self._suspects.pop(row.node_id, None)

    def refused(self, rows: Sequence[SampleRow]) -> None:
        """Remember that the store refuses each of these rows."""
        for row in rows:
            self._suspects.pop(row.node_id, None)
            self._suspects[row.node_id] = None
        while len(self._suspects) > MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]

    def refused_as_too_old(self, row: SampleRow, words: str) -> None:
        """Remember that the store refuses a row, and so every row that is not newer."""
        self.refused([row])
        self.too_old, self.words = max(self.too_old, row.timestamp), words

    def forget_age(self) -> None:
        """Forget the age limit: the store was down, and may have another one now."""
        self.too_old = -1

    def part_by_age(self, rows: Sequence[SampleRow]) -> tuple[list[SampleRow], list[SampleRow]]:
        """Return the rows that are too old, and the others."""
        if self.too_old < 0:
            return [], list(rows)
        return [row for row in rows if row.timestamp <= self.too_old], [
            row for row in rows if row.timestamp > self.too_old
        ]


def oldest_of_each(rows: Sequence[SampleRow], below: float) -> list[SampleRow]:
    """Return the oldest row of each node, if it is older than `below`, the oldest first.

    They may be sent in any order: no series gets a sample that is older than its newest.
    """
    found: dict[bytes, SampleRow] = {}
    for row in rows:
        known = found.get(row.node_id)
        if known is None or row.timestamp < known.timestamp:
            found[row.node_id] = row
    return sorted((row for row in found.values() if row.timestamp < below), key=lambda row: row.timestamp)


def by_node(rows: Sequence[SampleRow]) -> list[list[SampleRow]]:
    """Return one list for each node, with its rows in order."""
    found: dict[bytes, list[SampleRow]] = {}
    for row in rows:
        found.setdefault(row.node_id, []).append(row)
    return list(found.values())
