"""What is known of the nodes by the table."""

from __future__ import annotations

from orchestratord.nodes.directory import TableDirectory
from orchestratord.nodes.store import NodeStore
from orchestratord.runtime.gil_yield import let_go
from tests.fakes import NOW, FakeClocks, now, report


def test_the_table_at_once() -> None:
    """All nodes with all that is known of them, one of them, or none; and it forgets."""
    nodes, clocks = NodeStore(stale_after=60, max_nodes=9), FakeClocks()
    nodes.update([report("a", page_faults=1), report("b")], clocks.now)
    fleet = TableDirectory(nodes, clocks)
    look = now(fleet.look(()))
    assert {entry.report.node_id for entry in look.entries()} == {"a", "b"}
    assert (look.now, look.unix_now) == (1000, NOW)
    assert now(fleet.node("a")).entries()[0].report.values[1] == 1
    assert now(fleet.node("c")).entries() == []
    assert (now(fleet.forget("a")), now(fleet.forget("a"))) == (True, False)
    let_go(look.entries())
    assert len(look.entries()) == 1
