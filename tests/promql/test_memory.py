"""Plain selectors answered from the table."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable, UpstreamUnreachable
from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.store import NodeStore
from orchestratord.promql.client import Answer
from orchestratord.promql.memory import MemoryClient, printed
from orchestratord.promql.params import Query, passed_through
from orchestratord.promql.selection import select
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.time_slices import TimeSlices
from tests.fakes import FAMILIES, NOW, FakeClocks, FakeUpstreams, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall

INDEXES = {name: index for index, name in enumerate(FAMILIES)}
PROMETHEUS = Answer(200, b"application/json", b"from prometheus")


class CountingClock(Clock):
    """A Clock that counts the calls that it was asked for: each is a turn of a reactor."""

    limit = 0

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:  # noqa: A002
        """Call it after so many seconds."""
        self.limit += 1
        return super().callLater(delay, callable, *args, **kw)


class Setup:
    """A table of a few nodes and an upstream behind it."""

    def __init__(self, mode: Any) -> None:
        self.clock = CountingClock()
        self.clocks = FakeClocks()
        self.nodes = NodeStore(stale_after=60, max_nodes=5000)
        self.upstreams = FakeUpstreams()
        self.upstreams.answer = PROMETHEUS
        for number, node in enumerate(("n1", "n2", "n3", "m1")):
            self.nodes.update([report(node, page_faults=number + 0.5)], 1000)
        self.nodes.update([report("silent", fs_read_count=1)], 1000)
        self.budget = MemoryBudget(1_000_000)
        self.reachable = True
        # Each look at the time is a second later: a slice takes the whole turn, and the next one has the next.
        self.client = MemoryClient(
            TimeSlices(self.clock, count().__next__),
            self.upstreams,
            self.nodes,
            BUILT_IN,
            clocks=self.clocks,
            mode=mode,
            budget=self.budget,
            reachable=lambda: self.reachable,
        )

    def ask(self, promql: str, path: str = "/api/v1/query", **params: str) -> Answer:
        """Return the answer, or raise."""
        query = passed_through(
            path, {name: [value] for name, value in {"query": promql, **params}.items()}, max_length=10**6
        )
        came: list[Any] = []
        Deferred.fromCoroutine(self.client.fetch(query)).addBoth(came.append)
        self.clock.pump([0] * 10)
        if isinstance(came[0], Failure):
            came[0].raiseException()
        answer: Answer = came[0]
        return answer

    def values(self, promql: str) -> dict[str, str]:
        """Return what the table answers, by node."""
        answer = self.ask(promql)
        assert answer.headers == ((b"X-Orchestrator-Source", b"memory"),)
        result = json.loads(answer.body)["data"]["result"]
        return {item["metric"]["node_id"]: item["value"][1] for item in result}


def test_a_plain_selector_is_answered_as_prometheus_would() -> None:
    """An instant vector, values as text, the time with milliseconds."""
    answer = Setup("always").ask('page_faults{node_id="n2"}', timeout="5s")
    assert (answer.status, answer.content_type) == (200, b"application/json")
    assert json.loads(answer.body) == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"__name__": "page_faults", "node_id": "n2"}, "value": [NOW, "1.5"]}],
        },
    }


@pytest.mark.parametrize(
    ("promql", "nodes"),
    [
        ("page_faults", ["m1", "n1", "n2", "n3"]),
        ("page_faults{}", ["m1", "n1", "n2", "n3"]),
        ('page_faults{node_id="n9"}', []),
        ('page_faults{node_id!="n1"}', ["m1", "n2", "n3"]),
        ('page_faults{node_id=~"n1|n3|n1"}', ["n1", "n3"]),
        ('page_faults{node_id=~"n.*"}', ["n1", "n2", "n3"]),
        ('page_faults{node_id=~"n"}', []),
        ('page_faults{node_id!~"n[12]"}', ["m1", "n3"]),
        ('page_faults{node_id=~"n.+",node_id!="n2"}', ["n1", "n3"]),
        ('page_faults{node_id="n1",node_id="n2"}', []),
        ('page_faults{node_id=~"n1|n2",node_id=~"n2|n3"}', ["n2"]),
        ('page_faults{node_id=""}', []),
        ('page_faults{node_id=~"(?i)N1"}', ["n1"]),
    ],
)
def test_matchers_mean_what_they_mean_there(promql: str, nodes: list[str]) -> None:
    """Anchored at both ends; a node that did not report the family is not there."""
    assert sorted(Setup("always").values(promql)) == nodes


@pytest.mark.parametrize(
    "promql",
    [
        "page_faults offset 5m",
        "page_faults @ 3",
        "page_faults[5m]",
        "(page_faults)",
        "-page_faults",
        "page_faults + 1",
        "sum(page_faults)",
        "up",
        "orchestrator_nodes",
        'page_faults{job="x"}',
        '{__name__="page_faults"}',
        'page_faults{node_id="a" or node_id="b"}',
        'page_faults{node_id=~"("}',
        'page_faults{node_id=~"a{1001}"}',
        'page_faults{node_id=~"a)|(b"}',
        'page_faults{node_id=~"a)(b"}',
        'page_faults{node_id!~"a)|(b"}',
        "page_faults\f",
        "page_faults\v{}",
        "page_faults\u00a0",
        'page_faults{node_id="\\x61"}',
        'page_faults{node_id=~"(?:[!-~]?){1000}"}',
        f"page_faults{{{','.join(['node_id=~`n{400}`'] * 3)}}}",
        f"page_faults{{{','.join(['node_id=~`' + '(?:)' * 700 + 'n.*`'] * 2)}}}",
        "page_faults" + "+page_faults" * 8000,
        "(" * 5000 + "page_faults" + ")" * 5000,
        "page_faults{",
        "",
    ],
)
def test_everything_else_goes_to_prometheus(promql: str) -> None:
    """Always: what is not exactly a plain selector is its business, errors too."""
    assert Setup("always").ask(promql) == PROMETHEUS


def test_other_times_and_routes_go_to_prometheus() -> None:
    """The table knows the present only, and instant queries only."""
    setup = Setup("always")
    assert setup.ask("page_faults", time="1") == PROMETHEUS
    assert setup.ask("page_faults", path="/api/v1/query_range") == PROMETHEUS
    assert setup.ask("page_faults", lookback_delta="1m") == PROMETHEUS


@pytest.mark.parametrize("timeout", ["abc", "1e400", "-1", "0", "NaN", "Inf", "1e10", "300y", "1s ", "9" * 5000])
def test_a_timeout_that_prometheus_refuses_is_not_answered_200(timeout: str) -> None:
    """It says what is wrong with it. An empty one is none."""
    assert Setup("always").ask("page_faults", timeout=timeout) == PROMETHEUS
    assert Setup("always").ask("page_faults", timeout="") != PROMETHEUS
    assert Setup("always").ask("page_faults", timeout="1m30s") != PROMETHEUS


def table(setup: Setup, nodes: int, length: int = 0) -> None:
    """Put so many more nodes into the table, with ids of at least that length."""
    for start in range(0, nodes, 1000):
        batch = [report(f"x{number}-".ljust(length, "y"), page_faults=number) for number in range(start, start + 1000)]
        setup.nodes.update(batch, 1000)


def limit(setup: Setup, promql: str) -> int:
    """Return in how many turns of the reactor a query is answered from the table."""
    came: list[Any] = []
    query = Query("/api/v1/query", (("query", promql),))
    before = setup.clock.limit
    Deferred.fromCoroutine(setup.client.fetch(query)).addBoth(came.append)
    setup.clock.advance(0)
    assert came[0].headers == ((b"X-Orchestrator-Source", b"memory"),)
    return setup.clock.limit - before


def test_a_turn_of_the_reactor_has_a_bound_of_work() -> None:
    """A thousand nodes, fewer the longer their ids and the larger the program of an expression."""
    setup = Setup("always")
    setup.nodes.max_nodes = 10_000
    setup.budget.limit = 10_000_000
    table(setup, 5000, 250)
    assert limit(setup, "page_faults") == 6
    assert limit(setup, 'page_faults{node_id=~"nothing.*"}') > 30
    assert limit(setup, 'page_faults{node_id=~"z{150}"}') > 150
    names = "|".join(f"x{number}-".ljust(250, "y") for number in range(3000))
    assert limit(setup, f'page_faults{{node_id=~"{names[:100_000]}"}}') == 0
    assert limit(setup, f"page_faults{{node_id=~'{'|'.join(f'n{number}' for number in range(3000))}'}}") == 3


def test_the_fast_way_takes_what_is_short_only() -> None:
    """A few names; a list of thousands, or an expression besides, has turns of its own."""
    setup = Setup("always")
    short = [f"n{number}" for number in range(1000)]
    for names, more, at_once in [
        (short, "", True),
        ([*short, "n"], "", False),
        (short, ",node_id!='n1'", True),
        (short, ",node_id=~'n{900}'", False),
    ]:
        promql = f"page_faults{{node_id=~'{'|'.join(names)}'{more}}}"
        answer = setup.client.at_once(Query("/api/v1/query", (("query", promql),)))
        assert (answer is not None) == at_once


def test_over_the_work_of_a_query_prometheus_is_asked() -> None:
    """Always: its answer. At need, there is none to ask: its absence. Nothing is held of the memory for answers."""
    setup = Setup("always")
    setup.nodes.max_nodes = 10_000
    setup.budget.limit = 10_000_000
    table(setup, 3000, 250)
    costly = 'page_faults{node_id=~"z{900}"}'
    came: list[Any] = []
    Deferred.fromCoroutine(setup.client.fetch(Query("/api/v1/query", (("query", costly),)))).addBoth(came.append)
    setup.clock.pump([0] * 4000)
    assert came == [PROMETHEUS]
    assert setup.budget.held == 0
    fallback = Setup("fallback")
    fallback.nodes, fallback.client._nodes = setup.nodes, setup.nodes
    fallback.upstreams.answer = UpstreamUnreachable("gone")
    Deferred.fromCoroutine(fallback.client.fetch(Query("/api/v1/query", (("query", costly),)))).addBoth(came.append)
    fallback.clock.pump([0] * 4000)
    assert came[1].check(UpstreamUnreachable, Overloaded)


def test_many_scans_share_one_turn_after_the_other() -> None:
    """However many are under way, a turn of the reactor has one piece of work; who leaves gives up the place."""
    setup = Setup("always")
    setup.budget.limit = 10_000_000
    table(setup, 3000)
    came: list[Any] = []
    scans = [
        Deferred.fromCoroutine(setup.client.fetch(Query("/api/v1/query", (("query", "page_faults"),))))
        for _ in range(10)
    ]
    for scan in scans:
        scan.addBoth(came.append)
    scans[3].cancel()
    assert came[0].check(CancelledError)
    setup.clock.advance(0)
    assert setup.clock.limit == 9 * 4
    assert [len(json.loads(answer.body)["data"]["result"]) for answer in came[1:]] == [3004] * 9
    del came[:], scans[:]
    assert setup.budget.held == 0


def test_scans_that_wait_hold_memory_for_their_copies_of_the_table() -> None:
    """Eight bytes a node; one that finds no room is refused before it copies anything."""
    setup = Setup("always")
    table(setup, 3000)
    setup.budget.limit = 3 * 8 * 3005 + 1000
    came: list[Any] = []
    for _ in range(4):
        query = Query("/api/v1/query", (("query", "fs_read_count"),))
        Deferred.fromCoroutine(setup.client.fetch(query)).addBoth(came.append)
    assert len(came) == 1
    assert came[0].check(Overloaded)
    setup.clock.advance(0)
    assert [answer.status for answer in came[1:]] == [200] * 3


def test_stale_nodes_are_not_answered() -> None:
    """By name or by scan."""
    setup = Setup("always")
    setup.clocks.now += 60
    assert setup.values("page_faults") == {}
    assert setup.values('page_faults{node_id="n1"}') == {}


def test_a_scan_of_a_large_table_gives_the_reactor_turns() -> None:
    """And a look-up by name takes none."""
    setup = Setup("always")
    setup.nodes.update([report(f"x{i}", page_faults=i) for i in range(3000)], 1000)
    came: list[Any] = []
    Deferred.fromCoroutine(setup.client.fetch(Query("/api/v1/query", (("query", "page_faults"),)))).addBoth(came.append)
    assert not came
    setup.clock.pump([0] * 10)
    assert came
    named = Deferred.fromCoroutine(
        setup.client.fetch(Query("/api/v1/query", (("query", 'page_faults{node_id="x7"}'),)))
    )
    assert named.called


def test_fallback_answers_only_when_nobody_can_be_reached() -> None:
    """With a warning; a Prometheus that is slow, or refuses, has been reached."""
    setup = Setup("fallback")
    assert setup.ask("page_faults") == PROMETHEUS
    setup.upstreams.answer = UpstreamUnreachable("gone")
    answer = json.loads(setup.ask("page_faults").body)
    assert len(answer["data"]["result"]) == 4
    assert answer["warnings"] == [
        "no Prometheus could be reached: the orchestrator answered from the latest reports in its memory"
    ]
    with pytest.raises(UpstreamUnreachable):
        setup.ask("sum(page_faults)")
    for fault in (UpstreamUnavailable("html"), QueryTimeout("late")):
        setup.upstreams.answer = fault
        with pytest.raises(type(fault)):
            setup.ask("page_faults")


def test_fallback_does_not_wait_for_what_is_known_not_to_answer() -> None:
    """A client with little time has the answer from memory; what memory cannot answer is asked all the same."""
    setup = Setup("fallback")
    setup.reachable = False
    setup.upstreams.answer = Deferred()
    assert len(setup.values("page_faults")) == 4
    assert setup.upstreams.asked == []
    setup.upstreams.answer = PROMETHEUS
    assert setup.ask("sum(page_faults)") == PROMETHEUS
    setup.reachable = True
    assert setup.ask("page_faults") == PROMETHEUS


def test_never_is_never() -> None:
    """The default."""
    setup = Setup("never")
    setup.reachable = False
    setup.upstreams.answer = UpstreamUnreachable("gone")
    with pytest.raises(UpstreamUnreachable):
        setup.ask("page_faults")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "-0"),
        (7, "7"),
        (0.1, "0.1"),
        (1e-6, "0.000001"),
        (1e-7, "1e-07"),
        (2**53, "9007199254740992"),
        (9e20, "900000000000000000000"),
        (1e21, "1e+21"),
        (2**64 - 1, "18446744073709552000"),
        (1.5e300, "1.5e+300"),
    ],
)
def test_values_are_printed_as_prometheus_does(value: float, text: str) -> None:
    """The shortest digits that read back."""
    assert printed(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_values_read_back(value: float) -> None:
    """To the very same float."""
    assert float(printed(value)) == value


@given(st.text(max_size=40))
def test_no_text_does_anything_but_select_or_not(promql: str) -> None:
    """Whatever a client sends."""
    select(promql, INDEXES)
    select(f'page_faults{{node_id=~"{promql}"}}', INDEXES)


def test_answers_about_the_whole_table_have_a_bound_together() -> None:
    """One that finds no room is refused."""
    setup = Setup("always")
    kept = setup.ask("page_faults")
    assert setup.budget.held == len(kept.body)
    setup.budget.limit = len(kept.body)
    with pytest.raises(Overloaded):
        setup.ask("page_faults")
    del kept
    assert setup.budget.held == 0
