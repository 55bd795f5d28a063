"""The table of nodes: the latest report of each, its freshness, expiry and capacity. Pure: the time comes in."""

from __future__ import annotations

from collections import OrderedDict
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from orchestratord.errors import TableFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestratord.nodes.report import NodeReport


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A node's latest report, and when it came by a clock that only moves forward, in seconds.

    Not looked at by the garbage collector, which would hold the reactor for 70 ms over 100,000 of them.
    """

    seen: float
    report: NodeReport


class Updated(NamedTuple):
    """What became of the reports of one request."""

    accepted: int
    superseded: int
    #: The nodes that were not fresh in the table before, in the order of their reports.
    new: list[str]


class Observer(Protocol):
    """What is told of a table's changes, at once and on its thread; it may not change the table, nor raise."""

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Learn of the reports that were stored, one at least, in their order, and of those that they replace."""
        ...

    def expired(self, entries: Sequence[Entry]) -> None:
        """Learn of the nodes that were removed since they had been silent for too long, one at least."""
        ...


class NodeStore:
    """The latest report of every node.

    Owned by the reactor thread: only it may call a method, save `snapshot`, which any thread may call at any time.
    Every `now` is in seconds of one monotonic clock, so that a step of the wall clock ages no node. A node is fresh
    while `now - seen < stale_after`; one that is not is in no answer, whether or not `expire` has removed it yet.

    `update`, `expire` and `forget` cost the same whatever the number of nodes.
    """

    def __init__(self, *, stale_after: float, max_nodes: int) -> None:
        self.stale_after = stale_after
        self.max_nodes = max_nodes
        #: Reports stored and nodes forgotten, and the latter alone, since the beginning; the sweep adds to neither.
        self.changes = self.forgotten = 0
        #: Who is told of `update` and `expire`; of the rest their callers know.
        self.observers: list[Observer] = []
        # Two maps, not one ordered one: replacing a value in place never resizes a dict, and listing a dict's values is
        # one call of a millisecond for 100,000 nodes, atomic under the interpreter lock; an OrderedDict takes 22 ms.
        self._entries: dict[str, Entry] = {}
        self._order: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of nodes in the table, those included that are stale and not yet removed."""
        return len(self._entries)

    def update(self, reports: Iterable[NodeReport], now: float) -> Updated:
        """Store the reports, all of them or none.

        A report with a timestamp older than that of the fresh one in the table is superseded: not stored. An equal one
        replaces it.

        Raises TableFull, with nothing stored, if the nodes among them that are not in the table do not fit.
        """
        reports = list(reports)
        entries, order = self._entries, self._order
        if len(entries) + len(reports) > self.max_nodes:
            newcomers = {report.node_id for report in reports}.difference(entries)
            if len(entries) + len(newcomers) > self.max_nodes:
                raise TableFull(f"the table is full: {self.max_nodes} nodes; those known already are served")
        limit = now - self.stale_after
        stored: list[NodeReport] = []
        replaced: list[NodeReport | None] = []
        new: list[str] = []
        for report in reports:
            node_id = report.node_id
            old = entries.get(node_id)
            if old is None or old.seen <= limit:
                new.append(node_id)
            elif (
                report.timestamp is not None
                and old.report.timestamp is not None
                and report.timestamp < old.report.timestamp
            ):
                continue
            stored.append(report)
            replaced.append(old.report if old is not None else None)
            entries[node_id] = Entry(now, report)
            order[node_id] = None
            order.move_to_end(node_id)
        self.changes += len(stored)
        if stored:
            for observer in self.observers:
                observer.updated(stored, replaced)
        return Updated(len(stored), len(reports) - len(stored), new)

    def restore(self, entries: Iterable[Entry], now: float) -> int:
        """Take back what an earlier table held, into this one, which is empty; return how many nodes that were.

        Each keeps the time at which it was seen, one from the future that of now. Stale ones are left out, of two of a
        node the older one, and the longest silent nodes where there are more than fit.

        Raises ValueError if the table is not empty.
        """
        if self._entries:
            raise ValueError("reports have come already")
        limit = now - self.stale_after
        latest: dict[str, Entry] = {}
        for entry in sorted((entry for entry in entries if entry.seen > limit), key=attrgetter("seen")):
            latest.pop(entry.report.node_id, None)
            latest[entry.report.node_id] = entry if entry.seen <= now else Entry(now, entry.report)
        for node_id in list(latest)[: -self.max_nodes]:
            del latest[node_id]
        self._entries.update(latest)
        self._order.update(dict.fromkeys(latest))
        return len(latest)

    def expire(self, now: float, most: int) -> list[str]:
        """Remove up to `most` nodes that are stale, the longest silent first, and return their ids."""
        limit = now - self.stale_after
        expired: list[Entry] = []
        while self._order and len(expired) < most:
            node_id = next(iter(self._order))
            if self._entries[node_id].seen > limit:
                break
            self._order.popitem(last=False)
            expired.append(self._entries.pop(node_id))
        if expired:
            for observer in self.observers:
                observer.expired(expired)
        return [entry.report.node_id for entry in expired]

    def forget(self, node_id: str, now: float) -> bool:
        """Remove a node; return whether it was there and fresh."""
        entry = self._entries.pop(node_id, None)
        if entry is None:
            return False
        del self._order[node_id]
        self.changes += 1
        self.forgotten += 1
        return entry.seen > now - self.stale_after

    def get(self, node_id: str, now: float) -> Entry | None:
        """Return the node's entry, or None if there is no fresh one."""
        entry = self._entries.get(node_id)
        return entry if entry is not None and entry.seen > now - self.stale_after else None

    def count(self, now: float) -> int:
        """Return the number of fresh nodes; it takes as long as there are stale ones that `expire` has not removed."""
        limit = now - self.stale_after
        stale = 0
        for node_id in self._order:
            if self._entries[node_id].seen > limit:
                break
            stale += 1
        return len(self._entries) - stale

    def snapshot(self, now: float) -> list[Entry]:
        """Return the fresh entries, unordered. For any thread; the list is the caller's, its entries never change."""
        return [entry for block in self.blocks(now, len(self._entries) or 1) for entry in block]

    def blocks(self, now: float, size: int) -> Iterator[list[Entry]]:
        """Return what `snapshot` does, in blocks, each filtered when it is asked for; the table is copied at once."""
        entries = list(self._entries.values())
        limit = now - self.stale_after
        return (
            [entry for entry in entries[at : at + size] if entry.seen > limit] for at in range(0, len(entries), size)
        )
