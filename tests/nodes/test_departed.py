"""Who left in the last hour: named, bounded, forgotten when it is back."""

from __future__ import annotations

from orchestratord.nodes.departed import KEPT, MOST, DepartedNodes, Gone, still_gone
from orchestratord.nodes.store import NodeStore
from tests.fakes import FakeClocks, report


class Table:
    """A table, who left it, and clocks."""

    def __init__(self, max_nodes: int = 100_000) -> None:
        self.clocks = FakeClocks()
        self.nodes = NodeStore(stale_after=60, max_nodes=max_nodes)
        self.departed = DepartedNodes(self.nodes, self.clocks)
        self.nodes.observers.append(self.departed)

    @property
    def now(self) -> float:
        """The time by which nodes age."""
        return self.clocks.monotonic()

    def report(self, *node_ids: str) -> None:
        """Report these nodes."""
        self.nodes.update([report(node_id) for node_id in node_ids], self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, and sweep."""
        self.clocks.now += seconds
        self.nodes.expire(self.now, 1_000_000)

    def names(self) -> list[str]:
        """Return who is missing."""
        return [gone.node_id for gone in self.departed.missing().nodes]


def test_a_silent_node_is_known_for_an_hour() -> None:
    """With the time of its last report and that at which it became stale."""
    table = Table()
    assert not table.departed.missing().heard
    table.report("a", "b")
    began = table.now
    table.wait(30)
    table.report("b")
    table.wait(31)
    assert table.departed.missing().nodes == [Gone("a", began, began + 60, "stale")]
    assert table.departed.missing().silent == 1
    table.wait(KEPT - 2)
    assert table.names() == ["a", "b"]
    table.wait(1)
    assert table.names() == ["b"]
    table.wait(KEPT)
    assert (table.names(), table.departed.missing().heard) == ([], True)


def test_a_node_that_is_back_is_not_gone() -> None:
    """As soon as it reports."""
    table = Table()
    table.report("a", "b")
    table.wait(60)
    table.report("a")
    assert table.names() == ["b"]


async def test_a_deleted_node_is_no_missing_one() -> None:
    """It is known that it was deleted; what was not there is not."""
    table = Table()
    table.report("a")

    async def forget(node_id: str) -> bool:
        return table.nodes.forget(node_id, table.now)

    assert await table.departed.forget("a", forget)
    assert not await table.departed.forget("nobody", forget)
    missing = table.departed.missing()
    assert [(gone.node_id, gone.reason) for gone in missing.nodes] == [("a", "deleted")]
    assert missing.silent == 0


def test_only_so_many_are_named() -> None:
    """Of more, the oldest are counted; one that comes back is one less, and after an hour there are none."""
    table = Table()
    for start in range(0, MOST + 30, 1000):
        table.report(*[f"n{index}" for index in range(start, min(start + 1000, MOST + 30))])
    table.wait(60)
    missing = table.departed.missing()
    assert (len(missing.nodes), missing.unnamed, missing.silent) == (MOST, 30, MOST + 30)
    table.report("n0")
    assert table.departed.missing().silent == MOST + 29
    table.report(f"n{MOST}")
    assert table.departed.missing().silent == MOST + 28
    table.wait(KEPT)
    assert table.departed.missing().silent <= 2


def test_what_a_snapshot_says_of_silent_nodes() -> None:
    """After a restart they are known as before it."""
    table = Table()
    table.departed.silent([("a", table.now - 100)])
    missing = table.departed.missing()
    assert (table.names(), missing.silent, missing.heard) == (["a"], 1, True)


def test_those_whom_another_replica_has_heard() -> None:
    """They are not gone."""
    table = Table()
    table.report("a", "b")
    table.wait(60)
    table.report("c")
    fresh = table.nodes.snapshot(table.now)
    gone = [Gone("a", 0, 60, "stale"), Gone("c", 0, 60, "stale")]
    assert still_gone(gone, fresh) == gone[:1]
