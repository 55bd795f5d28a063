"""The resources: a Klein application, with /metrics and the leaves of the hot routes beside it."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from klein import Klein
from twisted.internet.defer import DeferredSemaphore
from twisted.web.resource import Resource
from werkzeug.exceptions import NotFound

from orchestratord import __version__
from orchestratord.errors import BadQuery, BadRequest, Fault
from orchestratord.nodes.departed import still_gone
from orchestratord.promql.params import arguments
from orchestratord.runtime.gil_yield import let_go
from orchestratord.web import routes
from orchestratord.web.api.nodes import details, details_json, gone_json, names_json
from orchestratord.web.api.queries import QueryResource
from orchestratord.web.server.responses import NoSuchPath, failure_body, json_body, text_body, unknown_node
from orchestratord.web.server.slow_readers import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from orchestratord.nodes.departed import DepartedNodes, Gone
    from orchestratord.nodes.directory import NodeDirectory, NodesAt
    from orchestratord.nodes.families import Families
    from orchestratord.web.api.admin import Admin, Handlers
    from orchestratord.web.api.queries import Queries
    from orchestratord.web.pages.resource import Pages
    from orchestratord.web.routes import Route
    from orchestratord.web.server.request import BoundedRequest

_DESCRIPTION = files("orchestratord.web").joinpath("openapi.yaml").read_bytes()


class Api:
    """The handlers of the routes that are not hot. Belongs to the reactor thread.

    `in_thread` runs a function on a pool thread, since a listing of 100,000 nodes would block the reactor.
    `admin` answers the administrators' routes; None: they have listeners of their own, and are not served here.
    """

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
        self._admin = admin
        self._fleet = fleet
        self._departed = departed
        self._families = families
        self._queries = queries
        self._pages = pages
        self._in_thread = in_thread
        self._listings = Slots(_MAX_LISTINGS, f"{_MAX_LISTINGS} listings are under way already; try again")
        self._making = DeferredSemaphore(_MADE_AT_ONCE)
        shown = (route for route in routes.ROUTES if admin is not None or not route.is_admin)
        self._index = f"orchestratord {__version__}\n\n{routes.index_text(shown)}"

    def handlers(self) -> Handlers:
        """Return what answers each route."""
        return {
            routes.INDEX: self.index,
            routes.OPENAPI: self.description,
            routes.FLEET: self.table,
            routes.GRAPH: self.graph,
            routes.GRAPH_SVG: self.picture,
            routes.STATIC: self.asset,
            routes.NODES: self.list_nodes,
            routes.NODE: self.node,
            routes.LABEL_VALUES: self.label_values,
            **{route: partial(self.prometheus, path=route.path) for route in routes.PASSED_THROUGH},
            **({} if self._admin is None else self._admin.handlers()),
        }

    def failed(self, request: BoundedRequest, failure: Failure) -> bytes:
        """Answer what a handler has raised, and what has no handler."""
        error = failure.value
        if isinstance(error, Fault) and request.for_people:
            return self._pages.fault(request, error)
        return failure_body(request, failure)

    async def index(self, request: BoundedRequest) -> bytes:
        """Show the status page to a browser, and the list of routes to every other client."""
        if request.for_people:
            return await self._pages.front(request, arguments(_query_string(request)))
        return text_body(request, 200, self._index)

    def description(self, request: BoundedRequest) -> bytes:
        """Describe the API to programs."""
        request.setHeader(b"Content-Type", b"application/yaml")
        request.setHeader(b"Content-Length", b"%d" % len(_DESCRIPTION))
        return _DESCRIPTION

    async def table(self, request: BoundedRequest) -> bytes:
        """Show the nodes as a table."""
        request.for_people = True
        try:
            args = arguments(_query_string(request))
        except BadQuery as error:
            raise BadRequest(str(error)) from None
        return await self._pages.table(request, args)

    async def graph(self, request: BoundedRequest) -> bytes:
        """Show a query's answer as a page."""
        request.for_people = True
        return await self._pages.graphs.page(request, arguments(_query_string(request)))

    async def picture(self, request: BoundedRequest) -> bytes:
        """Draw a range query's answer."""
        return await self._pages.graphs.picture(request, arguments(_query_string(request)))

    def asset(self, request: BoundedRequest, name: str) -> bytes:
        """Serve a file that the pages refer to."""
        body = self._pages.asset(request, name, arguments(_query_string(request)).get("v", [""])[0])
        if body is None:
            raise NotFound
        return body

    async def list_nodes(self, request: BoundedRequest) -> bytes:
        """List the fresh nodes, sorted."""
        try:
            args = arguments(_query_string(request))
        except BadQuery as error:
            raise BadRequest(str(error)) from None  # not a PromQL route: the error has the plain envelope
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

    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """Answer what is known of a node: a page to a browser, JSON to every other client."""
        if request.wants_page("application/json"):
            return await self._pages.node(request, node_id)
        look = await self._fleet.node(node_id)
        entries = look.entries()
        if not entries:
            raise unknown_node(node_id)
        told = details(entries[0], self._families.names, look.now, look.unix_now, self._fleet.stale_after)
        return json_body(request, 200, told)

    async def prometheus(self, request: BoundedRequest, *, path: str) -> bytes:
        """Pass a read-only route of Prometheus' own API through."""
        return await self._queries.answer(request, path)

    async def label_values(self, request: BoundedRequest, name: str) -> bytes:
        """Pass the one route of Prometheus' API through that has a parameter in its path."""
        if name in {".", ".."}:
            raise NotFound  # an upstream, or a proxy in front of it, would resolve it as a step of the path
        return await self._queries.answer(request, f"/api/v1/label/{quote(name, safe='')}/values")


#: Listings at a time, until they are read. Each of 100,000 nodes takes a pool thread for 1 s, and 40 MB.
_MAX_LISTINGS = 8
#: Listings that are made at a time: each pool thread that has made one keeps tens of megabytes for good.
_MADE_AT_ONCE = 2


class Root(Resource):
    """What is at `/` of the main listeners: /metrics, which is a Resource of its own, and everything else by Klein."""

    def __init__(self, api: Api, metrics: Resource) -> None:
        super().__init__()
        self.app = klein_app(api.handlers(), api.failed)
        self._klein = self.app.resource()
        self._metrics = metrics

    def getChildWithDefault(self, path: bytes, request: Any) -> Resource:
        """Return the exposition, or Klein; 404 for a path that is in no row of the table of routes."""
        if request.route is None:
            return NoSuchPath()
        if path == b"metrics" and not request.postpath:
            return self._metrics
        return _for_klein(self._klein, request)


class AdminRoot(Resource):
    """What is at `/` of the administrators' own listeners: the routes of Admin, and nothing else."""

    def __init__(self, admin: Admin) -> None:
        super().__init__()
        self._klein = klein_app(admin.handlers(), admin.failed).resource()

    def getChildWithDefault(self, path: bytes, request: Any) -> Resource:
        """Return Klein."""
        del path
        return _for_klein(self._klein, request)


def klein_app(handlers: Handlers, failed: Callable[..., bytes]) -> Klein:
    """Return an application that answers these routes; `failed` answers what they raise, and what is no route."""
    app = Klein()
    for route, handler in handlers.items():
        methods = list(route.methods)
        app.route(route.path, methods=methods, endpoint=f"{methods[0]} {route.path}")(_counted(route, handler))
    app.handle_errors(Exception)(failed)
    return app


def _counted(route: Route, handler: Callable[..., Any]) -> Any:
    def answer(request: BoundedRequest, **parameters: str) -> Any:
        request.label = route.label
        return handler(request, **parameters)

    return answer


def _for_klein(klein: Resource, request: Any) -> Resource:
    """Return Klein's resource, and give the path back that Twisted's tree has taken a step of."""
    request.postpath.insert(0, request.prepath.pop())
    try:
        request.path.decode()
        b"/".join(request.postpath).decode()
    except UnicodeDecodeError:  # Klein would answer in HTML, and log a traceback
        return NoSuchPath()
    return klein


def hot_leaves(reports: Resource, queries: Queries) -> dict[bytes, Resource]:
    """Return the leaf of each hot route by its path; `reports` takes reports, `queries` answers queries."""
    leaves = {route.path.encode(): QueryResource(queries, route) for route in routes.QUERIES}
    return {routes.UPDATE_METRICS.path.encode(): reports, **leaves}


def _listing(look: NodesAt, names: Sequence[str], stale_after: float) -> list[bytes]:
    entries = look.entries()
    parts = details_json(entries, names, look.now, look.unix_now, stale_after) if names else names_json(entries)
    let_go(entries)
    return parts


def _gone(look: NodesAt, gone: Sequence[Gone], *, shared: bool) -> list[bytes]:
    """Return the listing of the nodes that left; with shared nodes, without those that report to another replica."""
    if shared:
        entries = look.entries()
        gone = still_gone(gone, entries)
        let_go(entries)
    return gone_json(gone, look.now, look.unix_now)


def _flag(args: Mapping[str, Sequence[str]], name: str) -> bool:
    """Return a parameter that is true or false. Raises BadRequest."""
    given = args.get(name, ["false"])[0].lower()
    if given not in {"true", "1", "false", "0", ""}:
        raise BadRequest(f"invalid parameter '{name}': must be true or false, not {given[:20]!a}")
    return given in {"true", "1"}


def _query_string(request: BoundedRequest) -> bytes:
    return request.uri.partition(b"?")[2]
