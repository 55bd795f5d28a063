"""The table of nodes."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestratord.errors import TableFull
from orchestratord.nodes.store import Entry, NodeStore
from tests.fakes import report

if TYPE_CHECKING:
    from orchestratord.nodes.report import NodeReport

STALE_AFTER = 60.0


def store(max_nodes: int = 100) -> NodeStore:
    """Return an empty table."""
    return NodeStore(stale_after=STALE_AFTER, max_nodes=max_nodes)


def ids(nodes: NodeStore, now: float) -> list[str]:
    """Return the fresh nodes' ids, sorted."""
    return sorted(entry.report.node_id for entry in nodes.snapshot(now))


def test_a_report_replaces_the_previous_one_whole() -> None:
    """What the new one does not carry is gone."""
    nodes = store()
    assert nodes.update([report("a", page_faults=1)], 0).new == ["a"]
    updated = nodes.update([report("a", fs_read_count=2)], 1)
    assert (updated.accepted, updated.superseded, updated.new) == (1, 0, [])
    entry = nodes.get("a", 1)
    assert entry is not None
    assert entry.seen == 1
    assert entry.report == report("a", fs_read_count=2)


def test_a_node_is_fresh_until_the_limit() -> None:
    """At the very limit it is stale, in every answer, though no sweep has run."""
    nodes = store()
    nodes.update([report("a")], 100)
    assert ids(nodes, 159.999) == ["a"]
    assert nodes.get("a", 159.999) is not None
    assert ids(nodes, 160) == []
    assert nodes.get("a", 160) is None
    assert len(nodes) == 1


def test_an_older_report_is_superseded() -> None:
    """It is not stored, and does not keep the node alive; an equal one, or one without a timestamp, is taken."""
    nodes = store()
    nodes.update([report("a", timestamp=50, page_faults=1)], 0)
    updated = nodes.update([report("a", timestamp=49, page_faults=2)], 30)
    assert (updated.accepted, updated.superseded) == (0, 1)
    entry = nodes.get("a", 30)
    assert entry is not None
    assert entry.seen == 0
    assert entry.report.values[1] == 1
    assert nodes.update([report("a", timestamp=50)], 31).accepted == 1
    assert nodes.update([report("a")], 32).accepted == 1
    assert nodes.update([report("a", timestamp=1)], 33).accepted == 1


def test_a_stale_report_supersedes_nothing() -> None:
    """A node that comes back with an earlier clock is taken, and is new."""
    nodes = store()
    nodes.update([report("a", timestamp=1000)], 0)
    updated = nodes.update([report("a", timestamp=1)], 60)
    assert (updated.accepted, updated.new) == (1, ["a"])


def test_in_a_batch_the_last_report_of_a_node_wins() -> None:
    """As if they had come one after the other."""
    nodes = store(max_nodes=1)
    updated = nodes.update([report("a", page_faults=1), report("a", page_faults=2)], 0)
    assert (updated.accepted, updated.new) == (2, ["a"])
    entry = nodes.get("a", 0)
    assert entry is not None
    assert entry.report.values[1] == 2


def test_a_full_table_refuses_new_nodes_whole_and_serves_known_ones() -> None:
    """A batch with one node too many stores nothing; the nodes in the table go on."""
    nodes = store(max_nodes=2)
    nodes.update([report("a"), report("b")], 0)
    with pytest.raises(TableFull, match="the table is full: 2 nodes"):
        nodes.update([report("a", page_faults=9), report("c")], 1)
    entry = nodes.get("a", 1)
    assert entry is not None
    assert entry.report.values[1] is None
    assert nodes.update([report("a"), report("b"), report("a")], 2).accepted == 3


def test_expire_removes_the_stale_ones_only_the_longest_silent_first() -> None:
    """And no more than it was asked to, so that a reactor turn stays short."""
    nodes = store()
    for moment, node_id in enumerate("abcd"):
        nodes.update([report(node_id)], moment)
    nodes.update([report("a")], 10)
    assert nodes.expire(59.9, 10) == []
    assert nodes.expire(63, 2) == ["b", "c"]
    assert nodes.expire(63, 2) == ["d"]
    assert nodes.expire(63, 2) == []
    assert ids(nodes, 63) == ["a"]
    assert nodes.expire(70, 10) == ["a"]
    assert len(nodes) == 0


def test_forget_tells_whether_there_was_a_fresh_node() -> None:
    """A stale one goes too, but was in no answer before."""
    nodes = store()
    nodes.update([report("a"), report("b")], 0)
    assert nodes.forget("a", 1)
    assert not nodes.forget("a", 1)
    assert not nodes.forget("b", 60)
    assert len(nodes) == 0
    assert nodes.expire(100, 10) == []


def test_what_an_earlier_table_held_is_taken_back() -> None:
    """Each with its own age, in whatever order it comes; what is stale by then is not."""
    before = store()
    for moment, node_id in enumerate("abc"):
        before.update([report(node_id)], moment)
    entries = before.snapshot(3)
    nodes = store()
    assert nodes.restore(reversed(entries), 60) == 2
    assert {entry.report.node_id: entry.seen for entry in nodes.snapshot(60)} == {"b": 1, "c": 2}
    assert nodes.update([report("b")], 60).new == []
    assert nodes.expire(63, 10) == ["c"]
    assert nodes.expire(120, 10) == ["b"]
    assert nodes.restore([Entry(0, report("a"))], 60) == 0


def test_a_table_with_reports_takes_nothing_back() -> None:
    """What it holds is newer."""
    nodes = store()
    nodes.update([report("a")], 5)
    with pytest.raises(ValueError, match="reports have come already"):
        nodes.restore([Entry(4, report("b"))], 5)
    assert ids(nodes, 5) == ["a"]


def test_no_clock_makes_a_node_immortal() -> None:
    """One that was seen in the future counts as seen now; it holds up no sweep either."""
    nodes = store()
    assert nodes.restore([Entry(1_000_000, report("a")), Entry(5, report("b"))], 10) == 2
    assert nodes.expire(65, 10) == ["b"]
    assert nodes.expire(70, 10) == ["a"]


def test_of_more_than_fit_the_longest_silent_are_left_out() -> None:
    """As where --max-nodes was lowered; of two entries of a node the newer one is taken."""
    nodes = store(max_nodes=2)
    entries = [Entry(3, report("a")), Entry(4, report("b")), Entry(5, report("c")), Entry(1, report("c"))]
    assert nodes.restore(entries, 6) == 2
    assert {entry.report.node_id: entry.seen for entry in nodes.snapshot(6)} == {"b": 4, "c": 5}
    with pytest.raises(TableFull):
        nodes.update([report("d")], 6)


def test_changes_are_counted() -> None:
    """What a snapshot on disk would miss: reports that were stored, and nodes that were forgotten; not the sweep."""
    nodes = store()
    nodes.update([report("a", timestamp=5), report("b")], 0)
    nodes.update([report("a", timestamp=4)], 0)
    assert (nodes.changes, nodes.forgotten) == (2, 0)
    nodes.forget("a", 1)
    nodes.forget("a", 1)
    nodes.expire(60, 10)
    assert (nodes.changes, nodes.forgotten) == (3, 1)


def test_a_snapshot_does_not_change() -> None:
    """What is reported or removed later is not in it."""
    nodes = store()
    nodes.update([report("a", page_faults=1)], 0)
    snapshot = nodes.snapshot(1)
    nodes.update([report("a", page_faults=2), report("b")], 2)
    nodes.forget("a", 3)
    assert [(entry.seen, entry.report.values[1]) for entry in snapshot] == [(0, 1)]


def test_snapshots_may_be_taken_while_reports_arrive() -> None:
    """From another thread, as a scrape does; nothing is raised, and every snapshot is whole."""
    nodes = store(max_nodes=2000)
    reports = [report(f"n{i}") for i in range(1000)]
    nodes.update(reports, 0)
    done = Event()
    sizes: set[int] = set()

    def scrape() -> None:
        while not done.is_set():
            sizes.add(len(nodes.snapshot(1)))

    thread = Thread(target=scrape)
    thread.start()
    try:
        for turn in range(100):
            nodes.update(reports, 0)
            nodes.update([report(f"m{turn}")], 0)
    finally:
        done.set()
        thread.join()
    assert sizes
    assert min(sizes) >= 1000
    assert max(sizes) <= 1100


class TableMachine(RuleBasedStateMachine):
    """Does what may happen to a table, in any order, beside a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.nodes = store(max_nodes=4)
        self.model: dict[str, tuple[float, NodeReport]] = {}

    def fresh(self) -> dict[str, tuple[float, NodeReport]]:
        """Return what the model holds that is fresh."""
        return {node: item for node, item in self.model.items() if self.now - item[0] < STALE_AFTER}

    @rule(seconds=st.sampled_from([0, 1, 20, 60]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 3), st.integers(0, 9)), max_size=5
        )
    )
    def update(self, batch: list[tuple[str, int | None, int]]) -> None:
        """Report a batch."""
        reports = [
            report(node, page_faults=value, **({} if timestamp is None else {"timestamp": timestamp}))
            for node, timestamp, value in batch
        ]
        if len(self.model.keys() | {item.node_id for item in reports}) > 4:
            with pytest.raises(TableFull):
                self.nodes.update(reports, self.now)
            return
        superseded = 0
        for item in reports:
            old = self.fresh().get(item.node_id)
            stamps = (item.timestamp, old[1].timestamp if old else None)
            if stamps[0] is not None and stamps[1] is not None and stamps[0] < stamps[1]:
                superseded += 1
            else:
                self.model[item.node_id] = (self.now, item)
        updated = self.nodes.update(reports, self.now)
        assert (updated.accepted, updated.superseded) == (len(reports) - superseded, superseded)

    @rule(most=st.integers(0, 3))
    def expire(self, most: int) -> None:
        """Sweep."""
        expired = self.nodes.expire(self.now, most)
        stale = len(self.model) - len(self.fresh())
        assert len(expired) == min(most, stale)
        for node in expired:
            assert node not in self.fresh()
            del self.model[node]

    @rule(node=st.sampled_from("abcdef"))
    def forget(self, node: str) -> None:
        """Forget a node."""
        assert self.nodes.forget(node, self.now) == (node in self.fresh())
        self.model.pop(node, None)

    @rule(seconds=st.sampled_from([0, 1, 20, 60]), reverse=st.booleans())
    def restart(self, seconds: float, reverse: bool) -> None:
        """Move what is in the table into the table of another run, some time later."""
        entries = self.nodes.snapshot(self.now)
        self.now += seconds
        self.nodes = store(max_nodes=4)
        self.model = self.fresh()
        assert self.nodes.restore(reversed(entries) if reverse else entries, self.now) == len(self.model)

    @invariant()
    def agree(self) -> None:
        """The table and the model tell the same."""
        assert len(self.nodes) == len(self.model)
        assert {
            entry.report.node_id: (entry.seen, entry.report) for entry in self.nodes.snapshot(self.now)
        } == self.fresh()


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=30)
