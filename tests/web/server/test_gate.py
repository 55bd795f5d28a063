"""Who is let in, over HTTP: 401 and 403, before a body is looked at, on the short way and on Twisted's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent

from orchestratord.promql.client import Answer
from orchestratord.security.gate import Gate, Role
from orchestratord.security.jwt import NodeTokenVerifier, parse_keys
from orchestratord.web.routes import find_route
from orchestratord.web.server.fast_path import Unanswered
from tests.fakes import NOW, body
from tests.tokens import AUDIENCE, ISSUER, claims, jwk, key_set, rsa_key, signed
from tests.wire import Wire, request

TOKENS = {role: f"{role}-token-0123456789" for role in Role}


def gated(**options: Any) -> Wire:
    """Return a wire whose every role has a token."""
    wire = Wire(gate=Gate({role: [token.encode()] for role, token in TOKENS.items()}), **options)
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    return wire


def bearer(role: Role) -> dict[str, Any]:
    """Return the header of who has a role."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def node_bound(*tokens: str) -> Wire:
    """Return a wire that takes reports of nodes with a token of their own, and of who has one of these."""
    verifying = NodeTokenVerifier(ISSUER, AUDIENCE, time=lambda: NOW, max_remembered=100)
    verifying.use(parse_keys(key_set(jwk("k1"))))
    return Wire(gate=Gate({Role.REPORT: [token.encode() for token in tokens]}, verifying))


def test_a_refusal_as_the_contract_has_it() -> None:
    """401 with the challenge, 403 without one, `{"error": ...}` in both; and counted as what they are."""
    wire = gated()
    unknown = wire.report(body("n1"), Authorization="Bearer nobody-0123456789")
    another = wire.report(body("n1"), **bearer(Role.ADMIN))
    nothing = wire.report(body("n1"))
    assert (nothing.status, unknown.status, another.status) == (401, 401, 403)
    assert nothing.headers["www-authenticate"] == "Bearer"
    assert unknown.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert "www-authenticate" not in another.headers
    assert [list(answer.json) for answer in (nothing, unknown, another)] == [["error"]] * 3
    assert wire.ids() == []
    assert (wire.counted("unauthorized"), wire.counted("forbidden")) == (2, 1)
    name = "orchestrator_http_requests_total"
    assert wire.metrics.value(name, route="/update_metrics", method="POST", code="401") == 2
    assert wire.metrics.value(name, route="/update_metrics", method="POST", code="403") == 1
    assert wire.report(body("n1"), **bearer(Role.REPORT)).status == 200


def test_promql_is_refused_in_prometheus_envelope() -> None:
    """GET and POST."""
    wire = gated()
    for method, form in (("GET", b""), ("POST", b"query=up")):
        answer = wire.ask(method, "/api/v1/query?query=up", form)
        assert (answer.status, answer.json["status"], answer.json["errorType"]) == (401, "error", "unauthorized")
        answer = wire.ask(method, "/query?q=up", form, **bearer(Role.SCRAPE))
        assert (answer.status, answer.json["status"], answer.json["errorType"]) == (403, "error", "forbidden")
    assert wire.upstreams.asked == []


@pytest.mark.parametrize("length", [{"Content_Length": "900000"}, {"Transfer_Encoding": "chunked"}])
@pytest.mark.parametrize("token", [{}, {"Authorization": "Bearer nobody-0123456789"}, bearer(Role.QUERY)])
def test_a_body_is_not_waited_for(length: dict[str, Any], token: dict[str, Any]) -> None:
    """The refusal is there when the head is; what still comes is dropped, and then the connection ends."""
    wire = gated()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", **length, **token))
    (answer,) = connection.answers()
    assert answer.status == (403 if token == bearer(Role.QUERY) else 401)
    assert answer.headers["connection"] == "close"
    connection.send(b"x" * 100_000)
    assert connection.channel.requests[0].content.getvalue() == b""
    wire.clock.advance(6)
    assert connection.closed


def test_a_short_report_is_not_waited_for_either() -> None:
    """Not even one that the short way would have held."""
    wire = gated()
    connection = wire.connect()
    connection.send(request("POST", "/update_metrics", body("n1"))[:-5])
    (answer,) = connection.answers()
    assert answer.status == 401
    assert connection.channel._held == b""


def test_the_gate_comes_before_all_other_checks() -> None:
    """Nobody learns without a token what is wrong with a request, nor that it is too long."""
    wire = gated(max_body=100)
    assert wire.report(b"nonsense", Content_Type="text/plain").status == 401
    assert wire.report(b"x" * 1000).status == 401
    assert wire.ask("PUT", "/update_metrics").status == 401
    assert wire.ask("GET", "/query").status == 401
    assert wire.ask("GET", "/nodes/unknown").status == 401


def test_a_connection_goes_on_after_a_refusal_without_a_body() -> None:
    """As it does for any other refusal: a client may try again with a token."""
    wire = gated()
    connection = wire.connect()
    connection.send(request("GET", "/nodes"))
    connection.send(request("GET", "/nodes", **bearer(Role.QUERY)))
    assert [answer.status for answer in connection.answers()] == [401, 200]


def test_head_and_other_methods() -> None:
    """HEAD is refused as GET is; DELETE of a node takes another role than looking at it; `delete` is no method."""
    wire = gated()
    wire.report(body("n1"), **bearer(Role.REPORT))
    assert wire.ask("GET", "/nodes/n1", **bearer(Role.QUERY)).status == 200
    assert wire.ask("DELETE", "/nodes/n1", **bearer(Role.QUERY)).status == 403
    assert wire.ask("delete", "/nodes/n1", **bearer(Role.ADMIN)).status == 501
    assert wire.ask("GET", "/nodes/n1", **bearer(Role.ADMIN)).status == 403
    assert wire.ids() == ["n1"]
    assert wire.ask("DELETE", "/nodes/n1", **bearer(Role.ADMIN)).status == 204
    connection = wire.connect()
    connection.send(request("HEAD", "/nodes"))
    assert connection.transport.value().startswith(b"HTTP/1.1 401 ")
    assert connection.transport.value().endswith(b"\r\n\r\n")


def test_a_route_that_no_rule_knows_is_not_there() -> None:
    """However it got into the tree: 404, not open to everybody."""
    wire = gated()
    for known in (True, False):
        asked: Any = SimpleNamespace(
            route=find_route(b"GET", b"/nodes") if known else None, path=b"/nodes", prepath=[b"nodes"], postpath=[]
        )
        found = wire.site.resource.getChildWithDefault(b"nodes", asked)
        assert (type(found).__name__ == "KleinResource") == known


PIECES = (
    *(
        "/",
        "//",
        "/./",
        "/../",
        "/%2E/",
        "%2f",
        "%2F",
        "\\",
        "..",
        "%2e%2e",
        ".",
        ";",
        "?",
        "#",
        "%00",
        "%ff",
        "%25",
        "%3f",
        "http://h",
    ),
    *(
        "nodes",
        "%6eodes",
        "Nodes",
        "n1",
        "metrics",
        "%6Detrics",
        "update_metrics",
        "api",
        "v1",
        "query",
        "label",
        "-/ready",
    ),
)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "DELETE", "delete", "PUT", "OPTIONS", "PATCH"]),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join).map("/".__add__),
    st.sampled_from([None, *Role]),
)
@settings(max_examples=600)
def test_no_spelling_is_a_way_round(method: str, path: str, role: Role | None) -> None:
    """Whatever a path and a method look like, a token does what its role may, and nothing else."""
    wire = gated()
    wire.report(body("n1"), **bearer(Role.REPORT))
    connection = wire.connect()
    connection.send(request(method, path, **({} if role is None else bearer(role))))
    wire.clock.pump([0] * 5)
    data = connection.transport.value()
    assert wire.ids() == ([] if role is Role.ADMIN and b" 204 " in data[:20] else ["n1"])
    if role is not Role.QUERY:
        assert b'"n1"' not in data
        assert wire.upstreams.asked == []
    if role is not Role.SCRAPE:
        assert b"orchestrator_nodes" not in data
        assert b"fallback" not in data


def test_what_is_always_open() -> None:
    """Probes, and the list of endpoints."""
    wire = gated()
    for path in ("/", "/-/healthy", "/-/ready"):
        assert wire.ask("GET", path).status == 200
    assert wire.ask("GET", "/no/such/path").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        f"Authorization: Bearer {TOKENS[Role.REPORT]}\r\nAuthorization: Bearer {TOKENS[Role.REPORT]}",
        f"Authorization: Bearer {TOKENS[Role.QUERY]}\r\nAuthorization: Bearer {TOKENS[Role.REPORT]}",
        f"Authorization: Bearer {TOKENS[Role.REPORT]}\r\nauthorization: Bearer x",
        f"X-Authorization: Bearer {TOKENS[Role.REPORT]}",
        f"Authorization: Bearer\r\n {TOKENS[Role.REPORT]}",
    ],
)
def test_one_authorization_header_and_no_more(headers: str) -> None:
    """Two are none, whatever is in them, and none is folded."""
    connection = gated().connect()
    data = body("n1")
    connection.send(
        f"POST /update_metrics HTTP/1.1\r\nHost: x\r\n{headers}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    (answer,) = connection.answers()
    assert answer.status == (400 if "\n " in headers else 401)


HEADERS = [
    {},
    {"Authorization": f"Bearer {TOKENS[Role.REPORT]}"},
    {"authorization": f"Bearer {TOKENS[Role.REPORT]}"},
    {"Authorization": f"bearer  {TOKENS[Role.REPORT]}"},
    {"Authorization": f" Bearer {TOKENS[Role.REPORT]} "},
    {"Authorization": f"Bearer {TOKENS[Role.QUERY]}"},
    {"Authorization": "Bearer nobody-0123456789"},
    {"Authorization": "Basic bm9ib2R5Og=="},
    {"Authorization": ""},
    {"Authorization": "a\tb"},
    {"Authorization": "a\x00b"},
    {"Authorization": "a\nContent-Length: 3"},
    {"Authorization": "a\rb"},
    {"Authorization": "schlüssel"},
    {"Authorization": f"Bearer {TOKENS[Role.REPORT]}", "Connection": "close"},
]


@pytest.mark.parametrize("shut", [True, False])
@pytest.mark.parametrize("headers", HEADERS, ids=[ascii(next(iter(headers.items()), None)) for headers in HEADERS])
@pytest.mark.parametrize("data", [body("n1", page_faults=3), b"nonsense"])
def test_both_ways_let_in_the_same(headers: dict[str, str], data: bytes, shut: bool) -> None:
    """Status, body, connection, what is stored and what is counted, with tokens configured and without."""
    seen = []
    for twisted in (False, True):
        wire = gated() if shut else Wire()
        if twisted:
            wire.fast_path.answer = lambda *_, **__: Unanswered.FALL_THROUGH  # type: ignore[method-assign]  # to compare
        connection = wire.connect()
        connection.send(request("POST", "/update_metrics", data, Content_Type="application/json", **headers))
        answers = [
            (answer.status, answer.body, answer.headers.get("connection"), answer.headers.get("www-authenticate"))
            for answer in connection.answers()
        ]
        counted = [wire.counted(outcome) for outcome in ("accepted", "invalid", "unauthorized", "forbidden")]
        seen.append((answers, connection.closed, wire.ids(), counted))
    assert seen[0] == seen[1]


class TestShortWay:
    """Reports and queries with a token stay on the short way."""

    def test_a_report_with_a_token_takes_it(self) -> None:
        """With tokens configured and without."""
        for wire in (gated(), Wire()):
            connection = wire.connect()
            connection.send(request("POST", "/update_metrics", body("n1"), **bearer(Role.REPORT)))
            assert connection.channel._on_fast_path
            assert wire.ids() == ["n1"]

    def test_a_token_for_each_node_is_one_head(self) -> None:
        """A fleet with a JWT each does not drive the remembered heads out."""
        wire = node_bound()
        for number in range(20):
            token = signed(claims(f"n{number:02}", now=NOW))
            connection = wire.connect()
            connection.send(request("POST", "/update_metrics", body(f"n{number:02}"), Authorization=f"Bearer {token}"))
            assert connection.channel._on_fast_path
        assert len(wire.ids()) == 20
        assert len(wire.fast_path._known) == 1

    @pytest.mark.parametrize("name", ["authorization", "AUTHORIZATION", "X-Authorization"])
    def test_a_head_with_a_token_is_not_remembered(self, name: str) -> None:
        """Where the header is spelt so that it goes Twisted's way, it takes no place from the others."""
        wire = gated()
        wire.report(body("n1"), **{name: f"Bearer {TOKENS[Role.REPORT]}"})
        assert not wire.fast_path._known

    def test_the_token_is_looked_at_each_time(self) -> None:
        """A head that was let in is not when its token has gone, on the same connection."""
        wire = gated()
        connection = wire.connect()
        connection.send(request("POST", "/update_metrics", body("n1"), **bearer(Role.REPORT)))
        wire.gate.use(Role.REPORT, [b"a-newer-token-012345"])
        connection.send(request("POST", "/update_metrics", body("n2"), **bearer(Role.REPORT)))
        assert [answer.status for answer in connection.answers()] == [200, 401]
        assert wire.ids() == ["n1"]
        assert wire.report(body("n3"), Authorization="Bearer a-newer-token-012345").status == 200


class TestNodeBound:
    """A node's token is for that node's reports alone."""

    @pytest.mark.parametrize("twisted", [False, True])
    def test_its_own_report(self, twisted: bool) -> None:
        """On both ways; alone, and in a batch."""
        wire = node_bound()
        headers = {"Authorization": f"Bearer {signed(claims('n1', now=NOW))}", **({"X_Other": "1"} if twisted else {})}
        assert wire.report(body("n1"), **headers).status == 200
        assert wire.report(b"[" + body("n1") + b"]", **headers).status == 200

    @pytest.mark.parametrize("twisted", [False, True])
    @pytest.mark.parametrize(
        ("data", "where"),
        [
            (body("n2"), "$.node_id"),
            (b" [" + body("n2") + b"]", "$[0].node_id"),
            (b"[" + b",".join([body("n1")] * 3 + [body("n2"), body("n1")]) + b"]", "$[3].node_id"),
            (b"[" + b",".join([body("n1")] * 2000 + [body("n2")]) + b"]", "$[2000].node_id"),
        ],
    )
    def test_another_nodes_report(self, data: bytes, where: str, twisted: bool) -> None:
        """403 that says which; of a batch nothing is stored."""
        wire = node_bound()
        connection = wire.connect()
        headers = {"Authorization": f"Bearer {signed(claims('n1', now=NOW))}", **({"X_Other": "1"} if twisted else {})}
        connection.send(request("POST", "/update_metrics", data, **headers))
        wire.clock.pump([0] * 20)
        (answer,) = connection.answers()
        assert answer.status == 403
        assert answer.json["error"].endswith(f"- at {where}")
        assert "kubernetes.io/node/name" in answer.json["error"]
        assert wire.ids() == []
        assert wire.counted("forbidden") == 1

    def test_a_relay_may_report_for_any(self) -> None:
        """With a token of the role's file."""
        wire = node_bound(TOKENS[Role.REPORT])
        data = b"[" + body("n1") + b"," + body("n2") + b"]"
        assert wire.report(data, **bearer(Role.REPORT)).status == 200
        assert wire.ids() == ["n1", "n2"]

    def test_a_key_that_is_still_fetched(self) -> None:
        """503 with Retry-After, not 401; counted as such."""
        verifying = NodeTokenVerifier(ISSUER, AUDIENCE, time=lambda: NOW, max_remembered=100)
        verifying.wanted = lambda: True
        wire = Wire(gate=Gate({}, verifying))
        answer = wire.report(body("n1"), Authorization=f"Bearer {signed(claims(now=NOW), rsa_key(2))}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert wire.counted("unverified") == 1


class TestLog:
    """The access log holds no token."""

    def lines(self, wire: Wire, *requests: bytes) -> str:
        """Return what is logged while these come, each on a connection of its own."""
        with capturedLogs() as logs:
            for data in requests:
                wire.connect().send(data)
        return "\n".join(formatEvent(event) for event in logs)

    def test_a_refusal_has_its_line(self) -> None:
        """With its code, and one that says why."""
        text = self.lines(
            gated(access_log=True), request("POST", "/update_metrics", body("n1")), request("GET", "/nodes")
        )
        assert '"POST /update_metrics" 401' in text
        assert '"GET /nodes" 401' in text
        assert text.count("refused: this requires a token of the role") == 2

    def test_no_header_in_it(self) -> None:
        """Whether it lets in or not."""
        token = TOKENS[Role.REPORT]
        wire = gated(access_log=True)
        text = self.lines(
            wire, *(request("POST", path, body("n1"), **bearer(Role.REPORT)) for path in ("/update_metrics", "/query"))
        )
        assert " 200 " in text
        assert " 403 " in text
        assert token not in text
