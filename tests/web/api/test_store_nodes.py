"""/nodes, the pages and DELETE where a store knows the nodes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable
from orchestratord.nodes.families import BUILT_IN, LAST_REPORT
from orchestratord.promql.client import Answer as Fetched
from orchestratord.remote_write.node_directory import StoreDirectory
from tests.fakes import NOW, body
from tests.remote_write.fake_store import FakeStore
from tests.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

BROWSER = "text/html,*/*;q=0.8"


def wired(store: FakeStore) -> Wire:
    """Return a wire with a store of its own for the nodes; its table has one that the store does not know."""

    def fleet(wire: Wire) -> StoreDirectory:
        return StoreDirectory(
            store,
            BUILT_IN,
            [("cluster", "blue")],
            wire.clocks,
            stale_after=60,
            query_timeout=10,
            in_thread=lambda work: wire.in_thread(work),  # noqa: PLW0108 - as the wire has it
        )

    wire = Wire(fleet=fleet)
    wire.upstreams.answer = UpstreamUnavailable("no history")
    assert wire.report(body("mine", page_faults=1)).status == 200
    return wire


def look(wire: Wire, path: str) -> tuple[Answer, str]:
    """Return an answer to a browser, and what is read on it."""
    answer = wire.ask("GET", path, Accept=BROWSER)
    plain = re.sub(r"<[^>]+>", " ", answer.body.decode().partition("<main")[2])
    return answer, " ".join(plain.replace("\N{NO-BREAK SPACE}", " ").split())


def known(**more: Any) -> FakeStore:
    """Return a store that knows two nodes, and these."""
    return FakeStore(
        b={LAST_REPORT: NOW - 12.5, "page_faults": 52103.0}, a={LAST_REPORT: NOW - 5, "page_faults": 9.0}, **more
    )


def test_nodes_are_what_the_store_knows() -> None:
    """Sorted, in the shapes that clients know; this replica's table says nothing."""
    wire = wired(known())
    expected = {
        "node_id": "b",
        "last_report": NOW - 12.5,
        "age_seconds": 12.5,
        "expires_in_seconds": 47.5,
        "metrics": {"page_faults": 52103},
    }
    assert wire.ask("GET", "/nodes").json == {"nodes": ["a", "b"]}
    assert wire.ask("GET", "/nodes?details=true").json["nodes"][1] == expected
    assert wire.ask("GET", "/nodes/b").json == expected
    assert wire.ask("GET", "/nodes/mine").json == {"error": "no fresh report of node 'mine'"}
    assert wire.ask("GET", "/nodes/%22%7D").status == 404


@pytest.mark.parametrize(
    ("fault", "status"), [(UpstreamUnavailable("gone"), 502), (Overloaded("busy"), 503), (QueryTimeout("late"), 504)]
)
def test_a_store_that_does_not_say_is_no_empty_fleet(fault: Exception, status: int) -> None:
    """The status of a failed query, in the words of the other routes; a browser gets a page of it."""
    store = known()
    store.instead = fault
    wire = wired(store)
    for path in ("/nodes", "/nodes?details=true", "/nodes/b"):
        answer = wire.ask("GET", path)
        assert (answer.status, answer.json) == (status, {"error": str(fault)})
        assert ("retry-after" in answer.headers) == (status == 503)
    page, said = look(wire, "/nodes/b")
    assert (page.status, str(fault) in said) == (status, True)
    store.instead = None
    assert [wire.ask("GET", "/nodes").status for _ in range(20)] == [200] * 20


def test_the_front_page_shows_the_store() -> None:
    """What it knows, and what is only this replica's under that name."""
    wire = wired(known())
    page, said = look(wire, "/?metric=page_faults")
    assert page.status == 200
    assert "The store does not answer; reports are still accepted." in said
    assert "Nodes 2 in the store; 1 at this replica" in said
    assert "none refused, this replica" in said
    assert 'href="/nodes/b"' in page.body.decode()
    assert 'href="/nodes/mine"' not in page.body.decode()


def test_the_front_page_without_a_store() -> None:
    """It comes, and says why there is no picture; nobody is told to install a profiler."""
    store = known()
    store.instead = UpstreamUnavailable("<b>refused</b>")
    _, said = look(wired(store), "/")
    assert "The store does not list the nodes; reports are still accepted." in said
    assert "&lt;b&gt;refused&lt;/b&gt;" in said
    assert "Nodes unknown in the store" in said
    assert "Getting started" not in said


@pytest.mark.parametrize("store", [known(), FakeStore()])
def test_the_front_page_while_nothing_is_delivered(store: FakeStore) -> None:
    """It says so, and why; with nodes of other replicas, and while there are none: a profiler would not help."""
    wire = wired(store)
    wire.upstreams.answer = Fetched(200, b"application/json", b"{}")
    wire.undelivered = "answered 404: <b>enable the receiver</b>"
    _, said = look(wire, "/")
    assert "This replica cannot deliver its reports to the store." in said
    assert "The store does not accept reports: answered 404: &lt;b&gt;enable the receiver&lt;/b&gt;" in said
    assert "Getting started" not in said


def test_a_store_without_nodes() -> None:
    """The sentence is about the store; when this replica hears no more of a node, nobody does."""
    wire = wired(FakeStore())
    wire.upstreams.answer = Fetched(200, b"application/json", b"{}")
    said = look(wire, "/")[1]
    assert "The store has no node that reports." in said
    assert "No node reports any more" not in said
    assert "Gone 0 in the last hour, this replica" in said
    wire.clocks.now += 60
    wire.nodes.expire(wire.clocks.monotonic(), 100)
    wire.clock.advance(3)
    said = look(wire, "/")[1]
    assert "No node reports any more; 1 has gone silent in the last hour." in said
    assert "Getting started" not in said


def test_a_node_that_reports_to_another_replica_now() -> None:
    """It is not gone: the store has it, whatever this replica has heard."""
    wire = wired(known())
    wire.upstreams.answer = Fetched(200, b"application/json", b"{}")
    wire.report(body("b"))
    wire.clocks.now += 60
    wire.nodes.expire(wire.clocks.monotonic(), 100)
    wire.clocks.now -= 60
    assert [gone["node_id"] for gone in wire.ask("GET", "/nodes?gone=true").json["gone"]] == ["mine"]
    said = look(wire, "/")[1]
    assert "Gone in the last hour: 1 node" in said
    assert "These nodes reported to this replica; the store has no newer report from them." in said


def test_the_page_of_a_node() -> None:
    """Its age is the store's; its past is asked for by the external labels, and so is its graph."""
    wire = wired(known())
    page, said = look(wire, "/nodes/b")
    assert page.status == 200
    assert "Last report 12 s ago" in said
    assert "52.1 k faults" in said
    (asked,) = wire.upstreams.asked
    assert 'node_id="b",cluster="blue",job=""' in dict(asked.params)["query"]
    assert "cluster%3D%22blue%22" in page.body.decode()
    assert look(wire, "/nodes/mine")[0].status == 404


@pytest.mark.parametrize("elsewhere", [False, True])
def test_forgetting_is_up_to_whoever_can(elsewhere: bool) -> None:
    """204 or 404 by what it says, and the status of a query that it could not do without."""
    wire = wired(known())
    asked: list[str] = []
    outcome: bool | Exception = True

    async def forget(node_id: str) -> bool:
        asked.append(node_id)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    wire.forget = forget
    ask: Callable[..., Answer] = wire.admin_wire().ask if elsewhere else wire.ask
    assert ask("DELETE", "/nodes/b").status == 204
    outcome = False
    assert ask("DELETE", "/nodes/c").json == {"error": "no fresh report of node 'c'"}
    outcome = UpstreamUnavailable("gone")
    answer = ask("DELETE", "/nodes/d")
    assert (answer.status, answer.json) == (502, {"error": "gone"})
    assert asked == ["b", "c", "d"]
