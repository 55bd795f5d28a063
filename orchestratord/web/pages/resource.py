"""The routes of the pages: what they need is gathered on the reactor thread, and made into HTML and SVG off it."""

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
from orchestratord.web.pages import node_list as roster
from orchestratord.web.pages import node_page as node
from orchestratord.web.pages import nodes_page as table
from orchestratord.web.pages import status_page as front
from orchestratord.web.pages.address import address_of
from orchestratord.web.pages.assets import Assets
from orchestratord.web.pages.heatmap import fleet as picture_of
from orchestratord.web.pages.layout import message, page
from orchestratord.web.pages.medians import FleetMedians, medians
from orchestratord.web.pages.mixed_sources import mixed_sources
from orchestratord.web.pages.query_resource import Graphs, small
from orchestratord.web.pages.rendering import MAX_MAKING, Drawn, PageMaker, drawn, html

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

#: Seconds for which a page is given to all who ask.
FRESH_FOR = 2.0
#: Seconds that the front page waits for a store to say what it knows; it then says why there is no picture.
PATIENCE = 5.0
#: Seconds for which the medians of the fleet are given to all pages of nodes.
MEDIANS_FRESH_FOR = 10.0
#: Seconds after which a page renews itself.
_RENEW, _RENEW_NODE = 5.0, 10.0


class Pages:
    """Answers the routes for people. Belongs to the reactor thread; `in_thread` runs a function on a pool thread.

    `unhealthy` and `unready` return the reason, or None while all is well; so does `undelivered`, where there is a
    store that reports are to get to. `max_nodes` is the size of this process' table, `max_length` the most characters
    of a query.
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
        self._press = PageMaker(clocks, self._assets, in_thread)
        self.graphs = Graphs(reactor, self._press, client, clocks, max_length=max_length)
        self._pulse = PrometheusProbe(reactor, client)
        self._drawn: SingleFlight[Drawn] = SingleFlight(reactor, FRESH_FOR, most=MAX_MAKING, kept=16)
        self._medians: SingleFlight[FleetMedians] = SingleFlight(reactor, MEDIANS_FRESH_FOR, most=1, kept=1)

    async def front(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the status page; `metric` is the family by which the nodes are coloured."""
        name = (args.get("metric") or [next(iter(self._by_name))])[0]
        family = self._by_name.get(name)
        if family is None:
            raise BadRequest(f"invalid parameter 'metric': no such metric: {name[:80]!a}")
        await self._pulse.refresh()
        # Only the first page of all says where to report: the others are the same for all who look.
        address = "" if self._departed.missing().heard else address_of(request)
        made = await self._drawn.get(("front", name, address), lambda: self._make_front(family, address))
        return html(request, 200, made)

    async def table(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the table of all nodes; what is wrong with the parameters stands on it, with the status."""
        try:
            wanted = roster.wanted(args, self._families)
        except BadRequest as fault:
            error = str(fault)
            made = await self._press.single(
                "Nodes", "/fleet", lambda: table.content(roster.Wanted(), None, self._families, error)
            )
            return html(request, fault.status, made)
        return html(request, 200, await self._drawn.get(wanted, lambda: self._make_table(wanted)))

    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """Answer the page of a node; raises UnknownNode."""
        entries = (await self._fleet.node(node_id)).entries()
        if not entries:
            name = printable(node_id)[:253]
            gone = next((one for one in self._departed.missing().nodes if one.node_id == node_id), None)
            now, unix_now = self._clocks.monotonic(), self._clocks.time()
            made = await self._press.single(f"{name}: unknown", "", lambda: node.unknown(name, gone, now, unix_now))
            return html(request, UnknownNode.status, made)
        return html(request, 200, await self._drawn.get(("node", node_id), lambda: self._make_node(entries[0])))

    def fault(self, request: BoundedRequest, fault: Fault) -> bytes:
        """Answer a Fault to somebody at a browser."""
        if fault.retry_after is not None:
            request.setHeader(b"Retry-After", b"%d" % fault.retry_after)
        content = [message("bad", printable(str(fault)), heading=True)]
        body = page(self._press.frame("Problem", "", None), *content)
        return html(request, fault.status, Drawn(body, b""))

    def asset(self, request: BoundedRequest, name: str, version: str) -> bytes | None:
        """Answer a file under /static; None if there is none of that name."""
        asset = self._assets.get(name)
        if asset is None:
            return None
        tag = b'"%s"' % asset.mark.encode()
        request.setHeader(b"Content-Type", asset.content_type)
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        current = version == asset.mark
        request.setHeader(b"Cache-Control", b"public, max-age=31536000, immutable" if current else b"no-cache")
        if request.setETag(tag):
            return b""
        request.setHeader(b"Content-Length", b"%d" % len(asset.body))
        return asset.body

    async def _make_front(self, family: Family, address: str) -> Drawn:
        activity = self._history.activity()
        health = front.Health(
            unhealthy=self._unhealthy(),
            unready=self._unready(),
            query_fault=self._pulse.fault,
            asking=self._pulse.asking,
            upstreams=self._telemetry.upstreams(),
            max_nodes=self._max_nodes,
            missing=self._departed.missing(),
            alerts=self._pulse.alerts,
            shared=self._fleet.shared,
            fleet_fault=None,
            delivery_fault=self._undelivered(),
        )
        stale_after = self._fleet.stale_after
        try:
            look = await self._fleet.look((family.name,), within=PATIENCE)
        except Fault as fault:
            health = health._replace(fleet_fault=str(fault))
            look = NodesAt(list, self._clocks.monotonic(), self._clocks.time())
        frame = self._press.frame("orchestratord", "/", _RENEW)
        index = self._families.names.index(family.name)

        def make() -> Drawn:
            entries = look.entries()
            picture = picture_of(entries, index, look.now, stale_after)
            mixed = mixed_sources(entries)
            stands = health
            if health.shared:
                missing = health.missing
                stands = health._replace(missing=missing._replace(nodes=still_gone(missing.nodes, entries)))
            let_go(entries)
            content = front.content(
                picture,
                activity,
                stands,
                families=self._families,
                family=family,
                now=look.now,
                unix_now=look.unix_now,
                stale_after=stale_after,
                address=address,
            )
            content[1:1] = mixed  # below the verdict
            return drawn(page(frame, *content))

        made: Drawn = await self._press.in_thread(make)
        return made

    async def _make_table(self, wanted: roster.Wanted) -> Drawn:
        look = await self._fleet.look(self._families.names, within=PATIENCE)
        frame = self._press.frame("Nodes", "/fleet", None)

        def make() -> Drawn:
            entries = look.entries()
            listed = roster.listed(entries, wanted, look.now)
            let_go(entries)
            return drawn(page(frame, *table.content(wanted, listed, self._families)))

        made: Drawn = await self._press.in_thread(make)
        return made

    async def _find_medians(self) -> FleetMedians:
        look = await self._fleet.look(self._families.names, within=PATIENCE)

        def make() -> FleetMedians:
            entries = look.entries()
            found = medians(entries, len(self._by_name))
            let_go(entries)
            return found

        found: FleetMedians = await self._press.in_thread(make)
        return found

    async def _make_node(self, entry: Entry) -> Drawn:
        query = node.past_query(entry.report.node_id, self._families, self._clocks.time(), self._fleet.matchers)
        answer: Answer | None = None
        fault = None
        try:
            answer = await self._client.fetch(query)
            if answer.status != 200:
                fault = error_text(answer.status, answer.body)
        except QueryFault as error:
            fault = str(error)
        try:
            middle = await self._medians.get("medians", self._find_medians)
        except Fault:  # the page says all else
            middle = FleetMedians(0, ())
        now, unix_now = self._clocks.monotonic(), self._clocks.time()
        frame = self._press.frame(entry.report.node_id, "", _RENEW_NODE)

        def make() -> Drawn:
            past = node.Past({}, fault)
            if answer is not None and fault is None:
                try:
                    past = node.past(found(small(answer).body), query)
                except QueryFault as error:
                    past = node.Past({}, str(error))
            content = node.content(
                entry,
                self._families,
                past,
                middle,
                now=now,
                unix_now=unix_now,
                stale_after=self._fleet.stale_after,
                matchers=self._fleet.matchers,
            )
            return drawn(page(frame, *content))

        made: Drawn = await self._press.in_thread(make)
        return made
