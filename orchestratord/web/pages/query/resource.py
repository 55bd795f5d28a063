"""Answers `/graph`, the page with a chart or a table, and `/graph.svg`, the chart alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.errors import Busy, Overloaded, QueryFault
from orchestratord.promql.params import parse_duration, parse_time
from orchestratord.promql.range_vector import error_text, found, present
from orchestratord.runtime.single_flight import SingleFlight
from orchestratord.runtime.text import printable
from orchestratord.web.pages.query import page as query_page
from orchestratord.web.pages.query.chart import chart
from orchestratord.web.pages.query.graph_params import parse_graph_params, parse_instant_params, wants_table
from orchestratord.web.pages.rendering import MAX_RENDERING, PICTURE_POLICY, compressed, respond, respond_html
from orchestratord.web.server.responses import set_fault_headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.web.template import Tag

    from orchestratord.promql.client import Answer, QueryClient
    from orchestratord.promql.params import Query
    from orchestratord.runtime.clock import Clocks
    from orchestratord.web.pages.query.graph_params import GraphParams
    from orchestratord.web.pages.rendering import PageRenderer, RenderedBody
    from orchestratord.web.server.request import BoundedRequest

#: Seconds for which an answer, and a chart of it, is cached.
_ANSWER_CACHE_SECONDS, _CHART_CACHE_SECONDS = 5.0, 2.0
#: Answers fetched at a time; a request for one more gets 503.
_MAX_FETCHING = 8
#: The longest answer that is shown, in bytes: to decode a longer one would block other threads.
MAX_ANSWER_BYTES = 4_194_304


class AnswerTooLarge(QueryFault):
    """The answer is too large to be shown."""

    status = 422
    error_type = "execution"


class QueryPages:
    """Answers with what `client` fetches. Belongs to the reactor thread. `max_length` is for a query, in characters."""

    def __init__(
        self, reactor: Any, renderer: PageRenderer, client: QueryClient, clocks: Clocks, *, max_length: int
    ) -> None:
        self._renderer = renderer
        self._client = client
        self._clocks = clocks
        self._max_length = max_length
        self._charts: SingleFlight[RenderedBody] = SingleFlight(
            reactor, _CHART_CACHE_SECONDS, most=MAX_RENDERING, kept=8
        )
        self._answers: SingleFlight[Answer] = SingleFlight(reactor, _ANSWER_CACHE_SECONDS, most=_MAX_FETCHING, kept=4)

    async def page(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the query page. If a query fails, the page shows the error and has its status."""
        form = query_page.Form.of(args)
        if not form.q.strip():
            return respond_html(
                request, 200, await self._renderer.render_unshared("Query", "/graph", lambda: query_page.content(form))
            )
        try:
            return await self._answer_page(request, form, args)
        except QueryFault as fault:
            set_fault_headers(request, fault)
            return await self._error_page(request, form, fault.status, str(fault))

    async def _answer_page(
        self, request: BoundedRequest, form: query_page.Form, args: Mapping[str, Sequence[str]]
    ) -> bytes:
        if wants_table(args):
            moment = parse_instant_params(args, max_length=self._max_length)
            query = moment.query
        else:
            wanted = parse_graph_params(args, self._clocks.time(), max_length=self._max_length)
            query = wanted.query
        answered = await self._fetch(query)
        if answered.status != 200:
            return await self._error_page(request, form, answered.status, error_text(answered.status, answered.body))

        def parts() -> list[Tag]:
            if form.table:
                return [query_page.instant_table(moment, present(answered.body))]
            series = found(answered.body)
            return [query_page.chart_section(wanted, series), query_page.range_table(wanted, series)]

        made = await self._renderer.render_unshared(
            f"{printable(form.q)[:80]} · Query", "/graph", lambda: query_page.content(form, *parts())
        )
        return respond_html(request, 200, made)

    async def _error_page(self, request: BoundedRequest, form: query_page.Form, status: int, error: str) -> bytes:
        shown = form._replace(q=printable(form.q), range=printable(form.range)[:80])
        made = await self._renderer.render_unshared("Query", "/graph", lambda: query_page.content(shown, error=error))
        return respond_html(request, status, made)

    async def picture(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer a range query as SVG. An error status of Prometheus is passed on with its body; raises QueryFault."""
        wanted = parse_graph_params(args, self._clocks.time(), max_length=self._max_length)
        answered = await self._fetch(wanted.query)
        if answered.status != 200:
            request.setResponseCode(answered.status)
            if answered.content_type:
                request.setHeader(b"Content-Type", answered.content_type)
                request.setHeader(b"Content-Length", b"%d" % len(answered.body))
            return answered.body
        made = await self._charts.get(wanted, lambda: self._draw_chart(wanted, answered.body))
        request.setHeader(b"Content-Type", b"image/svg+xml")
        return respond(request, made, PICTURE_POLICY)

    async def _draw_chart(self, wanted: GraphParams, body: bytes) -> RenderedBody:
        params = dict(wanted.query.params)
        start, end = (parse_time(params[name]) for name in ("start", "end"))
        step = parse_duration(params["step"])
        made: RenderedBody = await self._renderer.in_thread(
            lambda: compressed(chart(wanted.q, found(body).series, start, end, step, width=wanted.width))
        )
        return made

    async def _fetch(self, query: Query) -> Answer:
        async def fetch() -> Answer:
            return checked_size(await self._client.fetch(query))

        try:
            return await self._answers.get(query, fetch)
        except Busy as fault:
            raise Overloaded(str(fault)) from None


def checked_size(answer: Answer) -> Answer:
    """Return the answer; raises AnswerTooLarge if it has more than MAX_ANSWER_BYTES."""
    if len(answer.body) > MAX_ANSWER_BYTES:
        size = len(answer.body) / 1e6
        raise AnswerTooLarge(
            f"the answer is {size:.1f} MB, too large for a chart: ask for fewer series, or a longer step"
        )
    return answer
