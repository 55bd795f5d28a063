"""The nodes that left in the last hour: they went silent, or an operator deleted them. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.runtime.gil_yield import breathing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.runtime.clock import Clocks

#: Seconds for which a node that left is remembered.
KEPT = 3600.0
#: The most nodes that are remembered by name, in about 300 bytes each. The oldest beyond it are only counted.
MOST = 10_000
#: Entries looked at in one go.
_BLOCK = 1000

STALE, DELETED = "stale", "deleted"


class Gone(NamedTuple):
    """A node that left: the times of its last report and of its leaving in seconds of the table's clock, and why."""

    node_id: str
    seen: float
    left: float
    reason: str


class Missing(NamedTuple):
    """The nodes that left in the last hour.

    `nodes` are remembered by name. `unnamed` is the number of nodes that went silent and whose names were dropped.
    `heard` tells whether any node has ever reported to this process, or was in its snapshot.
    """

    nodes: list[Gone]
    unnamed: int
    heard: bool

    @property
    def silent(self) -> int:
        """How many nodes went silent and have not come back."""
        return self.unnamed + sum(gone.reason == STALE for gone in self.nodes)


def still_gone(gone: Iterable[Gone], entries: list[Entry]) -> list[Gone]:
    """Return the nodes that are not in `entries`, which may be another replica's; on a pool thread if many."""
    fresh = {entry.report.node_id for entry in breathing(entries, _BLOCK)}
    return [one for one in gone if one.node_id not in fresh]


class DepartedNodes:
    """Remembers the nodes that left the table `nodes`, as one of its observers, until they report again.

    Belongs to the reactor thread. A report of a known node costs nothing here, a new or expired node one look-up.
    """

    def __init__(self, nodes: NodeStore, clocks: Clocks) -> None:
        self._nodes = nodes
        self._clocks = clocks
        self._gone: OrderedDict[str, Gone] = OrderedDict()
        # How many nodes without a remembered name left, and when: (time, number).
        self._unnamed: deque[tuple[float, int]] = deque(maxlen=60)
        self._heard = False

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Forget the nodes that are back."""
        self._heard = True
        if self._gone or self._unnamed:
            for report, old in zip(reports, replaced, strict=True):
                if old is None and self._gone.pop(report.node_id, None) is None and self._unnamed:
                    self._one_back()

    def expired(self, entries: Sequence[Entry]) -> None:
        """Remember the nodes that went silent."""
        self.silent((entry.report.node_id, entry.seen) for entry in entries)

    def silent(self, nodes: Iterable[tuple[str, float]]) -> None:
        """Remember nodes that went silent, as ids and the times of their last reports, the oldest first."""
        self._heard = True
        for node_id, seen in nodes:
            self._add(Gone(node_id, seen, seen + self._nodes.stale_after, STALE))

    async def forget(self, node_id: str, forget: Callable[[str], Awaitable[bool]]) -> bool:
        """Delete a node with `forget`, remember it as deleted, and return what `forget` returns."""
        now = self._clocks.monotonic()
        entry = self._nodes.get(node_id, now)
        forgotten = await forget(node_id)
        if forgotten and entry is not None:
            self._add(Gone(node_id, entry.seen, now, DELETED))
        return forgotten

    def missing(self) -> Missing:
        """Return the nodes that left in the last hour and are not back, in the order in which they left."""
        limit = self._clocks.monotonic() - KEPT
        while self._gone and next(iter(self._gone.values())).left <= limit:
            self._gone.popitem(last=False)
        while self._unnamed and self._unnamed[0][0] <= limit:
            self._unnamed.popleft()
        return Missing(
            [gone for gone in self._gone.values() if gone.left > limit],
            sum(count for _, count in self._unnamed),
            self._heard,
        )

    def _add(self, gone: Gone) -> None:
        self._gone.pop(gone.node_id, None)
        self._gone[gone.node_id] = gone
        if len(self._gone) > MOST:
            _, oldest = self._gone.popitem(last=False)
            if oldest.reason == STALE:
                self._count(oldest.left)

    def _count(self, left: float) -> None:
        """Count a node whose name is dropped, together with others that left in the same minute."""
        if self._unnamed and left < self._unnamed[-1][0] + KEPT / 60:
            at, count = self._unnamed[-1]
            self._unnamed[-1] = (at, count + 1)
        else:
            self._unnamed.append((left, 1))

    def _one_back(self) -> None:
        """Count one less: a new node that is not remembered by name may be one of them."""
        at, count = self._unnamed.popleft()
        if count > 1:
            self._unnamed.appendleft((at, count - 1))
