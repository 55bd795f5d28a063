"""Which rows of a batch a store may refuse, by what it has refused before. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.remote_write.sample_row import SampleRow

#: Nodes that are remembered because a row of theirs was refused; above that the oldest are forgotten.
MOST_SUSPECTS = 100_000


class Sieve:
    """Remembers the nodes whose last row was refused, and up to which time the store refuses rows as too old.

    A store's limit of age only moves forward: Prometheus reckons it from the newest sample that it has, for all series
    alike. So a row that is older than one refused as too old is not worth a request.
    """

    def __init__(self) -> None:
        #: The newest timestamp that the store has refused as too old, in milliseconds; -1 if there is none.
        self.too_old = -1
        #: The store's own words about it.
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
        """Learn that the store has accepted rows."""
        if self._suspects:
            for row in rows:
                self._suspects.pop(row.node_id, None)

    def refused(self, rows: Sequence[SampleRow]) -> None:
        """Learn that the store refuses each of some rows."""
        for row in rows:
            self._suspects.pop(row.node_id, None)
            self._suspects[row.node_id] = None
        while len(self._suspects) > MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]

    def refused_as_too_old(self, row: SampleRow, words: str) -> None:
        """Learn that the store refuses a row, and all that are not newer."""
        self.refused([row])
        self.too_old, self.words = max(self.too_old, row.timestamp), words

    def forget_age(self) -> None:
        """Forget what is too old: the store was away, and may have another limit now."""
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

    Any of them may be sent before the others: no series gets a sample that is older than one it has.
    """
    found: dict[bytes, SampleRow] = {}
    for row in rows:
        known = found.get(row.node_id)
        if known is None or row.timestamp < known.timestamp:
            found[row.node_id] = row
    return sorted((row for row in found.values() if row.timestamp < below), key=lambda row: row.timestamp)


def by_node(rows: Sequence[SampleRow]) -> list[list[SampleRow]]:
    """Return the rows of each node, in their order."""
    found: dict[bytes, list[SampleRow]] = {}
    for row in rows:
        found.setdefault(row.node_id, []).append(row)
    return list(found.values())
