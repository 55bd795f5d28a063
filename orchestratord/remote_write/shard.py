"""The queue of a shard: rows that were read from the write-ahead log and are not sent yet."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from orchestratord.remote_write.sample_row import SampleRow
    from orchestratord.remote_write.wal.segments import Batch


class BatchInFlight:
    """A batch that was read from the log: its end, when it was written, and how many of its rows are not delivered."""

    def __init__(self, batch: Batch) -> None:
        self.end = batch.end
        self.written = batch.written
        self.left = len(batch.rows)


class Shard:
    """Rows that are sent one request after the other. `working` is the sending, None while there is none."""

    def __init__(self) -> None:
        self.parts: deque[tuple[BatchInFlight, list[SampleRow]]] = deque()
        self.working: Deferred[None] | None = None

    def take(self, most: int) -> list[tuple[BatchInFlight, list[SampleRow]]]:
        """Remove up to `most` rows from the queue and return them."""
        taken: list[tuple[BatchInFlight, list[SampleRow]]] = []
        budget = most
        while self.parts and budget:
            batch, rows = self.parts.popleft()
            if len(rows) > budget:
                self.parts.appendleft((batch, rows[budget:]))
                rows = rows[:budget]
            taken.append((batch, rows))
            budget -= len(rows)
        return taken
