"""Answers the routes of the pages: collects the data on the reactor thread, and renders it on a pool thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.errors import BadRequest, Fault, QueryFault, UnknownNode
from orchestratord.nodes.departed import still_gone
from orchestratord.nodes.directory import NodesAt
from orchestratord.promql.probe import PrometheusProbe
from orchestratord.promql.range_vector import error_text, found
from orchestratord.runtime.gil_yield import let_go
from orchestratord.runtime.single_flight import SingleFlight
from orchestratord.runtime.text import printable
from orchestratord.web.pages.assets import Assets
from orchestratord.web.pages.layout import message, page
from orchestratord.web.pages.nodes import list_page, node_list, node_page
from orchestratord.web.pages.nodes.medians import FleetMedians, medians
from orchestratord.web.pages.nodes.sources import mixed_sources
from orchestratord.web.pages.query.resource import QueryPages, checked_size
from orchestratord.web.pages.rendering import MAX_RENDERING, PageRenderer, RenderedBody, compressed, respond_html
from orchestratord.web.pages.status import page as status_page
from orchestratord.web.pages.status.heatmap import heatmap
from orchestratord.web.pages.status.own_url import address_of
from orchestratord.web.server.responses import set_fault_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred

    from orchestratord.nodes.departed import DepartedNodes
    from orchestratord.nodes.directory import NodeDirectory
    from orchestratord.nodes.families import Families, Family
    from orchestratord.nodes.store import Entry
    from orchestratord.promql.client import Answer, QueryClient
    from orchestratord.runtime.clock import Clocks
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.pages.activity import ActivityRecorder
    from orchestratord.web.server.request import BoundedRequest

#: Seconds for which a page is cached.
PAGE_CACHE_SECONDS = 2.0
#: Seconds to wait for the nodes from the store; then the status page shows the error instead of the heat map.
STORE_TIMEOUT = 5.0
#: Seconds for which the medians of all nodes are cached.
MEDIANS_CACHE_SECONDS = 10.0
#: Seconds after which page.js fetches the status page again, and the page of a node.
_REFRESH_SECONDS, _REFRESH_NODE_SECONDS = 5.0, 10.0


class Pages:
    """Answers the routes of the pages. Belongs to the reactor thread; `in_thread` runs a function on a pool thread.

    `unhealthy`, `unready` and `undelivered` return a reason, or None if all is well; `undelivered` is about the
    delivery of reports to a store. `max_nodes` is the size of this process' table, `max_length` the longest query in
    characters.
    """

    def __init__(
        self,
        reactor: Any,
        fleet: NodeDirectory,
        families: Families,
        client: QueryClient,
        clocks: Clocks,
        *,
        telemetry: SelfMetrics,
        history: ActivityRecorder,
        departed: DepartedNodes,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        unhealthy: Callable[[], str | None],
        unready: Callable[[], str | None],
        undelivered: Callable[[], str | None] | None = None,
        max_nodes: int,
        max_length: int,
    ) -> None:
        self._fleet = fleet
        self._max_nodes = max_nodes
        self._families = families
        self._by_name = {family.name: family for family in families}
        self._client = client
        self._telemetry = telemetry
        self._history = history
        self._departed = departed
        self._clocks = clocks
        self._unhealthy = unhealthy
        self._unready = unready
        self._undelivered = undelivered or (lambda: None)
        self._assets = Assets()
        self._renderer = PageRenderer(clocks, self._assets, in_thread)
        self.graphs = QueryPages(reactor, self._renderer, client, clocks, max_length=max_length)
        self._probe = PrometheusProbe(reactor, client)
        self._rendered: SingleFlight[RenderedBody] = SingleFlight(
            reactor, PAGE_CACHE_SECONDS, most=MAX_RENDERING, kept=16
        )
        self._medians: SingleFlight[FleetMedians] = SingleFlight(reactor, MEDIANS_CACHE_SECONDS, most=1, kept=1)

    async def front(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the status page; `metric` is the family that colours the nodes. Raises BadRequest."""
        name = (args.get("metric") or [next(iter(self._by_name))])[0]
        family = self._by_name.get(name)
        if family is None:
            raise BadRequest(f"invalid parameter 'metric': no such metric: {name[:80]!a}")
        await self._probe.refresh()
        # Only the page before the first report says where to send one: all other pages are the same for everybody.
        address = "" if self._departed.missing().heard else address_of(request)
        made = await self._rendered.get(("front", name, address), lambda: self._render_status(family, address))
        return respond_html(request, 200, made)

    async def table(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the list of nodes. If a parameter is wrong, the page says so and has status 400."""
        try:
            query = node_list.parse_node_query(args, self._families)
        except BadRequest as fault:
            error = str(fault)
            made = await self._renderer.render_unshared(
                "Nodes", "/fleet", lambda: list_page.content(node_list.NodeQuery(), None, self._families, error)
            )
            return respond_html(request, fault.status, made)
        return respond_html(request, 200, await self._rendered.get(query, lambda: self._render_list(query)))

    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """Answer the page of a node, with status 404 if there is no fresh report from it."""
        entries = (await self._fleet.node(node_id)).entries()
        if not entries:
            name = printable(node_id)[:253]
            gone = next((one for one in self._departed.missing().nodes if one.node_id == node_id), None)
            now, unix_now = self._clocks.monotonic(), self._clocks.time()
            made = await self._renderer.render_unshared(
                f"{name}: unknown", "", lambda: node_page.unknown_node_content(name, gone, now, unix_now)
            )
            return respond_html(request, UnknownNode.status, made)
        return respond_html(
            request, 200, await self._rendered.get(("node", node_id), lambda: self._render_node(entries[0]))
        )

    def fault(self, request: BoundedRequest, fault: Fault) -> bytes:
        """Answer a fault as a page."""
        set_fault_headers(request, fault)
        content = [message("bad", printable(str(fault)), heading=True)]
        body = page(self._renderer.frame("Problem", "", None), *content)
        return respond_html(request, fault.status, RenderedBody(body, b""))

    def asset(self, request: BoundedRequest, name: str, version: str) -> bytes | None:
        """Answer a file under /static; None if there is no file of that name."""
        asset = self._assets.get(name)
        if asset is None:
            return None
        tag = b'"%s"' % asset.content_hash.encode()
        request.setHeader(b"Content-Type", asset.content_type)
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        current = version == asset.content_hash
        request.setHeader(b"Cache-Control", b"public, max-age=31536000, immutable" if current else b"no-cache")
        if request.setETag(tag):
            return b""
        request.setHeader(b"Content-Length", b"%d" % len(asset.body))
        return asset.body

    async def _render_status(self, family: Family, address: str) -> RenderedBody:
        activity = self._history.activity()
        status = status_page.DaemonStatus(
            unhealthy=self._unhealthy(),
            unready=self._unready(),
            query_fault=self._probe.fault,
            no_answer_yet=self._probe.asking,
            upstreams=self._telemetry.upstreams(),
            max_nodes=self._max_nodes,
            missing=self._departed.missing(),
            alerts=self._probe.alerts,
            shared=self._fleet.shared,
            fleet_fault=None,
            delivery_fault=self._undelivered(),
        )
        stale_after = self._fleet.stale_after
        try:
            nodes_at = await self._fleet.look((family.name,), within=STORE_TIMEOUT)
        except Fault as fault:
            status = status._replace(fleet_fault=str(fault))
            nodes_at = NodesAt(list, self._clocks.monotonic(), self._clocks.time())
        frame = self._renderer.frame("orchestratord", "/", _REFRESH_SECONDS)
        index = self._families.names.index(family.name)

        def make() -> RenderedBody:
            entries = nodes_at.entries()
            cells = heatmap(entries, index, nodes_at.now, stale_after)
            mixed = mixed_sources(entries)
            current = status
            if status.shared:
                missing = status.missing
                current = status._replace(missing=missing._replace(nodes=still_gone(missing.nodes, entries)))
            let_go(entries)
            content = status_page.content(
                cells,
                activity,
                current,
                families=self._families,
                family=family,
                now=nodes_at.now,
                unix_now=nodes_at.unix_now,
                stale_after=stale_after,
                address=address,
            )
            content[1:1] = mixed  # below the summary
            return compressed(page(frame, *content))

        made: RenderedBody = await self._renderer.in_thread(make)
        return made

    async def _render_list(self, query: node_list.NodeQuery) -> RenderedBody:
        nodes_at = await self._fleet.look(self._families.names, within=STORE_TIMEOUT)
        frame = self._renderer.frame("Nodes", "/fleet", None)

        def make() -> RenderedBody:
            entries = nodes_at.entries()
            listing = node_list.select_page(entries, query, nodes_at.now)
            let_go(entries)
            return compressed(page(frame, *list_page.content(query, listing, self._families)))

        made: RenderedBody = await self._renderer.in_thread(make)
        return made

    async def _find_medians(self) -> FleetMedians:
        nodes_at = await self._fleet.look(self._families.names, within=STORE_TIMEOUT)

        def make() -> FleetMedians:
            entries = nodes_at.entries()
            found = medians(entries, len(self._by_name))
            let_go(entries)
            return found

        found: FleetMedians = await self._renderer.in_thread(make)
        return found

    async def _render_node(self, entry: Entry) -> RenderedBody:
        query = node_page.history_query(entry.report.node_id, self._families, self._clocks.time(), self._fleet.matchers)
        answer: Answer | None = None
        fault = None
        try:
            answer = await self._client.fetch(query)
            if answer.status != 200:
                fault = error_text(answer.status, answer.body)
        except QueryFault as error:
            fault = str(error)
        try:
            fleet_medians = await self._medians.get("medians", self._find_medians)
        except Fault:  # the page is shown without medians
            fleet_medians = FleetMedians(0, ())
        now, unix_now = self._clocks.monotonic(), self._clocks.time()
        frame = self._renderer.frame(entry.report.node_id, "", _REFRESH_NODE_SECONDS)

        def make() -> RenderedBody:
            history = node_page.NodeHistory({}, fault)
            if answer is not None and fault is None:
                try:
                    history = node_page.parse_history(found(checked_size(answer).body), query)
                except QueryFault as error:
                    history = node_page.NodeHistory({}, str(error))
            content = node_page.content(
                entry,
                self._families,
                history,
                fleet_medians,
                now=now,
                unix_now=unix_now,
                stale_after=self._fleet.stale_after,
                matchers=self._fleet.matchers,
            )
            return compressed(page(frame, *content))

        made: RenderedBody = await self._renderer.in_thread(make)
        return made
