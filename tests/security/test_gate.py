"""Who may do what: the table of routes, the tokens of a file, and the gate."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from orchestratord.errors import Fault, Forbidden, QueryForbidden, QueryUnauthorized, Unauthorized
from orchestratord.security.gate import Gate, Role, Rule, cleaned, rule
from orchestratord.security.token_file import MAX_TOKEN
from orchestratord.web.api.klein_app import Api
from orchestratord.web.api.queries import HOT_QUERIES
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = {"/", "/-/healthy", "/-/ready", "/openapi.yaml", "/static/<name>"}
TOKENS = {role: [f"{role}-token-0123456789".encode()] for role in Role}


def routes() -> Iterator[tuple[str, str]]:
    """Yield the method and the path of everything that there is: Klein's map, the hot leaves and the exposition."""
    app: Any = Api.app
    for known in app.url_map.iter_rules():
        for method in known.methods:
            yield method, known.rule
    for path in Wire().site.hot:
        yield "POST", path.decode()
    yield "GET", "/metrics"


def a_path(pattern: str) -> bytes:
    """Return a path that a pattern of Klein's matches."""
    return "/".join("x" if part.startswith("<") else part for part in pattern.split("/")).encode()


@pytest.mark.parametrize(("method", "pattern"), sorted(set(routes())))
def test_every_route_has_a_role_or_is_open_on_purpose(method: str, pattern: str) -> None:
    """Whoever adds a route has to say who may have it; only probes and what describes the API are open."""
    decided = rule(method.encode(), a_path(pattern))
    assert decided is not None
    assert (decided.role is None) == (pattern in OPEN)


def test_the_routes_of_each_role() -> None:
    """As the issue has them: who reports, asks, scrapes, forgets."""
    assert rule(b"POST", b"/update_metrics") == Rule("/update_metrics", Role.REPORT)
    assert rule(b"GET", b"/metrics?name[]=up") == Rule("/metrics", Role.SCRAPE)
    for path in (*HOT_QUERIES, "/api/v1/series", "/nodes"):
        assert rule(b"GET", path.encode() + b"?q=1") == Rule(path, Role.QUERY)
    assert rule(b"GET", b"/api/v1/label/job/values") == Rule("/api/v1/label/<name>/values", Role.QUERY)
    assert rule(b"GET", b"/nodes/n1") == Rule("/nodes/<id>", Role.QUERY)
    assert rule(b"DELETE", b"/nodes/n1") == Rule("/nodes/<id>", Role.ADMIN)


@pytest.mark.parametrize("method", [b"delete", b"Delete", b"DELETE"])
def test_a_method_counts_in_any_case(method: bytes) -> None:
    """Klein takes `delete` for DELETE, and so must the rule."""
    decided = rule(method, b"/nodes/n1")
    assert decided is not None
    assert decided.role is Role.ADMIN


@pytest.mark.parametrize(
    ("target", "role"),
    [
        (b"/%6detrics", Role.SCRAPE),
        (b"/%6Eodes", Role.QUERY),
        (b"/nodes%2fn1", Role.QUERY),
        (b"/nodes/", Role.QUERY),
        (b"/nodes/a/b", Role.QUERY),
        (b"/update%5Fmetrics", Role.REPORT),
        (b"/api/v1%2Fseries", Role.QUERY),
    ],
)
def test_a_path_is_read_as_the_tree_reads_it(target: bytes, role: Role) -> None:
    """Another spelling of a path is no way round its role."""
    decided = rule(b"GET", target)
    assert decided is not None
    assert decided.role is role


@pytest.mark.parametrize(
    ("target", "clean"),
    [
        (b"//api/v1/query?query=a//b/", b"/api/v1/query?query=a//b/"),
        (b"/api//v1///query/", b"/api/v1/query"),
        (b"/api/./v1/%2e/query", b"/api/v1/query"),
        (b"/api/v1/../v1/%2E%2e/v1/.%2e/v1/query", b"/api/v1/query"),
        (b"/../../metrics", b"/metrics"),
        (b"//", b"/"),
        (b"/..?a", b"/?a"),
        (b"/nodes/n1/", b"/nodes/n1"),
        (b"/nodes/.n1/..n2/...", b"/nodes/.n1/..n2/..."),
        (b"/api/v1/label/a%2Fb%2f/values", b"/api/v1/label/a%2Fb%2f/values"),
        (b"/%252e%252e/%2F", b"/%252e%252e/%2F"),
        (b"/", b"/"),
        (b"*", b"*"),
        (b"", b""),
        (b"http://h//metrics", b"http://h//metrics"),
    ],
)
def test_a_path_is_cleaned(target: bytes, clean: bytes) -> None:
    """As Prometheus cleans it, but for an encoded slash; the query stays as it is."""
    assert cleaned(target) == clean
    assert cleaned(clean) == clean


@pytest.mark.parametrize("target", [b"/x", b"/%2Fmetrics", b"/metrics/x", b"/api/v1/admin/tsdb/snapshot"])
def test_what_is_no_route_has_no_rule(target: bytes) -> None:
    """And is answered 404, whatever a tree may have there."""
    assert rule(b"GET", target) is None
    assert Wire().ask("GET", target.decode()).status == 404


class FakeBound:
    """Verifies one token."""

    TOKEN = b"eyJ.a-token-of-node.n1"

    def remembered(self, digest: bytes) -> str | None:
        """Return the node of the one token."""
        return "n1" if digest == sha256(self.TOKEN).digest() else None

    def node(self, token: bytes, digest: bytes) -> str:
        """Verify a token."""
        del digest
        if token != self.TOKEN:
            raise Unauthorized("the token does not verify", wrong=True)
        return "n1"


def outcome(gate: Gate, role: Role, authorization: bytes | None, path: str = "/x") -> type[Fault] | str | None:
    """Return what the gate says to a client."""
    try:
        return gate.admit(Rule(path, role), authorization)
    except Fault as fault:
        return type(fault)


class TestGate:
    """Gate: who is let in."""

    @pytest.mark.parametrize("wanted", Role)
    @pytest.mark.parametrize("had", Role)
    def test_each_role_has_its_own_tokens(self, wanted: Role, had: Role) -> None:
        """Its own: in. Another's: 403. None, or nobody's: 401."""
        gate = Gate(TOKENS)
        assert outcome(gate, wanted, b"Bearer " + TOKENS[had][0]) is (None if wanted is had else Forbidden)
        assert outcome(gate, wanted, None) is Unauthorized
        assert outcome(gate, wanted, b"Bearer nobodys-token-0123456789") is Unauthorized

    def test_a_role_without_tokens_is_open(self) -> None:
        """Whatever is sent there."""
        gate = Gate({Role.ADMIN: TOKENS[Role.ADMIN]})
        assert gate.open_roles == [Role.REPORT, Role.QUERY, Role.SCRAPE]
        for authorization in (None, b"Bearer x", b"Basic eDp5", b"\xff"):
            assert outcome(gate, Role.REPORT, authorization) is None
        assert gate.admit(Rule("/", None), None) is None

    @pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
    def test_the_scheme_is_read_in_any_case(self, scheme: bytes) -> None:
        """As RFC 9110 has it."""
        assert outcome(Gate(TOKENS), Role.QUERY, scheme + TOKENS[Role.QUERY][0]) is None

    @pytest.mark.parametrize(
        "authorization",
        [
            b"",
            b"Bearer",
            b"Bearer ",
            TOKENS[Role.QUERY][0],
            b"Basic " + TOKENS[Role.QUERY][0],
            b"Bearer " + TOKENS[Role.QUERY][0] + b", Bearer " + TOKENS[Role.QUERY][0],
            b"Bearer " + TOKENS[Role.QUERY][0][:-1],
            b"Bearer " + TOKENS[Role.QUERY][0] + b"x",
            b"Bearer " + b"x" * (MAX_TOKEN + 1),
            b"Bearer \xff\x00",
        ],
    )
    def test_what_is_no_token(self, authorization: bytes) -> None:
        """It is 401, with the challenge that says so."""
        with pytest.raises(Unauthorized) as raised:
            Gate(TOKENS).admit(Rule("/nodes", Role.QUERY), authorization)
        assert raised.value.headers == ((b"WWW-Authenticate", b'Bearer error="invalid_token"'),)

    def test_the_challenge_to_who_has_shown_nothing(self) -> None:
        """It names the scheme, and calls nothing invalid."""
        with pytest.raises(Unauthorized) as raised:
            Gate(TOKENS).admit(Rule("/nodes", Role.QUERY), None)
        assert raised.value.headers == ((b"WWW-Authenticate", b"Bearer"),)

    def test_promql_has_prometheus_envelope(self) -> None:
        """As everything that is refused there."""
        gate = Gate(TOKENS)
        assert outcome(gate, Role.QUERY, None, "/query") is QueryUnauthorized
        assert outcome(gate, Role.QUERY, b"Bearer " + TOKENS[Role.ADMIN][0], "/api/v1/query") is QueryForbidden
        assert QueryUnauthorized("x", wrong=False).content == {
            "status": "error",
            "errorType": "unauthorized",
            "error": "x",
        }
        assert QueryForbidden("x").content["errorType"] == "forbidden"

    def test_rotation(self) -> None:
        """Tokens that are used in the place of others are known at once, and those others are not."""
        gate = Gate(TOKENS)
        gate.use(Role.QUERY, [b"a-newer-token-01234"])
        assert outcome(gate, Role.QUERY, b"Bearer a-newer-token-01234") is None
        assert outcome(gate, Role.QUERY, b"Bearer " + TOKENS[Role.QUERY][0]) is Unauthorized

    def test_a_token_that_speaks_for_a_node(self) -> None:
        """It reports for that node; a token of the role's file reports for any; it is another role's anywhere else."""
        gate = Gate(TOKENS, FakeBound())
        assert outcome(gate, Role.REPORT, b"Bearer " + FakeBound.TOKEN) == "n1"
        assert outcome(gate, Role.REPORT, b"Bearer " + TOKENS[Role.REPORT][0]) is None
        assert outcome(gate, Role.REPORT, b"Bearer " + TOKENS[Role.QUERY][0]) is Forbidden
        assert outcome(gate, Role.REPORT, b"Bearer nobodys-token-0123456789") is Unauthorized
        assert outcome(gate, Role.QUERY, b"Bearer " + FakeBound.TOKEN) is Forbidden
        assert outcome(gate, Role.QUERY, b"Bearer nobodys-token-0123456789") is Unauthorized

    def test_a_token_that_is_too_long_is_not_verified(self) -> None:
        """Nor anything else that is no token's size, however much of it is right."""
        gate = Gate({}, FakeBound())
        with pytest.raises(Unauthorized, match="Authorization must be"):
            gate.admit(Rule("/update_metrics", Role.REPORT), b"Bearer " + FakeBound.TOKEN.ljust(MAX_TOKEN + 1, b"x"))

    def test_node_tokens_alone_shut_the_role(self) -> None:
        """Without a token file too."""
        gate = Gate({}, FakeBound())
        assert Role.REPORT not in gate.open_roles
        assert outcome(gate, Role.REPORT, None) is Unauthorized

    def test_a_token_of_two_roles(self) -> None:
        """It has both, and no third."""
        token = TOKENS[Role.QUERY][0]
        gate = Gate({**TOKENS, Role.SCRAPE: [token]})
        outcomes = [outcome(gate, role, b"Bearer " + token) for role in Role]
        assert outcomes == [Forbidden, None, None, Forbidden]

    def test_it_holds_no_token(self) -> None:
        """Nothing of it, printed or pickled, gives one away."""
        assert TOKENS[Role.QUERY][0].decode() not in repr(vars(Gate(TOKENS)))
