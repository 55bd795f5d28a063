"""Where to look up nodes: the interface, and its implementation by the table of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.runtime.clock import Clocks


class NodesAt(NamedTuple):
    """The fresh nodes at one moment.

    `entries` returns them without order, in a new list, on any thread. If there may be many, call it on a pool thread,
    and free the list there with `gil_yield.let_go`: to free it in one step would hold the interpreter for long. `now`
    is the moment by the clock of `Entry.seen`, `unix_now` the same in Unix time, both in seconds.
    """

    entries: Callable[[], list[Entry]]
    now: float
    unix_now: float


class NodeDirectory(Protocol):
    """Where to look for nodes. Belongs to the reactor thread."""

    #: Seconds after its last report for which a node is fresh.
    stale_after: float
    #: Whether it has the reports to all replicas, or only those to this process.
    shared: bool
    #: Matchers that a PromQL query needs to find these nodes only: empty, or `,name="value"`.
    matchers: str

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes; their reports may lack the families that are not in `names`.

        With `within` it does not wait for other calls to end, and raises a Fault after `within` seconds. Raises other
        Faults too.
        """
        ...

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node; there is no entry if it is not fresh. Raises a Fault."""
        ...


class TableDirectory:
    """The nodes that have reported to this process. They age by the monotonic clock of `clocks`."""

    shared = False
    matchers = ""

    def __init__(self, nodes: NodeStore, clocks: Clocks) -> None:
        self.stale_after = nodes.stale_after
        self._nodes = nodes
        self._clocks = clocks

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes, with all families; does not wait."""
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
