"""The resource tree: a Klein application, with /metrics beside it."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from klein import Klein
from twisted.internet.defer import DeferredSemaphore
from werkzeug.exceptions import MethodNotAllowed, NotFound

from orchestratord import __version__
from orchestratord.errors import BadQuery, BadRequest, Fault
from orchestratord.nodes.departed import still_gone
from orchestratord.promql.params import arguments
from orchestratord.runtime.gil_yield import let_go
from orchestratord.web.api.klein_resource import KleinResource, NoSuchPath
from orchestratord.web.api.nodes import details, details_json, gone_json, names_json
from orchestratord.web.server.responses import failure_body, json_body, text_body, unknown_node
from orchestratord.web.server.slow_readers import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure
    from twisted.web.resource import Resource

    from orchestratord.nodes.departed import DepartedNodes, Gone
    from orchestratord.nodes.directory import NodeDirectory, NodesAt
    from orchestratord.nodes.families import Families
    from orchestratord.web.api.admin import Admin
    from orchestratord.web.api.queries import Queries
    from orchestratord.web.pages.resource import Pages
    from orchestratord.web.server.request import BoundedRequest

_READ = ["GET", "POST"]

_INDEX = f"""\
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
"""

_ADMIN_INDEX = """\
DELETE /nodes/<id>                forget a node
GET    /-/healthy  /-/ready       probes
"""

_DESCRIPTION = files("orchestratord.web").joinpath("openapi.yaml").read_bytes()


class Api:
    """The routes that are not hot. Made from what they need; belongs to the reactor thread.

    `in_thread` runs a function on a pool thread: a listing of 100,000 nodes takes longer than a reactor turn may.
    `admin` answers the routes that are the administrators'; None: they are served elsewhere, and are no routes here.
    """

    app = Klein()

    def __init__(
        self,
        fleet: NodeDirectory,
        families: Families,
        queries: Queries,
        *,
        departed: DepartedNodes,
        pages: Pages,
        in_thread: Callable[[Callable[[], list[bytes]]], Deferred[list[bytes]]],
        admin: Admin | None,
    ) -> None:
        self.admin = admin
        self._fleet = fleet
        self._departed = departed
        self._families = families
        self._queries = queries
        self._pages = pages
        self._in_thread = in_thread
        self._listings = Slots(_MAX_LISTINGS, f"{_MAX_LISTINGS} listings are under way already; try again")
        self._making = DeferredSemaphore(_MADE_AT_ONCE)

    @app.handle_errors(Exception)
    def failed(self, request: Any, failure: Failure) -> bytes:
        """Answer what a route has raised, and what is no route."""
        error = failure.value
        if self.admin is None and isinstance(error, MethodNotAllowed):
            error.valid_methods = set(error.valid_methods or ()) - {"DELETE"}
        if isinstance(error, Fault) and request.for_people:
            return self._pages.fault(request, error)
        return failure_body(request, failure)

    @app.route("/", methods=["GET"])
    async def index(self, request: BoundedRequest) -> bytes:
        """Show the status page to a browser, and list the endpoints to everybody else."""
        request.route = "/"
        if request.for_people:
            return await self._pages.front(request, arguments(_query_string(request)))
        return text_body(request, 200, _INDEX + (_ADMIN_INDEX if self.admin else ""))

    @app.route("/openapi.yaml", methods=["GET"])
    def description(self, request: BoundedRequest) -> bytes:
        """Describe the API to programs."""
        request.route = "/openapi.yaml"
        request.setHeader(b"Content-Type", b"application/yaml")
        request.setHeader(b"Content-Length", b"%d" % len(_DESCRIPTION))
        return _DESCRIPTION

    @app.route("/fleet", methods=["GET"])
    async def table(self, request: BoundedRequest) -> bytes:
        """Show the nodes as a table."""
        request.route = "/fleet"
        request.for_people = True
        try:
            args = arguments(_query_string(request))
        except BadQuery as error:
            raise BadRequest(str(error)) from None
        return await self._pages.table(request, args)

    @app.route("/graph", methods=["GET"])
    async def graph(self, request: BoundedRequest) -> bytes:
        """Show a query's answer as a page."""
        request.route = "/graph"
        request.for_people = True
        return await self._pages.graphs.page(request, arguments(_query_string(request)))

    @app.route("/graph.svg", methods=["GET"])
    async def picture(self, request: BoundedRequest) -> bytes:
        """Draw a range query's answer."""
        request.route = "/graph.svg"
        return await self._pages.graphs.picture(request, arguments(_query_string(request)))

    @app.route("/static/<name>", methods=["GET"])
    def asset(self, request: BoundedRequest, name: str) -> bytes:
        """Serve a file that the pages refer to."""
        request.route = "/static/<name>"
        body = self._pages.asset(request, name, arguments(_query_string(request)).get("v", [""])[0])
        if body is None:
            raise NotFound
        return body

    @app.route("/-/healthy", methods=["GET"])
    def healthy(self, request: BoundedRequest) -> bytes:
        """Tell whether the process does its work."""
        return self._administration().healthy(request)

    @app.route("/-/ready", methods=["GET"])
    def ready(self, request: BoundedRequest) -> bytes:
        """Tell whether reports are taken."""
        return self._administration().ready(request)

    @app.route("/nodes", methods=["GET"])
    async def list_nodes(self, request: BoundedRequest) -> bytes:
        """List the fresh nodes, sorted."""
        request.route = "/nodes"
        try:
            args = arguments(_query_string(request))
        except BadQuery as error:
            raise BadRequest(str(error)) from None  # this is no query: no Prometheus client reads the answer
        wanted, gone = (_flag(args, name) for name in ("details", "gone"))
        self._listings.take(request)
        names = self._families.names if wanted and not gone else ()
        look = await self._fleet.look(names)
        if gone:
            make = partial(_gone, look, self._departed.missing().nodes, shared=self._fleet.shared)
        else:
            make = partial(_listing, look, names, self._fleet.stale_after)
        made = await self._making.run(self._in_thread, make)
        request.setHeader(b"Content-Type", b"application/json")
        request.setHeader(b"Content-Length", b"%d" % sum(map(len, made)))
        *parts, last = made
        for part in parts:
            request.write(part)
        return last

    @app.route("/nodes/<node_id>", methods=["GET"])
    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """Tell all that is known of a node: a page to a browser, JSON to everybody else."""
        request.route = "/nodes/<id>"
        if request.wants_page("application/json"):
            return await self._pages.node(request, node_id)
        look = await self._fleet.node(node_id)
        entries = look.entries()
        if not entries:
            raise unknown_node(node_id)
        told = details(entries[0], self._families.names, look.now, look.unix_now, self._fleet.stale_after)
        return json_body(request, 200, told)

    @app.route("/nodes/<node_id>", methods=["DELETE"])
    async def forget(self, request: BoundedRequest, node_id: str) -> bytes:
        """Forget a node, as one that was drained."""
        return await self._administration().forget(request, node_id)

    def _administration(self) -> Admin:
        if self.admin is None:  # Root lets no other route come here
            raise MethodNotAllowed(valid_methods=["GET", "HEAD"])
        return self.admin

    @app.route("/api/v1/rules", methods=["GET"])
    @app.route("/api/v1/alerts", methods=["GET"])
    @app.route("/api/v1/series", methods=_READ)
    @app.route("/api/v1/labels", methods=_READ)
    @app.route("/api/v1/metadata", methods=_READ)
    @app.route("/api/v1/format_query", methods=_READ)
    @app.route("/api/v1/query_exemplars", methods=_READ)
    @app.route("/api/v1/status/buildinfo", methods=_READ)
    async def prometheus(self, request: BoundedRequest) -> bytes:
        """Pass a read-only route of Prometheus' own API through."""
        request.route = path = request.path.decode("ascii").rstrip("/")
        return await self._queries.answer(request, path)

    @app.route("/api/v1/label/<name>/values", methods=_READ)
    async def label_values(self, request: BoundedRequest, name: str) -> bytes:
        """Pass the one route through that has a parameter in its path."""
        request.route = "/api/v1/label/<name>/values"
        if name in {".", ".."}:
            raise NotFound  # an upstream, or a proxy before it, would take it for a step in the path
        return await self._queries.answer(request, f"/api/v1/label/{quote(name, safe='')}/values")


#: Listings at a time, until they are read: of 100,000 nodes, each takes a pool thread for a second, and 40 MB.
_MAX_LISTINGS = 8
#: Of those, in the making: each thread that makes some keeps memory of its own for ever, tens of megabytes.
_MADE_AT_ONCE = 2


class Root(KleinResource):
    """What is at `/`: /metrics, which is a Resource of its own, and everything else by Klein."""

    def __init__(self, api: Api, metrics: Resource) -> None:
        super().__init__(api.app.resource())
        self._api = api
        self._metrics = metrics

    def getChildWithDefault(self, path: bytes, request: Any) -> Resource:
        """Return the exposition, or Klein with the path as it was; nothing for which no rule says who may have it."""
        if request.rule is None:
            return NoSuchPath()
        if path == b"metrics" and not request.postpath:
            return self._metrics
        if path == b"-" and self._api.admin is None:
            return NoSuchPath()
        return super().getChildWithDefault(path, request)


def _listing(look: NodesAt, names: Sequence[str], stale_after: float) -> list[bytes]:
    entries = look.entries()
    parts = details_json(entries, names, look.now, look.unix_now, stale_after) if names else names_json(entries)
    let_go(entries)
    return parts


def _gone(look: NodesAt, gone: Sequence[Gone], *, shared: bool) -> list[bytes]:
    """Return the listing of those that left; of a shared fleet, without those that another replica has heard since."""
    if shared:
        entries = look.entries()
        gone = still_gone(gone, entries)
        let_go(entries)
    return gone_json(gone, look.now, look.unix_now)


def _flag(args: Mapping[str, Sequence[str]], name: str) -> bool:
    """Return a parameter that is true or false; raises BadRequest."""
    given = args.get(name, ["false"])[0].lower()
    if given not in {"true", "1", "false", "0", ""}:
        raise BadRequest(f"invalid parameter '{name}': must be true or false, not {given[:20]!a}")
    return given in {"true", "1"}


def _query_string(request: BoundedRequest) -> bytes:
    return request.uri.partition(b"?")[2]
