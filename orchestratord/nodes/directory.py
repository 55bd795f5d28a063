"""What is known of the nodes, for whoever looks: the interface, and the table of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.runtime.clocks import Clocks


class NodesAt(NamedTuple):
    """What is known of the fresh nodes at one moment.

    `entries` returns them, unordered, on any thread, in a list that is the caller's: where there may be many, on a pool
    thread, which lets go of them in steps (`breath.let_go`), for all at once would hold the interpreter. `now` is that
    moment by the clock of their `seen`, `unix_now` by the calendar, both in seconds.
    """

    entries: Callable[[], list[Entry]]
    now: float
    unix_now: float


class NodeDirectory(Protocol):
    """Where to look for nodes. Belongs to the reactor thread."""

    #: Seconds without a report after which a node is in no answer.
    stale_after: float
    #: Whether this is what all replicas have heard; else, what this process has.
    shared: bool
    #: What a query in PromQL adds to its matchers so that it finds these nodes alone: nothing, or `,name="value"`.
    matchers: str

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes; their reports may lack the families that are not named.

        Raises a Fault, also if it takes longer than `within` seconds, for which it does not wait for its turn.
        """
        ...

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node: with its entry, or without any if it is not fresh. Raises a Fault."""
        ...


class TableDirectory:
    """The nodes that have reported to this process. They age by the monotonic one of `clocks`."""

    shared = False
    matchers = ""

    def __init__(self, nodes: NodeStore, clocks: Clocks) -> None:
        self.stale_after = nodes.stale_after
        self._nodes = nodes
        self._clocks = clocks

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes, with all families, at once."""
        del names, within
        now = self._clocks.monotonic()
        return NodesAt(lambda: self._nodes.snapshot(now), now, self._clocks.time())

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node."""
        now = self._clocks.monotonic()
        entry = self._nodes.get(node_id, now)
        return NodesAt(lambda: [] if entry is None else [entry], now, self._clocks.time())

    async def forget(self, node_id: str) -> bool:
        """Forget a node; return whether it was there and fresh."""
        return self._nodes.forget(node_id, self._clocks.monotonic())
