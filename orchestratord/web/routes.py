"""The routes: one row for each, from which everything that has to know the routes is derived.

The gate's roles, Klein's map, the leaves beside it, the fast path, the index at `/`, `Allow` and the `route` label of
the request metrics all come from this table. Pure.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from orchestratord.security.gate import Role

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, eq=False)
class Route:
    """A path, the methods that it answers, and what holds for every request to it."""

    #: As Klein writes it: a parameter is `<name>`, and stands for one step of the path.
    path: str
    #: Without HEAD, which goes wherever GET goes.
    methods: tuple[str, ...]
    #: What a client must be allowed to do; None: the route is open to everybody.
    role: Role | None
    _: KW_ONLY
    #: Whether errors have Prometheus' envelope, `{"status": "error", ...}`, rather than `{"error": ...}`.
    is_promql: bool = False
    #: Whether a resource of its own answers it, ahead of Twisted's tree and of Klein's routing, which take 70 us.
    is_hot: bool = False
    #: Whether the fast path may answer it, ahead of Twisted's parser too.
    is_fast: bool = False
    #: Whether it moves to the listeners of `--admin-listen` where there are any.
    is_admin: bool = False
    #: What the index at `/` shows: the path as a client uses it, and a text. Empty: another row's line covers it.
    index: tuple[str, str] | None = None

    @cached_property
    def label(self) -> str:
        """The `route` under which its requests are counted."""
        return self.path.replace("<node_id>", "<id>")

    @cached_property
    def fixed(self) -> str:
        """The path up to its first parameter; all of it where there is none."""
        return self.path.partition("<")[0]

    @cached_property
    def allowed(self) -> list[str]:
        """The methods for `Allow`, sorted."""
        return sorted({*self.methods, "HEAD"} if "GET" in self.methods else self.methods)


_GET = ("GET",)
#: Prometheus takes the parameters of a query in a form too.
_READ = ("GET", "POST")

UPDATE_METRICS = Route(
    "/update_metrics",
    ("POST",),
    Role.REPORT,
    is_hot=True,
    is_fast=True,
    index=("/update_metrics", "a report, or an array of reports, as JSON"),
)
NODES = Route(
    "/nodes",
    _GET,
    Role.QUERY,
    index=(
        "/nodes",
        (
            "the fresh nodes' ids; ?details=true for all that is known of them;\n"
            "?gone=true for those that left in the last hour"
        ),
    ),
)
NODE = Route("/nodes/<node_id>", _GET, Role.QUERY, index=("/nodes/<id>", "one node"))
GRAPH_SVG = Route(
    "/graph.svg",
    _GET,
    Role.QUERY,
    is_promql=True,
    index=("/graph.svg?q=PROMQL", "a range query as a chart: the last hour, or start and end, or range=6h"),
)
#: The list of the routes, for programs: it is no secret. The status page at the same path is one: see FRONT_PAGE.
INDEX = Route("/", _GET, None, index=("/  /fleet  /graph  /nodes/<id>", "   pages, for a browser"))
FRONT_PAGE = replace(INDEX, role=Role.QUERY)
FLEET = Route("/fleet", _GET, Role.QUERY)
GRAPH = Route("/graph", _GET, Role.QUERY)
STATIC = Route("/static/<name>", _GET, None)
METRICS = Route("/metrics", _GET, Role.SCRAPE, index=("/metrics", "the exposition, for Prometheus to scrape"))
OPENAPI = Route("/openapi.yaml", _GET, None, index=("/openapi.yaml", "all of it in detail, as OpenAPI 3.1"))
FORGET = Route("/nodes/<node_id>", ("DELETE",), Role.ADMIN, is_admin=True, index=("/nodes/<id>", "forget a node"))
HEALTHY = Route("/-/healthy", _GET, None, is_admin=True, index=("/-/healthy  /-/ready", "probes"))
READY = Route("/-/ready", _GET, None, is_admin=True)

#: The routes that schedulers and dashboards ask all the time.
QUERIES = (
    Route(
        "/query",
        _READ,
        Role.QUERY,
        is_promql=True,
        is_hot=True,
        is_fast=True,
        index=("/query?q=PROMQL", "an instant query; with start and end, a range query"),
    ),
    Route(
        "/api/v1/query",
        _READ,
        Role.QUERY,
        is_promql=True,
        is_hot=True,
        is_fast=True,
        index=("/api/v1/...", "Prometheus' HTTP API, read-only"),
    ),
    Route("/api/v1/query_range", _READ, Role.QUERY, is_promql=True, is_hot=True),
)
LABEL_VALUES = Route("/api/v1/label/<name>/values", _READ, Role.QUERY, is_promql=True)
#: Read-only routes of Prometheus' own API that go to it as they come.
PASSED_THROUGH = (
    Route("/api/v1/rules", _GET, Role.QUERY, is_promql=True),
    Route("/api/v1/alerts", _GET, Role.QUERY, is_promql=True),
    Route("/api/v1/series", _READ, Role.QUERY, is_promql=True),
    Route("/api/v1/labels", _READ, Role.QUERY, is_promql=True),
    Route("/api/v1/metadata", _READ, Role.QUERY, is_promql=True),
    Route("/api/v1/format_query", _READ, Role.QUERY, is_promql=True),
    Route("/api/v1/query_exemplars", _READ, Role.QUERY, is_promql=True),
    Route("/api/v1/status/buildinfo", _READ, Role.QUERY, is_promql=True),
)

#: Every route, in the order of the index. Two rows may have one path with a parameter, each with methods of its own.
ROUTES = (
    UPDATE_METRICS,
    NODES,
    NODE,
    *QUERIES,
    *PASSED_THROUGH,
    LABEL_VALUES,
    GRAPH_SVG,
    INDEX,
    FLEET,
    GRAPH,
    STATIC,
    METRICS,
    OPENAPI,
    FORGET,
    HEALTHY,
    READY,
)
#: The paths of QUERIES, as the metrics count them.
HOT_QUERIES = tuple(route.label for route in QUERIES)

_EXACT = {route.path.encode(): route for route in ROUTES if route.fixed == route.path}
#: The rows whose path has a parameter, by the path up to it.
_WITH_PARAMETER: dict[bytes, list[Route]] = {}
for _route in ROUTES:
    if _route.fixed != _route.path:
        _WITH_PARAMETER.setdefault(_route.fixed.encode(), []).append(_route)

#: A step of a path that is empty or begins with a dot, or a slash at the end.
_UNCLEAN = re.compile(rb"/(?:/|\.|%2[eE]|\Z)")


def cleaned(target: bytes) -> bytes:
    """Return a request's target with a clean path: without empty steps, `.` and `..`, and without a slash at its end.

    Prometheus redirects to the clean path. Here the clean path is served at once, since a client that follows a
    redirect loses the form that it has posted. An encoded slash is a character of a name, and stays.
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/") or _UNCLEAN.search(path) is None:
        return target
    steps: list[bytes] = []
    for step in path.split(b"/"):
        plain = step.replace(b"%2e", b".").replace(b"%2E", b".")
        if plain == b"..":
            del steps[-1:]
        elif plain not in {b"", b"."}:
            steps.append(step)
    return b"/" + b"/".join(steps) + mark + query


def find_route(method: bytes, target: bytes) -> Route | None:
    """Return the route of a request by its cleaned target, with its query string; None: there is no such route.

    A method that the path does not have finds the path's first row, for the 405 and for the role it takes to see that.
    The tree answers 404 wherever this returns None, so no resource is open because its row was forgotten.
    """
    path = target.partition(b"?")[0]
    found = _EXACT.get(path)
    if found is not None:
        return found
    # The tree decodes a path: `/%6eodes` is `/nodes`, and must have the same role here.
    path = unquote_to_bytes(path).rstrip(b"/") or b"/"
    found = _EXACT.get(path)
    if found is not None:
        return found
    for start, rows in _WITH_PARAMETER.items():
        if path.startswith(start):
            # Klein takes a method in any case.
            named = method.upper().decode("latin-1")
            return next((route for route in rows if named in route.methods), rows[0])
    return None


def index_text(routes: Iterable[Route]) -> str:
    """Return the lines of the index at `/` for these routes."""
    lines = []
    for route in routes:
        if route.index is not None:
            shown, text = route.index
            lines.append(f"{route.methods[0]:<7}{shown:<27}" + text.replace("\n", "\n" + 34 * " ") + "\n")
    return "".join(lines)
