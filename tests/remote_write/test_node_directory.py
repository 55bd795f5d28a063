"""What is known of the nodes by a store."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from orchestratord.errors import Fault, NodesTimeout, Overloaded, QueryFault, QueryTimeout, UpstreamUnavailable
from orchestratord.nodes.directory import NodesAt
from orchestratord.nodes.families import BUILT_IN, LAST_REPORT
from orchestratord.promql.client import Answer
from orchestratord.remote_write.node_directory import Known, StoreDirectory
from orchestratord.web.api.nodes import details
from tests.fakes import NOW, FakeClocks, now
from tests.remote_write.fake_store import JSON, FakeStore

FAMILIES = BUILT_IN.names


class Setup:
    """A fleet over a fake store."""

    def __init__(self, *labels: tuple[str, str], stale_after: float = 60, **nodes: Any) -> None:
        self.store = FakeStore(**nodes)
        self.clocks = FakeClocks()
        self.fleet = StoreDirectory(
            self.store,
            BUILT_IN,
            labels,
            self.clocks,
            stale_after=stale_after,
            query_timeout=10,
            in_thread=maybeDeferred,
        )

    def known(self, *node_ids: str) -> dict[str, Known]:
        """Return what the store knows."""
        known: dict[str, Known] = now(self.fleet.known(node_ids))
        return known

    def told(self, *names: str) -> list[dict[str, Any]]:
        """Return the details of all nodes."""
        return self._told(now(self.fleet.look(names)))

    def node(self, node_id: str) -> list[dict[str, Any]]:
        """Return the details of one."""
        return self._told(now(self.fleet.node(node_id)))

    def _told(self, look: NodesAt) -> list[dict[str, Any]]:
        entries = look.entries()
        return [details(entry, FAMILIES, look.now, look.unix_now, self.fleet.stale_after) for entry in entries]


def test_a_node_is_told_as_the_table_would() -> None:
    """Its age is counted from the value of its last report; whole numbers are whole; what is absent is absent."""
    setup = Setup(n1={LAST_REPORT: NOW - 12.5, "page_faults": 6.0, "fs_read_size_kb": 0.5, "other": 1.0})
    expected = {
        "node_id": "n1",
        "last_report": NOW - 12.5,
        "age_seconds": 12.5,
        "expires_in_seconds": 47.5,
        "metrics": {"page_faults": 6, "fs_read_size_kb": 0.5},
    }
    assert setup.node("n1") == [expected]
    assert setup.told(*FAMILIES) == [expected]
    assert isinstance(setup.node("n1")[0]["metrics"]["page_faults"], int)


def test_only_what_is_wanted_is_asked_for() -> None:
    """Ids alone take one query, and a family one more."""
    setup = Setup(n1={LAST_REPORT: NOW, "page_faults": 6.0, "fs_read_count": 1.0})
    assert setup.told()[0]["metrics"] == {}
    assert setup.told("page_faults")[0]["metrics"] == {"page_faults": 6}
    assert setup.store.queries == [
        f'max by (node_id) ({LAST_REPORT}{{job=""}})',
        f'max by (node_id) ({LAST_REPORT}{{job=""}})',
        'max by (node_id) (page_faults{job=""})',
    ]


def test_what_is_stale_or_no_node_is_in_no_answer() -> None:
    """At the limit, beyond it, without a time, under a name that no node can have."""
    setup = Setup(
        fresh={LAST_REPORT: NOW - 59.9},
        stale={LAST_REPORT: NOW - 60, "page_faults": 1.0},
        old={LAST_REPORT: NOW - 250},
        timeless={"page_faults": 1.0},
    )
    setup.store.nodes |= {"<b>": {LAST_REPORT: NOW}, "": {LAST_REPORT: NOW}, "odd": {LAST_REPORT: float("nan")}}
    setup.store.nodes["fresh"]["page_faults"] = float("inf")
    assert [(one["node_id"], one["metrics"]) for one in setup.told("page_faults")] == [("fresh", {})]
    assert [bool(setup.node(node_id)) for node_id in ("fresh", "stale", "old", "timeless", "nobody")] == [
        True,
        *[False] * 4,
    ]
    asked = len(setup.store.asked)
    assert setup.node('"} or vector(1)') == setup.node("") == setup.node("x" * 254) == []
    assert len(setup.store.asked) == asked


def test_what_the_store_knows_of_nodes_fresh_or_not() -> None:
    """The newest report, and the series that it still answers; nothing of a node that it does not know."""
    setup = Setup(a={LAST_REPORT: NOW - 200.125, "page_faults": 1.0}, b={"page_faults": 1.0}, ab={LAST_REPORT: NOW})
    assert setup.known("a", "b", "c") == {
        "a": Known(NOW - 200.125, frozenset({LAST_REPORT, "page_faults"})),
        "b": Known(0.0, frozenset({"page_faults"})),
    }
    assert setup.known() == {}


def test_when_nodes_were_heard() -> None:
    """One series of each, in one query for as many as fit into it."""
    ids = [f"node-{index:03}.example" for index in range(300)]
    nodes: dict[str, Any] = {node_id: {LAST_REPORT: NOW - 5, "page_faults": 1.0} for node_id in ids[1:]}
    setup = Setup(**nodes)
    assert now(setup.fleet.heard(ids)) == dict.fromkeys(ids[1:], NOW - 5)
    assert len(setup.store.asked) == 1
    assert setup.store.queries[0].startswith(f'max by (node_id) ({LAST_REPORT}{{node_id=~"node-000[.]example|')
    assert setup.store.queries[0].endswith('|node-299[.]example",job=""})')


def test_who_is_silent() -> None:
    """The nodes whose newest report is from before a time, and when that was; the store is the one that compares."""
    setup = Setup(a={LAST_REPORT: NOW - 200.125}, b={LAST_REPORT: NOW - 60}, c={"page_faults": 1.0})
    setup.store.nodes["no id"] = {LAST_REPORT: NOW - 100}
    assert now(setup.fleet.silent(NOW - 60)) == {"a": NOW - 200.125}
    assert setup.store.queries == [f'max by (node_id) ({LAST_REPORT}{{job=""}}) < {NOW - 60:.3f}']
    setup.store.instead = QueryTimeout("too late")
    with pytest.raises(QueryTimeout):
        now(setup.fleet.silent(NOW))


def test_ids_and_labels_are_quoted() -> None:
    """A dot is a dot, what can be no id is not asked for, and a label's value may be anything."""
    nodes: dict[str, Any] = {"a.b": {LAST_REPORT: NOW}, "acb": {LAST_REPORT: NOW}}
    setup = Setup(("cluster", 'b"l\\ue'), ("job", "x"), **nodes)
    assert setup.known("a.b", 'x"y', "", "é").keys() == {"a.b"}
    names = "|".join((*FAMILIES, LAST_REPORT))
    assert setup.store.queries == [
        f'max by (__name__,node_id) ({{__name__=~"{names}",node_id=~"a[.]b",cluster="b\\"l\\\\ue",job="x"}})'
    ]
    assert setup.fleet.matchers == ',cluster="b\\"l\\\\ue",job="x"'


@pytest.mark.parametrize(("length", "most"), [(5, 200), (200, 39)])
def test_many_ids_are_several_queries(length: int, most: int) -> None:
    """Of 200 ids at the most, and of so many characters as every store takes."""
    ids = [f"{index:0{length}}" for index in range(450)]
    nodes: dict[str, Any] = {node_id: {LAST_REPORT: NOW} for node_id in ids}
    setup = Setup(**nodes)
    assert setup.known(*ids).keys() == set(ids)
    named = [query.count("|") - len(FAMILIES) + 1 for query in setup.store.queries]
    assert max(named) == most
    assert sum(named) == 450
    assert max(map(len, setup.store.queries)) < 16_384


@pytest.mark.parametrize("value", [-1.0, -1e300, 1e300, float("inf"), float("-inf"), float("nan")])
def test_what_is_no_time_of_a_report(value: float) -> None:
    """A store may have anything, and one node of that kind is nobody else's misfortune: it is no node."""
    setup = Setup(odd={LAST_REPORT: value, "page_faults": 1.0}, n1={LAST_REPORT: NOW - 1})
    assert [one["node_id"] for one in setup.told()] == ["n1"]
    assert setup.node("odd") == []
    assert now(setup.fleet.heard(["n1", "odd"])) == {"n1": NOW - 1}
    assert setup.known("odd")["odd"].last_report == 0
    assert "odd" not in now(setup.fleet.silent(NOW - 60))


def test_ids_of_dots_are_not_too_long_for_a_store() -> None:
    """A dot takes three characters: a query that no store takes would hold up the ends of all nodes for good."""
    ids = ["." * (253 - index) for index in range(40)]
    nodes: dict[str, Any] = {node_id: {LAST_REPORT: NOW} for node_id in ids}
    setup = Setup(**nodes)
    assert now(setup.fleet.heard(ids)).keys() == set(ids)
    assert max(map(len, setup.store.queries)) < 16_384


def test_a_query_is_about_one_moment_and_past_caches() -> None:
    """Every query of a look has the same time; VictoriaMetrics and Thanos are told to leave nothing out."""
    setup = Setup(n1={LAST_REPORT: NOW})
    setup.told("page_faults")
    for query in setup.store.asked:
        params = dict(query.params)
        assert (query.path, params["time"], params["nocache"]) == ("/api/v1/query", f"{NOW:.3f}", "1")
        assert (query.timeout, params["timeout"]) == (10, "10.000")
        assert params["partial_response"] == "false"
        assert not params.keys() & {"lookback_delta", "max_lookback"}
    patient = Setup(stale_after=900, n1={LAST_REPORT: NOW - 800})
    assert len(patient.told()) == 1
    params = dict(patient.store.asked[0].params)
    assert (params["lookback_delta"], params["max_lookback"]) == ("900s", "900s")


def store_error(status: int, error_type: str = "x", text: str = "hm") -> Answer:
    """Return an error as Prometheus has it."""
    return Answer(status, JSON, json.dumps({"status": "error", "errorType": error_type, "error": text}).encode())


@pytest.mark.parametrize(
    ("instead", "status", "said"),
    [
        (UpstreamUnavailable("nobody there"), 502, "nobody there"),
        (QueryTimeout("too late"), 504, "too late"),
        (Overloaded("too many"), 503, "too many"),
        (store_error(400, "bad_data", "parse error"), 502, "the store answers 400: parse error"),
        (store_error(422, "execution"), 502, "the store answers 422: hm"),
        (store_error(503, "timeout"), 504, "hm"),
        (store_error(503, "unavailable"), 503, "hm"),
        (store_error(429), 503, "hm"),
        (Answer(500, JSON, b"{"), 502, "the store answers 500"),
        (Answer(200, JSON, b"{}"), 502, "not what Prometheus' API promises"),
        (Answer(200, JSON, b'{"status":"success","data":{"resultType":"matrix","result":[]}}'), 502, "matrix"),
        (
            Answer(200, JSON, b'{"status":"success","data":{"resultType":"vector","result":[]},"isPartial":true}'),
            502,
            "partial",
        ),
    ],
)
def test_a_failure_is_never_an_empty_fleet(instead: Any, status: int, said: str) -> None:
    """Whatever is asked: known raises the fault of a query, the others one in the words of their routes."""
    setup = Setup(n1={LAST_REPORT: NOW})
    setup.store.instead = instead
    with pytest.raises(QueryFault, match=re.escape(said)) as raised:
        setup.known("n1")
    assert raised.value.status == status
    for ask in (setup.told, lambda: setup.told("page_faults"), lambda: setup.node("n1")):
        with pytest.raises(Fault, match=re.escape(said)) as fault:
            ask()
        assert fault.value.status == status
        assert fault.value.content == {"error": str(fault.value)}


def test_two_looks_at_a_time() -> None:
    """The third waits for its turn, who has left is not looked for; one that may not take long does not wait."""
    setup = Setup(n1={LAST_REPORT: NOW})
    hanging: list[Deferred[Answer]] = [Deferred(), Deferred()]
    came: list[Any] = []
    looks = []
    for answer in (*hanging, None, None):
        setup.store.instead = answer
        looks.append(Deferred.fromCoroutine(setup.fleet.look(())).addBoth(came.append))
    assert len(setup.store.asked) == 2
    looks[2].cancel()
    assert now(setup.fleet.look((), within=5)).entries()
    assert len(setup.store.asked) == 3
    hanging[0].errback(QueryTimeout("too late"))
    assert len(setup.store.asked) == 4
    assert came[0].type is CancelledError
    assert {getattr(one, "type", NodesAt) for one in came[1:]} == {NodesTimeout, NodesAt}
    looks[1].cancel()
    assert came[3].type is CancelledError
    assert len(setup.told()) == 1


def test_a_look_ends_in_time() -> None:
    """All its queries together; each has what is left."""
    setup = Setup(n1={LAST_REPORT: NOW})
    slow: Deferred[Answer] = Deferred()
    setup.store.instead = slow
    came: list[Any] = []
    Deferred.fromCoroutine(setup.fleet.look(FAMILIES, within=5)).addBoth(came.append)
    setup.clocks.now += 2
    setup.store.instead = None
    slow.callback(Answer(200, JSON, b'{"status":"success","data":{"resultType":"vector","result":[]}}'))
    assert [query.timeout for query in setup.store.asked] == [5, *[3] * len(FAMILIES)]
    late: Deferred[Answer] = Deferred()
    setup.store.instead = late
    Deferred.fromCoroutine(setup.fleet.look(FAMILIES, within=5)).addBoth(came.append)
    setup.clocks.now += 6
    late.callback(Answer(200, JSON, b'{"status":"success","data":{"resultType":"vector","result":[]}}'))
    assert came[1].type is NodesTimeout
