"""The routes of the pages: what they need is gathered on the reactor thread, and made into HTML and SVG off it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from isal import isal_zlib
from prometheus_client.exposition import gzip_accepted

from orchestratord.breath import let_go
from orchestratord.departed import still_gone
from orchestratord.errors import BadRequest, Busy, Fault, Overloaded, QueryFault, UnknownNode
from orchestratord.fleet import Look
from orchestratord.query import parse_duration, parse_time
from orchestratord.web.page import front, graph, node
from orchestratord.web.page.address import address_of
from orchestratord.web.page.asked import Asked, asked
from orchestratord.web.page.assets import Assets
from orchestratord.web.page.drawing import chart
from orchestratord.web.page.figures import printable
from orchestratord.web.page.fleet import fleet as picture_of
from orchestratord.web.page.layout import Frame, message, page
from orchestratord.web.page.pulse import Pulse
from orchestratord.web.page.recent import Recent
from orchestratord.web.page.series import error_text, found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred

    from orchestratord.catalogue import Catalogue, Family
    from orchestratord.clocks import Clocks
    from orchestratord.departed import Departed
    from orchestratord.fleet import Fleet
    from orchestratord.history import History
    from orchestratord.nodes import Entry
    from orchestratord.telemetry import Telemetry
    from orchestratord.upstream import Answer, QueryClient
    from orchestratord.web.request import BoundedRequest

#: Seconds for which a page, and Prometheus' answer to a graph, is given to all who ask.
FRESH_FOR, ANSWER_FRESH_FOR = 2.0, 5.0
#: Pages made at a time, and answers fetched; more wait for their turn with 503.
MAX_MAKING, MAX_FETCHING = 4, 8
#: Seconds that the front page waits for a store to say what it knows; it then says why there is no picture.
PATIENCE = 5.0
#: Bytes of an answer that is drawn; reading a longer one would hold the interpreter.
MAX_DRAWN_BYTES = 4_194_304
#: Seconds after which a page renews itself.
_RENEW, _RENEW_NODE = 5.0, 10.0

#: Nothing but our own files, and no script or style in the markup, whatever may get into it.
_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: A chart is a document of its own when it is opened by itself: it has a style, and nothing else.
_PICTURE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


class Drawn(NamedTuple):
    """A page or picture, as it is, and compressed."""

    plain: bytes
    compressed: bytes


class TooMuch(QueryFault):
    """The answer is longer than anybody could look at."""

    status = 422
    error_type = "execution"


class Pages:
    """Answers the routes for people. Belongs to the reactor thread; `in_thread` runs a function on a pool thread.

    `unhealthy` and `unready` return the reason, or None while all is well; so does `undelivered`, where there is a
    store that reports are to get to. `max_nodes` is the size of this process' table, `max_length` the most characters
    of a query.
    """

    def __init__(
        self,
        reactor: Any,
        fleet: Fleet,
        catalogue: Catalogue,
        client: QueryClient,
        clocks: Clocks,
        *,
        telemetry: Telemetry,
        history: History,
        departed: Departed,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        unhealthy: Callable[[], str | None],
        unready: Callable[[], str | None],
        undelivered: Callable[[], str | None] | None = None,
        max_nodes: int,
        max_length: int,
    ) -> None:
        self._fleet = fleet
        self._max_nodes = max_nodes
        self._catalogue = catalogue
        self._families = {family.name: family for family in catalogue}
        self._client = client
        self._telemetry = telemetry
        self._history = history
        self._departed = departed
        self._clocks = clocks
        self._in_thread = in_thread
        self._unhealthy = unhealthy
        self._unready = unready
        self._undelivered = undelivered or (lambda: None)
        self._max_length = max_length
        self._assets = Assets()
        self._pulse = Pulse(reactor, client)
        self._single = 0
        self._drawn: Recent[Drawn] = Recent(reactor, FRESH_FOR, most=MAX_MAKING, kept=16)
        self._answers: Recent[Answer] = Recent(reactor, ANSWER_FRESH_FOR, most=MAX_FETCHING, kept=4)

    async def front(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the status page; `metric` is the family by which the nodes are coloured."""
        name = (args.get("metric") or [next(iter(self._families))])[0]
        family = self._families.get(name)
        if family is None:
            raise BadRequest(f"invalid parameter 'metric': no such metric: {name[:80]!a}")
        await self._pulse.feel()
        # Only the first page of all says where to report: the others are the same for all who look.
        address = "" if self._departed.missing().heard else address_of(request)
        drawn = await self._drawn.get(("front", name, address), lambda: self._make_front(family, address))
        return _html(request, 200, drawn)

    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """Answer the page of a node; raises UnknownNode."""
        entries = (await self._fleet.node(node_id)).entries()
        if not entries:
            drawn = await self._page(f"{printable(node_id)[:253]}: unknown", lambda: node.unknown(printable(node_id)))
            return _html(request, UnknownNode.status, drawn)
        return _html(request, 200, await self._drawn.get(("node", node_id), lambda: self._make_node(entries[0])))

    async def graph(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the query page: what is wrong with a query stands on it, with the status that says so."""
        q, relative = (args.get("q") or [""])[0], (args.get("range") or [""])[0] or None
        if not q.strip():
            return _html(request, 200, await self._page("Query", lambda: graph.content("", None, None, None, relative)))
        try:
            wanted = asked(args, self._clocks.time(), max_length=self._max_length)
            answer = await self._answer(wanted)
            if answer.status == 200:
                drawn = await self._page(
                    f"{printable(q)[:80]} · Query",
                    lambda: graph.content(q, wanted, found(answer.body), None, wanted.relative),
                )
                return _html(request, 200, drawn)
            status, error = answer.status, error_text(answer.status, answer.body)
        except QueryFault as fault:
            status, error = fault.status, str(fault)
            if fault.retry_after is not None:
                request.setHeader(b"Retry-After", b"%d" % fault.retry_after)
        drawn = await self._page("Query", lambda: graph.content(printable(q), None, None, error, relative))
        return _html(request, status, drawn)

    async def picture(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer a range query as a chart; a failure is a query's: Prometheus' own answer, or a QueryFault."""
        wanted = asked(args, self._clocks.time(), max_length=self._max_length)
        answer = await self._answer(wanted)
        if answer.status != 200:
            request.setResponseCode(answer.status)
            if answer.content_type:
                request.setHeader(b"Content-Type", answer.content_type)
                request.setHeader(b"Content-Length", b"%d" % len(answer.body))
            return answer.body
        drawn = await self._drawn.get(wanted, lambda: self._make_picture(wanted, answer.body))
        request.setHeader(b"Content-Type", b"image/svg+xml")
        return _body(request, drawn, _PICTURE_POLICY)

    def fault(self, request: BoundedRequest, fault: Fault) -> bytes:
        """Answer a Fault to somebody at a browser."""
        if fault.retry_after is not None:
            request.setHeader(b"Retry-After", b"%d" % fault.retry_after)
        content = [message("bad", printable(str(fault)), heading=True)]
        body = page(self._frame("Problem", "", None), *content)
        return _html(request, fault.status, Drawn(body, b""))

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
        standing = front.Standing(
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
            standing = standing._replace(fleet_fault=str(fault))
            look = Look(list, self._clocks.monotonic(), self._clocks.time())
        frame = self._frame("orchestratord", "/", _RENEW)
        index = self._catalogue.names.index(family.name)

        def make() -> Drawn:
            entries = look.entries()
            picture = picture_of(entries, index, look.now, stale_after)
            stands = standing
            if standing.shared:
                missing = standing.missing
                stands = standing._replace(missing=missing._replace(nodes=still_gone(missing.nodes, entries)))
            let_go(entries)
            content = front.content(
                picture,
                activity,
                stands,
                catalogue=self._catalogue,
                family=family,
                now=look.now,
                unix_now=look.unix_now,
                stale_after=stale_after,
                address=address,
            )
            return _drawn(page(frame, *content))

        drawn: Drawn = await self._in_thread(make)
        return drawn

    async def _make_node(self, entry: Entry) -> Drawn:
        query = node.past_query(entry.report.node_id, self._catalogue, self._clocks.time(), self._fleet.matchers)
        answer: Answer | None = None
        fault = None
        try:
            answer = await self._client.fetch(query)
            if answer.status != 200:
                fault = error_text(answer.status, answer.body)
        except QueryFault as error:
            fault = str(error)
        now, unix_now = self._clocks.monotonic(), self._clocks.time()
        frame = self._frame(entry.report.node_id, "", _RENEW_NODE)

        def make() -> Drawn:
            past = node.Past({}, fault)
            if answer is not None and fault is None:
                try:
                    past = node.past(found(_small(answer).body), query)
                except QueryFault as error:
                    past = node.Past({}, str(error))
            content = node.content(
                entry,
                self._catalogue,
                past,
                now=now,
                unix_now=unix_now,
                stale_after=self._fleet.stale_after,
                matchers=self._fleet.matchers,
            )
            return _drawn(page(frame, *content))

        drawn: Drawn = await self._in_thread(make)
        return drawn

    async def _make_picture(self, wanted: Asked, body: bytes) -> Drawn:
        params = dict(wanted.query.params)
        start, end = (parse_time(params[name]) for name in ("start", "end"))
        drawn: Drawn = await self._in_thread(
            lambda: _drawn(chart(wanted.q, found(body).series, start, end, parse_duration(params["step"])))
        )
        return drawn

    async def _page(self, title: str, content: Callable[[], list[Any]]) -> Drawn:
        """Make a page that is nobody else's."""
        frame = self._frame(title, "/graph" if title.endswith("Query") else "", None)
        if self._single >= MAX_MAKING:
            raise Overloaded(f"{MAX_MAKING} pages are in the making already; try again")
        self._single += 1
        try:
            drawn: Drawn = await self._in_thread(lambda: _drawn(page(frame, *content())))
        finally:
            self._single -= 1
        return drawn

    async def _answer(self, wanted: Asked) -> Answer:
        async def fetch() -> Answer:
            return _small(await self._client.fetch(wanted.query))

        try:
            return await self._answers.get(wanted.query, fetch)
        except Busy as fault:
            raise Overloaded(str(fault)) from None

    def _frame(self, title: str, place: str, renew: float | None) -> Frame:
        return Frame(title, place, renew, self._clocks.time(), self._assets)


def _small(answer: Answer) -> Answer:
    """Return an answer that may be read; raises TooMuch."""
    if len(answer.body) > MAX_DRAWN_BYTES:
        size = len(answer.body) / 1e6
        raise TooMuch(f"the answer is {size:.1f} MB, too much for a chart: ask for fewer series, or a longer step")
    return answer


def _drawn(body: bytes) -> Drawn:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    return Drawn(body, compressor.compress(body) + compressor.flush())


def _html(request: BoundedRequest, status: int, drawn: Drawn) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
    return _body(request, drawn, _POLICY)


def _body(request: BoundedRequest, drawn: Drawn, policy: bytes) -> bytes:
    request.setHeader(b"Content-Security-Policy", policy)
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.setHeader(b"Referrer-Policy", b"no-referrer")
    request.setHeader(b"Cache-Control", b"private, no-cache")
    request.setHeader(b"Vary", b"Accept, Accept-Encoding")
    body = drawn.plain
    if drawn.compressed and gzip_accepted(_header(request, b"Accept-Encoding")):
        request.setHeader(b"Content-Encoding", b"gzip")
        body = drawn.compressed
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _header(request: BoundedRequest, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name) or ())
