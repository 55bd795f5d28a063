"""The table of routes: who may do what, how a path is read, and that everything else is derived from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestratord import __version__
from orchestratord.security.gate import Role
from orchestratord.web.routes import HOT_QUERIES, INDEX, ROUTES, cleaned, find_route
from orchestratord.web.server.fast_path import FAST_PATHS
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = {"/", "/-/healthy", "/-/ready", "/openapi.yaml", "/static/<name>"}


def routes() -> Iterator[tuple[str, str]]:
    """Yield the method and the path of everything that there is: Klein's map, the hot leaves and the exposition."""
    wire = Wire()
    root: Any = wire.site.resource
    for known in root.app.url_map.iter_rules():
        for method in known.methods:
            yield method, known.rule
    for path in wire.site.context.hot:
        yield "POST", path.decode()
    yield "GET", "/metrics"


def found(method: bytes, target: bytes) -> tuple[str, Role | None]:
    """Return the label and the role of a request's route."""
    route = find_route(method, target)
    assert route is not None
    return route.label, route.role


def a_path(pattern: str) -> bytes:
    """Return a path that a pattern of Klein's matches."""
    return "/".join("x" if part.startswith("<") else part for part in pattern.split("/")).encode()


@pytest.mark.parametrize(("method", "pattern"), sorted(set(routes())))
def test_every_route_has_a_role_or_is_open_on_purpose(method: str, pattern: str) -> None:
    """Whoever adds a route has to say who may have it; only probes and what describes the API are open."""
    decided = find_route(method.encode(), a_path(pattern))
    assert decided is not None
    assert (decided.role is None) == (pattern in OPEN)


def test_the_routes_of_each_role() -> None:
    """As the issue has them: who reports, asks, scrapes, forgets."""
    assert found(b"POST", b"/update_metrics") == ("/update_metrics", Role.REPORT)
    assert found(b"GET", b"/metrics?name[]=up") == ("/metrics", Role.SCRAPE)
    for path in (*HOT_QUERIES, "/api/v1/series", "/nodes"):
        assert found(b"GET", path.encode() + b"?q=1") == (path, Role.QUERY)
    assert found(b"GET", b"/api/v1/label/job/values") == ("/api/v1/label/<name>/values", Role.QUERY)
    assert found(b"GET", b"/nodes/n1") == ("/nodes/<id>", Role.QUERY)
    assert found(b"DELETE", b"/nodes/n1") == ("/nodes/<id>", Role.ADMIN)


@pytest.mark.parametrize("method", [b"delete", b"Delete", b"DELETE"])
def test_a_method_counts_in_any_case(method: bytes) -> None:
    """Klein takes `delete` for DELETE, and so must the rule."""
    decided = find_route(method, b"/nodes/n1")
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
    decided = find_route(b"GET", target)
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
    assert find_route(b"GET", target) is None
    assert Wire().ask("GET", target.decode()).status == 404


def test_the_index_lists_every_row_that_has_a_line() -> None:
    """In the order of the table, with what it is for beside it."""
    assert (
        Wire().ask("GET", INDEX.path).body.decode()
        == f"""\
orchestratord {__version__}

POST   /update_metrics            a report, or an array of reports, as JSON
GET    /nodes                     the fresh nodes' ids; ?details=true for all that is known of them;
                                  ?gone=true for those that left in the last hour
GET    /nodes/<id>                one node
GET    /query?q=PROMQL            an instant query; with start and end, a range query
GET    /api/v1/...                Prometheus' HTTP API, read-only
GET    /graph.svg?q=PROMQL        a range query as a chart: the last hour, or start and end, or range=6h
GET    /  /fleet  /graph  /nodes/<id>   pages, for a browser
GET    /metrics                   the exposition, for Prometheus to scrape
GET    /openapi.yaml              all of it in detail, as OpenAPI 3.1
DELETE /nodes/<id>                forget a node
GET    /-/healthy  /-/ready       probes
"""
    )


def test_every_row_is_answered() -> None:
    """By Klein, by a leaf of its own, or by the exposition: a row alone makes no route, nor does a handler alone."""
    answered = {(method, pattern) for method, pattern in routes() if method not in {"HEAD", "OPTIONS"}}
    hot = {route.path for route in ROUTES if route.is_hot}
    assert {path.decode() for path in Wire().site.context.hot} == hot
    expected = {(method, route.path) for route in ROUTES if not route.is_hot for method in route.methods}
    assert {one for one in answered if one[1] not in hot} == expected


def test_the_fast_path_takes_the_fast_rows_alone() -> None:
    """And each of them is a hot one, since what the fast path does not answer goes there."""
    fast = [route for route in ROUTES if route.is_fast]
    assert {path.decode() for path in FAST_PATHS} == {route.path for route in fast}
    assert all(route.is_hot for route in fast)
