"""The pages over the wire: who gets a page, its content, and what cannot be injected into it."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from twisted.internet.defer import Deferred

from orchestratord.errors import QueryTimeout, UpstreamUnavailable
from orchestratord.nodes.families import BUILT_IN
from orchestratord.promql.client import Answer as Fetched
from orchestratord.security.gate import Gate, Role
from orchestratord.web.pages.query.resource import MAX_ANSWER_BYTES
from orchestratord.web.pages.rendering import MAX_RENDERING
from tests.fakes import NOW, body, report
from tests.web.pages.browser_view import BROWSER, JSON, look, matrix, text, wired
from tests.wire import request

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;"


def test_programs_get_what_they_always_got() -> None:
    """The index at / and the JSON of a node, byte for byte, with a Vary header."""
    wire = wired("a")
    for accept in ("*/*", "application/json, text/plain", ""):
        index, node = wire.ask("GET", "/", Accept=accept), wire.ask("GET", "/nodes/a", Accept=accept)
        assert index.headers["content-type"] == "text/plain; charset=utf-8"
        assert index.body.startswith(b"orchestratord ")
        assert node.headers["content-type"] == "application/json"
        assert node.json["metrics"] == {"page_faults": 52103, "mem_bytes_allocated": 2_000_000_000}
        assert (index.headers["vary"], node.headers["vary"]) == ("Accept", "Accept")


def test_no_node_yet() -> None:
    """The page says so, and shows how to send a report."""
    answer = look(wired(), "/")
    assert answer.status == 200
    assert "No node has reported yet." in text(answer)
    assert "curl" in text(answer)


def test_all_is_well() -> None:
    """The first line says so. The nodes are links, coloured by the requested metric."""
    answer = look(wired("n2", "n10"), "/?metric=page_faults")
    assert "All 2 nodes report, and Prometheus answers." in text(answer)
    assert re.findall(rb'href="(/nodes/n[^"]*)"', answer.body)[:2] == [b"/nodes/n2", b"/nodes/n10"]
    assert "52.1 k faults" in text(answer)
    assert 'aria-current="true"' in re.findall(r"<a[^>]*>page_faults", answer.body.decode())[0]


def test_what_is_not_well_comes_first() -> None:
    """A late node; a table that is nearly full; a Prometheus that is down; a daemon that stops, or is not healthy."""
    wire = wired("a", "b", max_nodes=20)
    wire.clocks.now += 45
    wire.report(body("b"))
    assert "1 of 2 nodes is late with a report." in text(look(wire, "/"))
    for index in range(18):
        wire.report(body(f"n{index}"))
    wire.clock.advance(3)
    assert "The table is nearly full: 20 nodes of 20." in text(look(wire, "/"))
    wire.clock.advance(20)
    wire.upstreams.answer = UpstreamUnavailable("no Prometheus could answer: <b>refused</b>")
    said = text(look(wire, "/"))
    assert "Prometheus does not answer; reports are still accepted." in said
    assert "&lt;b&gt;refused&lt;/b&gt;" in said
    wire.draining = True
    wire.clock.advance(3)
    assert "is stopping" in text(look(wire, "/"))
    wire.sick = "the sweep sleeps"
    wire.clock.advance(3)
    assert "not healthy: the sweep sleeps" in text(look(wire, "/"))


def test_a_fleet_that_has_gone_silent() -> None:
    """This is not the same as a system without any report yet."""
    wire = wired("a", "b", "c")
    wire.clocks.now += 60
    wire.nodes.expire(wire.clocks.monotonic(), 100)
    assert "No node reports any more; 3 have gone silent in the last hour." in text(look(wire, "/"))


def test_a_prometheus_that_hangs_holds_up_no_page() -> None:
    """The page is answered after a short wait; a later page has the result."""
    wire = wired("a")
    hanging: Deferred[Any] = Deferred()
    wire.upstreams.answer = hanging
    connection = wire.connect()
    connection.send(request("GET", "/", Accept=BROWSER))
    assert connection.answers() == []
    wire.clock.advance(1)
    (answer,) = connection.answers()
    assert "The one node reports." in text(answer)
    assert "not queried yet" in text(answer)
    hanging.errback(QueryTimeout("no whole answer within 3 s"))
    wire.clock.advance(2)
    assert "Prometheus does not answer" in text(look(wire, "/"))


def test_prometheus_is_asked_only_while_somebody_looks() -> None:
    """And at most once every ten seconds."""
    wire = wired("a")
    for _ in range(9):
        look(wire, "/")
        wire.clock.advance(1)
    assert len(wire.upstreams.asked) == 1
    wire.clock.advance(3600)
    assert len(wire.upstreams.asked) == 1
    look(wire, "/")
    assert len(wire.upstreams.asked) == 2


def test_a_metric_that_there_is_not() -> None:
    """A page says so, with status 400."""
    answer = look(wired("a"), f"/?metric={EVIL.replace(' ', '+').replace('&', '%26')}")
    assert answer.status == 400
    assert "no such metric" in text(answer)


@pytest.mark.parametrize("count", [5_000, 100_000])
def test_a_large_fleet_is_a_bounded_page(count: int) -> None:
    """The number of cells has a limit, and the compressed page is small."""
    wire = wired(max_nodes=2 * count)
    reports = [report(f"node-{index:06}", page_faults=index) for index in range(1000)]
    kind = type(reports[0])
    for start in range(0, count, 1000):
        wire.nodes.update(
            [kind(f"node-{start + at:06}", one.values, None, NOW, ()) for at, one in enumerate(reports)],
            wire.clocks.monotonic(),
        )
    answer = look(wire, "/?metric=page_faults")
    assert f"All {count:,} nodes report" in text(answer)
    assert f"up to {count // 2000 + (count % 2000 > 0)} neighbouring nodes" in text(answer)
    assert 1500 < answer.body.count(b'href="/nodes/node-') <= 2010
    packed = look(wire, "/?metric=page_faults", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < 60_000 < len(gzip.decompress(packed.body))


def test_ten_operators_cost_as_much_as_one() -> None:
    """Requests within two seconds share one page, and the number of pages being rendered has a limit."""
    wire = wired("a")
    pending: list[Deferred[Any]] = []
    works: list[Any] = []

    def later(work: Any) -> Deferred[Any]:
        works.append(work)
        pending.append(Deferred())
        return pending[-1]

    wire.in_thread = later
    same = [wire.connect() for _ in range(10)]
    for connection in same:
        connection.send(request("GET", "/", Accept=BROWSER))
    assert len(pending) == 1
    others = [wire.connect() for _ in range(MAX_RENDERING)]
    for connection, name in zip(others, BUILT_IN.names[1:], strict=False):
        connection.send(request("GET", f"/?metric={name}", Accept=BROWSER))
    (refused,) = others[-1].answers()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    same[0].leave()
    pending[0].callback(works[0]())
    assert [connection.answers()[0].status for connection in same[1:]] == [200] * 9


def test_a_node() -> None:
    """Each metric with a line of its last hour; the age of the report, and when the node is removed."""
    wire = wired("n1")
    points = [(NOW + 5 - 3600 + 30 * index, str(1000 + index)) for index in range(121)]
    wire.upstreams.answer = matrix(({"__name__": "page_faults"}, points))
    wire.clocks.now += 5
    answer = look(wire, "/nodes/n1")
    said = text(answer)
    assert "Last report 5 s ago" in said
    assert "removed in 55 s" in said
    assert "52.1 k faults 1 times the fleet's median of 52.1 k faults last hour: 1 k to 1.12 k" in said
    assert "not reported" in said
    assert answer.body.count(b'<path class="line"') == 1
    (asked,) = wire.upstreams.asked
    assert 'node_id="n1"' in dict(asked.params)["query"]
    assert (asked.path, asked.timeout) == ("/api/v1/query_range", 2.0)


def test_a_node_without_a_prometheus() -> None:
    """The page says why there are no lines, and shows everything else."""
    wire = wired("n1")
    wire.upstreams.answer = UpstreamUnavailable("no Prometheus could answer: refused")
    answer = look(wire, "/nodes/n1")
    assert answer.status == 200
    assert "The last hour is not available: no Prometheus could answer: refused" in text(answer)
    assert "52.1 k faults" in text(answer)
    wire.clock.advance(3)
    wire.upstreams.answer = Fetched(422, JSON, b'{"error":"query <limit> hit"}')
    assert "query &lt;limit&gt; hit" in text(look(wire, "/nodes/n1"))
    wire.clock.advance(3)
    wire.upstreams.answer = Fetched(200, JSON, b'{"data": "nonsense"}')
    assert "is not what its API promises" in text(look(wire, "/nodes/n1"))


@pytest.mark.parametrize("name", ["nobody", "%22%3E%3Cscript%3Ealert(1)", "a%00%1b%E2%80%AEb", "x" * 3000])
def test_a_node_that_there_is_not(name: str) -> None:
    """A page with status 404 for any name; Prometheus is not queried."""
    wire = wired()
    answer = look(wire, f"/nodes/{name}")
    assert answer.status == 404
    assert "No fresh report from this node." in text(answer)
    assert len(answer.body) < 10_000
    assert wire.upstreams.asked == []


def test_a_node_of_every_character_that_an_id_may_have() -> None:
    """It is shown, linked and queried unchanged; `..` gets no link."""
    name = "aZ0._:-"
    wire = wired(name, "..")
    answer = look(wire, "/")
    assert b'href="/nodes/aZ0._%3A-"' in answer.body
    assert b'href="/nodes/.."' not in answer.body
    assert look(wire, "/nodes/aZ0._%3A-").status == 200
    assert f'node_id="{name}"' in dict(wire.upstreams.asked[-1].params)["query"]


def test_a_query() -> None:
    """A chart and a table, with links to share."""
    wire = wired()
    wire.upstreams.answer = matrix(
        ({"__name__": "page_faults", "node_id": "a"}, [(NOW - 15, "7"), (NOW, "9")]),
        ({"__name__": "page_faults", "node_id": EVIL}, [(NOW, "NaN")]),
    )
    answer = look(wire, "/graph?q=topk(2,page_faults)&range=6h")
    assert answer.status == 200
    assert "2 series" in text(answer)
    assert "a 9 7 8 9" in text(answer)
    (picture,) = re.findall(r'<img[^>]*src="([^"]*)"', answer.body.decode().replace("&amp;", "&"))
    assert picture.startswith("/graph.svg?q=topk%282%2Cpage_faults%29&start=")
    drawn = wire.ask("GET", picture)
    assert (drawn.status, drawn.headers["content-type"]) == (200, "image/svg+xml")
    assert drawn.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    ET.fromstring(drawn.body)  # noqa: S314 - our own
    assert b"<script" not in drawn.body
    assert len(wire.upstreams.asked) == 1, "page and picture share one answer"


def test_a_hostile_query_is_shown_and_not_obeyed() -> None:
    """In the form, the title and the links; the same for Prometheus' error text."""
    wire = wired()
    wire.upstreams.answer = Fetched(
        400, JSON, json.dumps({"status": "error", "error": f"parse error: {EVIL}"}).encode()
    )
    quoted = "".join(f"%{byte:02x}" for byte in EVIL.encode())
    answer = look(wire, f"/graph?q={quoted}")
    assert answer.status == 400
    assert "parse error: " in text(answer)
    assert 'aria-invalid="true"' in answer.body.decode()
    wire.clock.advance(6)
    wire.upstreams.answer = matrix(({EVIL: EVIL}, [(NOW, "1")]))
    assert look(wire, f"/graph?q={quoted}").status == 200


@pytest.mark.parametrize(
    ("path", "fault", "status", "said"),
    [
        ("/graph?q=up&range=soon", None, 400, "invalid parameter 'range'"),
        ("/graph?q=" + "x" * 1001, None, 400, "longer than 1000 characters"),
        ("/graph?q=up", UpstreamUnavailable("nobody there"), 502, "nobody there"),
        ("/graph?q=up", QueryTimeout("too late"), 504, "too late"),
        ("/graph?q=up", Fetched(200, JSON, b"x" * (MAX_ANSWER_BYTES + 1)), 422, "too large for a chart"),
        ("/graph?q=up", Fetched(200, JSON, b"{}"), 502, "not what its API promises"),
    ],
)
def test_a_failure_is_never_a_200(path: str, fault: Any, status: int, said: str) -> None:
    """The page has the status and the error text; the SVG route answers with Prometheus' error envelope."""
    wire = wired()
    wire.upstreams.answer = fault
    answer = look(wire, path)
    assert (answer.status, said in text(answer).replace("&#39;", "'")) == (status, True)
    picture = wire.ask("GET", path.replace("/graph", "/graph.svg"))
    assert (picture.status, picture.json["status"]) == (status, "error")
    assert said in picture.json["error"]


def test_what_prometheus_refuses_is_passed_on_with_the_picture() -> None:
    """With its status and its body, byte for byte."""
    wire = wired()
    wire.upstreams.answer = Fetched(422, JSON, b'{"status":"error","error":"hm"}')
    answer = wire.ask("GET", "/graph.svg?q=up")
    assert (answer.status, answer.body) == (422, b'{"status":"error","error":"hm"}')


def test_an_empty_box() -> None:
    """Without a query the page shows examples."""
    answer = look(wired(), "/graph")
    assert answer.status == 200
    assert "For example" in text(answer)


def test_files_are_kept_for_ever_under_their_mark() -> None:
    """With another hash or without one, the browser revalidates with the ETag."""
    wire = wired()
    front = look(wire, "/").body.decode()
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        (path,) = set(re.findall(rf'"(/static/{name}\?v=\w+)"', front))
        answer = wire.ask("GET", path)
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]
        again = wire.ask("GET", f"/static/{name}", If_None_Match=answer.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert wire.ask("GET", f"/static/{name}").headers["cache-control"] == "no-cache"
    assert wire.ask("GET", "/static/pages.py").status == 404


def test_pages_take_the_role_query() -> None:
    """As a bearer token, or as the password in a browser; the index stays open."""
    token = "query-token-0123456789"
    wire = wired("a", gate=Gate({Role.QUERY: [token.encode()], Role.ADMIN: [b"admin-token-0123456789"]}))
    basic = "Basic YW55Ym9keTpxdWVyeS10b2tlbi0wMTIzNDU2Nzg5"
    for path in ("/", "/graph", "/nodes/a"):
        refused = wire.ask("GET", path, Accept=BROWSER)
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == 'Basic realm="orchestratord", charset="UTF-8"'
        assert wire.ask("GET", path, Accept=BROWSER, Authorization=basic).status == 200
        assert wire.ask("GET", path, Accept=BROWSER, Authorization=f"Bearer {token}").status == 200
        assert wire.ask("GET", path, Accept=BROWSER, Authorization="Basic YTpi").status == 401
        assert wire.ask("GET", path, Accept=BROWSER, Authorization="Basic !").status == 401
    assert wire.ask("GET", "/").status == 200
    assert wire.ask("GET", "/static/page.css").status == 200
    program = wire.ask("GET", "/nodes/a")
    assert (program.status, program.headers["www-authenticate"]) == (401, "Bearer")
    assert wire.ask("GET", "/graph.svg?q=up").status == 401
    assert wire.ask("GET", "/graph.svg?q=up", Authorization=basic).status == 200


def test_a_password_changes_nothing() -> None:
    """Another site can make a browser send the password, so changes need a bearer token."""
    wire = wired("a", gate=Gate({Role.QUERY: [b"query-token-0123456789"], Role.ADMIN: [b"query-token-0123456789"]}))
    basic = "Basic YW55Ym9keTpxdWVyeS10b2tlbi0wMTIzNDU2Nzg5"
    assert wire.ask("DELETE", "/nodes/a", Authorization=basic).status == 401
    form = wire.ask("POST", "/query", b"q=up", Authorization=basic, Content_Type="application/x-www-form-urlencoded")
    assert form.status == 401
