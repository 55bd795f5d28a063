"""The routes of a query: the page with its chart or its table, and the chart alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.errors import Busy, Overloaded, QueryFault
from orchestratord.promql.params import parse_duration, parse_time
from orchestratord.promql.range_vector import error_text, found, present
from orchestratord.runtime.single_flight import SingleFlight
from orchestratord.runtime.text import printable
from orchestratord.web.pages import query_page as graph
from orchestratord.web.pages.chart import chart
from orchestratord.web.pages.graph_params import asked, instant, wants_table
from orchestratord.web.pages.rendering import MAX_MAKING, PICTURE_POLICY, answer, drawn, html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.web.template import Tag

    from orchestratord.promql.client import Answer, QueryClient
    from orchestratord.promql.params import Query
    from orchestratord.runtime.clock import Clocks
    from orchestratord.web.pages.graph_params import GraphParams
    from orchestratord.web.pages.rendering import Drawn, PageMaker
    from orchestratord.web.server.request import BoundedRequest

#: Seconds for which an answer, and a picture of it, is given to all who ask.
_ANSWER_FRESH_FOR, _PICTURE_FRESH_FOR = 5.0, 2.0
#: Answers fetched at a time; more wait for their turn with 503.
_MAX_FETCHING = 8
#: Bytes of an answer that is drawn; reading a longer one would hold the interpreter.
MAX_DRAWN_BYTES = 4_194_304


class TooMuch(QueryFault):
    """The answer is longer than anybody could look at."""

    status = 422
    error_type = "execution"


class Graphs:
    """Answers with what `client` fetches. Belongs to the reactor thread. `max_length` is that of a query."""

    def __init__(self, reactor: Any, press: PageMaker, client: QueryClient, clocks: Clocks, *, max_length: int) -> None:
        self._press = press
        self._client = client
        self._clocks = clocks
        self._max_length = max_length
        self._pictures: SingleFlight[Drawn] = SingleFlight(reactor, _PICTURE_FRESH_FOR, most=MAX_MAKING, kept=8)
        self._answers: SingleFlight[Answer] = SingleFlight(reactor, _ANSWER_FRESH_FOR, most=_MAX_FETCHING, kept=4)

    async def page(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer the query page: what is wrong with a query stands on it, with the status that says so."""
        form = graph.Form.of(args)
        if not form.q.strip():
            return html(request, 200, await self._press.single("Query", "/graph", lambda: graph.content(form)))
        try:
            return await self._answered(request, form, args)
        except QueryFault as fault:
            if fault.retry_after is not None:
                request.setHeader(b"Retry-After", b"%d" % fault.retry_after)
            return await self._refused(request, form, fault.status, str(fault))

    async def _answered(self, request: BoundedRequest, form: graph.Form, args: Mapping[str, Sequence[str]]) -> bytes:
        if wants_table(args):
            moment = instant(args, max_length=self._max_length)
            query = moment.query
        else:
            wanted = asked(args, self._clocks.time(), max_length=self._max_length)
            query = wanted.query
        answered = await self._answer(query)
        if answered.status != 200:
            return await self._refused(request, form, answered.status, error_text(answered.status, answered.body))

        def parts() -> list[Tag]:
            if form.table:
                return [graph.values(moment, present(answered.body))]
            series = found(answered.body)
            return [graph.chart(wanted, series), graph.figures(wanted, series)]

        made = await self._press.single(
            f"{printable(form.q)[:80]} · Query", "/graph", lambda: graph.content(form, *parts())
        )
        return html(request, 200, made)

    async def _refused(self, request: BoundedRequest, form: graph.Form, status: int, error: str) -> bytes:
        shown = form._replace(q=printable(form.q), range=printable(form.range)[:80])
        made = await self._press.single("Query", "/graph", lambda: graph.content(shown, error=error))
        return html(request, status, made)

    async def picture(self, request: BoundedRequest, args: Mapping[str, Sequence[str]]) -> bytes:
        """Answer a range query as a chart; a failure is a query's: Prometheus' own answer, or a QueryFault."""
        wanted = asked(args, self._clocks.time(), max_length=self._max_length)
        answered = await self._answer(wanted.query)
        if answered.status != 200:
            request.setResponseCode(answered.status)
            if answered.content_type:
                request.setHeader(b"Content-Type", answered.content_type)
                request.setHeader(b"Content-Length", b"%d" % len(answered.body))
            return answered.body
        made = await self._pictures.get(wanted, lambda: self._make_picture(wanted, answered.body))
        request.setHeader(b"Content-Type", b"image/svg+xml")
        return answer(request, made, PICTURE_POLICY)

    async def _make_picture(self, wanted: GraphParams, body: bytes) -> Drawn:
        params = dict(wanted.query.params)
        start, end = (parse_time(params[name]) for name in ("start", "end"))
        step = parse_duration(params["step"])
        made: Drawn = await self._press.in_thread(
            lambda: drawn(chart(wanted.q, found(body).series, start, end, step, width=wanted.width))
        )
        return made

    async def _answer(self, query: Query) -> Answer:
        async def fetch() -> Answer:
            return small(await self._client.fetch(query))

        try:
            return await self._answers.get(query, fetch)
        except Busy as fault:
            raise Overloaded(str(fault)) from None


def small(answer: Answer) -> Answer:
    """Return an answer that may be read; raises TooMuch."""
    if len(answer.body) > MAX_DRAWN_BYTES:
        size = len(answer.body) / 1e6
        raise TooMuch(f"the answer is {size:.1f} MB, too much for a chart: ask for fewer series, or a longer step")
    return answer
