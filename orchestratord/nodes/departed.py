"""The nodes that left in the last hour: those that went silent, and those that an operator deleted. Pure."""

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
#: Nodes that are remembered by name, in about 300 bytes each. Of more, the oldest are only counted.
MOST = 10_000
#: Entries looked at in one go.
_BLOCK = 1000

STALE, DELETED = "stale", "deleted"


class Gone(NamedTuple):
    """A node that left: the times of its last report and of its leaving, by the table's clock, and why it left."""

    node_id: str
    seen: float
    left: float
    reason: str


class Missing(NamedTuple):
    """What is known of the nodes that left in the last hour.

    `nodes` are those known by name, `unnamed` is the count of those that went silent and are no longer known by name.
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
    """Return those that are not among these entries, which another replica may have; on a pool thread if many."""
    fresh = {entry.report.node_id for entry in breathing(entries, _BLOCK)}
    return [one for one in gone if one.node_id not in fresh]


class DepartedNodes:
    """Remembers who left `nodes`, as one of its observers. A node that reports again is forgotten here.

    Belongs to the reactor thread. Each report of a known node costs nothing here, each change one look-up.
    """

    def __init__(self, nodes: NodeStore, clocks: Clocks) -> None:
        self._nodes = nodes
        self._clocks = clocks
        self._gone: OrderedDict[str, Gone] = OrderedDict()
        # When the nodes left of which there was no room to remember the names: (time, how many).
        self._unnamed: deque[tuple[float, int]] = deque(maxlen=60)
        self._heard = False

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Forget those that are back."""
        self._heard = True
        if self._gone or self._unnamed:
            for report, old in zip(reports, replaced, strict=True):
                if old is None and self._gone.pop(report.node_id, None) is None and self._unnamed:
                    self._one_back()

    def expired(self, entries: Sequence[Entry]) -> None:
        """Remember those that went silent."""
        self.silent((entry.report.node_id, entry.seen) for entry in entries)

    def silent(self, nodes: Iterable[tuple[str, float]]) -> None:
        """Remember nodes that went silent, as ids and the times of their last reports, the oldest first."""
        self._heard = True
        for node_id, seen in nodes:
            self._add(Gone(node_id, seen, seen + self._nodes.stale_after, STALE))

    async def forget(self, node_id: str, forget: Callable[[str], Awaitable[bool]]) -> bool:
        """Delete a node with `forget`, return what that returns, and remember that it was deleted."""
        now = self._clocks.monotonic()
        entry = self._nodes.get(node_id, now)
        forgotten = await forget(node_id)
        if forgotten and entry is not None:
            self._add(Gone(node_id, entry.seen, now, DELETED))
        return forgotten

    def missing(self) -> Missing:
        """Return who left in the last hour and has not come back, the first to leave first."""
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
        """Count a node whose name is dropped, with others that left in the same minute."""
        if self._unnamed and left < self._unnamed[-1][0] + KEPT / 60:
            at, count = self._unnamed[-1]
            self._unnamed[-1] = (at, count + 1)
        else:
            self._unnamed.append((left, 1))

    def _one_back(self) -> None:
        """Count one less: a node that comes and is not known by name may be one of them."""
        at, count = self._unnamed.popleft()
        if count > 1:
            self._unnamed.appendleft((at, count - 1))
