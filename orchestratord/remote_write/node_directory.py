"""What a store that all replicas share knows of the nodes, by instant queries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import DeferredSemaphore

from orchestratord.errors import Overloaded, QueryFault, QueryTimeout, UpstreamUnavailable, beside_queries
from orchestratord.nodes.directory import NodesAt
from orchestratord.nodes.families import LAST_REPORT
from orchestratord.nodes.report import NODE_ID, NodeReport
from orchestratord.nodes.store import Entry
from orchestratord.promql.instant_vector import blocks, problem
from orchestratord.promql.params import INSTANT, Query, newest
from orchestratord.remote_write.sample_row import MAX_MILLISECONDS, row_names
from orchestratord.runtime.gil_yield import breathing, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.defer import Deferred

    from orchestratord.nodes.families import Families
    from orchestratord.promql.client import Answer, QueryClient
    from orchestratord.runtime.clock import Clocks

#: The most nodes that one query for all families names.
_MOST_NAMED = 200
#: The most characters of node ids in one query: VictoriaMetrics accepts 16,384 for a whole query.
_MOST_CHARACTERS = 8000
#: Concurrent calls that read all nodes: with 100,000 nodes each of them takes tens of megabytes.
_LOOKS = 2
#: Seconds that an instant query looks back by default.
_LOOKBACK = 300.0
#: Entries that are made in one go.
_BLOCK = 500

#: A dot in a regular expression.
_DOT = "[.]"


class Known(NamedTuple):
    """What a store knows about a node: the time of its newest report in Unix seconds, and the names of its live series.

    `last_report` is 0 if LAST_REPORT is not among `names`.
    """

    last_report: float
    names: frozenset[str]


class StoreDirectory:
    """The nodes whose reports are in the store, whichever replica they reported to; asked for by instant queries.

    Only series with the external `labels` and without a `job` count: those with a `job` were scraped. The value of
    LAST_REPORT is the timestamp of a node's last report, and the node's age is counted from it.

    `in_thread` runs a function on a pool thread. Each query takes at most `query_timeout` seconds.
    """

    shared = True

    def __init__(
        self,
        client: QueryClient,
        families: Families,
        labels: Sequence[tuple[str, str]],
        clocks: Clocks,
        *,
        stale_after: float,
        query_timeout: float,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self.stale_after = stale_after
        self.matchers = "".join(f",{name}={_quoted(value)}" for name, value in labels)
        if "job" not in dict(labels):
            self.matchers += ',job=""'
        self._client = client
        self._families = families.names
        self._all = "|".join(row_names(families))
        self._clocks = clocks
        self._query_timeout = query_timeout
        self._in_thread = in_thread
        self._looks = DeferredSemaphore(_LOOKS)

    async def known(self, node_ids: Sequence[str]) -> dict[str, Known]:
        """Return what the store knows about these nodes, fresh or not, without nodes that have no live series.

        Raises a QueryFault.
        """
        known: dict[str, Known] = {}
        for named in _portions(node_ids, _MOST_NAMED):
            for node_id, values in (await self._values(_Lookup(self._clocks.time()), named)).items():
                last = values.get(LAST_REPORT, math.nan)
                known[node_id] = Known(last if _is_time(last) else 0.0, frozenset(values))
        return known

    async def heard(self, node_ids: Sequence[str]) -> dict[str, float]:
        """Return when these nodes last reported, in Unix seconds, by their live series. Raises a QueryFault.

        It reads one series of each node, a ninth of what `known` reads.
        """
        heard: dict[str, float] = {}

        def take(node_id: str, value: float) -> None:
            if _is_time(value):
                heard[node_id] = value

        for named in _portions(node_ids, _MOST_CHARACTERS):
            await self._each(_Lookup(self._clocks.time()), LAST_REPORT, take, named=named)
        return heard

    async def silent(self, before: float) -> dict[str, float]:
        """Return the nodes whose newest report is older than this Unix time, with its time. Raises a QueryFault."""
        found: dict[str, float] = {}

        def take(node_id: str, value: float) -> None:
            if _is_time(value) and NODE_ID.fullmatch(node_id):
                found[node_id] = value

        await self._each(_Lookup(self._clocks.time()), LAST_REPORT, take, only=f" < {before:.3f}")
        return found

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node. Raises a Fault."""
        asked = _Lookup(self._clocks.time())
        look = NodesAt(list, self._clocks.monotonic(), asked.at)
        if not NODE_ID.fullmatch(node_id):
            return look
        try:
            found = await self._values(asked, [node_id])
        except QueryFault as fault:
            raise beside_queries(fault) from None
        values = found.get(node_id, {})
        last = values.get(LAST_REPORT, math.nan)
        if not (last > asked.at - self.stale_after and _is_time(last)):
            return look
        columns = [[_reported(values.get(name, math.nan))] for name in self._families]
        entries = _entries([node_id], [last], columns, look)
        return look._replace(entries=lambda: entries)

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes: one query for their last reports, and one for each family in `names`.

        Raises a Fault.
        """
        try:
            if within is not None:
                return await self._look(names, _Lookup(self._clocks.time(), self._clocks.monotonic() + within))
            await self._looks.acquire()
            try:
                return await self._look(names, _Lookup(self._clocks.time()))
            finally:
                self._looks.release()
        except QueryFault as fault:
            raise beside_queries(fault) from None

    async def _look(self, names: Sequence[str], asked: _Lookup) -> NodesAt:
        now = self._clocks.monotonic()
        ids: list[str] = []
        last: list[float] = []
        limit = asked.at - self.stale_after

        def fresh(node_id: str, value: float) -> None:
            if value > limit and _is_time(value) and NODE_ID.fullmatch(node_id):
                ids.append(node_id)
                last.append(value)

        await self._each(asked, LAST_REPORT, fresh)
        index: dict[str, int] = await self._in_thread(lambda: {node_id: at for at, node_id in enumerate(ids)})
        columns: list[list[float | None]] = []
        for name in self._families:
            column: list[float | None] = [None] * len(ids)
            columns.append(column)
            if name in names:
                await self._each(asked, name, _into(column, index))
        look = NodesAt(list, now, asked.at)

        def make() -> list[Entry]:
            entries = _entries(ids, last, columns, look)
            index.clear()
            for column in columns:
                pause()
                column.clear()
            return entries

        entries: list[Entry] = await self._in_thread(make)
        return look._replace(entries=lambda: entries)

    async def _each(
        self,
        asked: _Lookup,
        name: str,
        take: Callable[[str, float], None],
        *,
        named: Sequence[str] = (),
        only: str = "",
    ) -> None:
        """Call `take` with each node's value of the series `name`, on a pool thread.

        `named` limits the query to these nodes, if there are any. `only` is a comparison in PromQL, put after it.
        """
        matchers = f"{_named(named)}{self.matchers}" if named else self.matchers[1:]
        answer = await self._fetch(asked, f"max by (node_id) ({name}{{{matchers}}}){only}")

        def read() -> None:
            for block in blocks(answer.body):
                for element in block:
                    take(element.metric.node_id, float(element.value[1]))
                pause()

        await self._read(read)

    async def _values(self, asked: _Lookup, node_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the values of all live series of these nodes, by node and name."""
        promql = f'max by (__name__,node_id) ({{__name__=~"{self._all}",{_named(node_ids)}{self.matchers}}})'
        answer = await self._fetch(asked, promql)
        found: dict[str, dict[str, float]] = {}

        def read() -> None:
            for block in blocks(answer.body):
                for element in block:
                    found.setdefault(element.metric.node_id, {})[element.metric.name] = float(element.value[1])

        await self._read(read)
        return found

    async def _read(self, read: Callable[[], None]) -> None:
        try:
            await self._in_thread(read)
        except ValueError as error:
            raise UpstreamUnavailable(f"the store's answer is not what Prometheus' API promises: {error}") from None

    async def _fetch(self, asked: _Lookup, promql: str) -> Answer:
        """Return the store's answer to an instant query; raise a QueryFault if its status is not 200."""
        left = min(self._query_timeout, asked.deadline - self._clocks.monotonic())
        if left <= 0:
            raise QueryTimeout("the store took too long to answer about the nodes")
        params = [("query", promql), ("time", f"{asked.at:.3f}"), ("timeout", f"{left:.3f}")]
        # If some of its parts are down, Thanos by default answers with the rest, and calls that a success.
        params.append(("partial_response", "false"))
        if self.stale_after > _LOOKBACK:  # a store that knows neither of these looks back 5 minutes
            params += [(name, f"{self.stale_after:g}s") for name in ("lookback_delta", "max_lookback")]
        answer = await self._client.fetch(newest(Query(INSTANT, tuple(params), left)))
        if answer.status != 200:
            raise _refused(answer)
        return answer


class _Lookup(NamedTuple):
    """The time of all queries of one look, in Unix seconds, and their common deadline by the monotonic clock."""

    at: float
    deadline: float = math.inf


def _named(node_ids: Sequence[str]) -> str:
    """Return the PromQL matcher for these nodes."""
    # Of the characters of an id, only the dot has a meaning in a regular expression.
    alternatives = "|".join(node_ids).replace(".", _DOT)
    return f'node_id=~"{alternatives}"'


def _portions(node_ids: Iterable[str], most: int) -> list[list[str]]:
    """Return the valid ids, divided into queries of at most `most` ids and _MOST_CHARACTERS characters."""
    portions: list[list[str]] = []
    budget = 0
    for node_id in filter(NODE_ID.fullmatch, node_ids):
        # The length as it is written in the query: an id may consist of dots.
        length = len(node_id) + (len(_DOT) - 1) * node_id.count(".") + 1
        budget -= length
        if not portions or budget < 0 or len(portions[-1]) == most:
            portions.append([])
            budget = _MOST_CHARACTERS - length
        portions[-1].append(node_id)
    return portions


def _is_time(value: float) -> bool:
    """Return whether a value from the store can be the time of a report: the store may have any value."""
    return 0 <= value <= MAX_MILLISECONDS / 1000


def _into(column: list[float | None], index: dict[str, int]) -> Callable[[str, float], None]:
    def take(node_id: str, value: float) -> None:
        at = index.get(node_id)
        if at is not None:
            column[at] = _reported(value)

    return take


def _reported(value: float) -> float | None:
    """Return a value as it was reported: an int if it is whole, None if it is not finite, which no report has."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _entries(
    ids: Sequence[str], last: Sequence[float], columns: Sequence[Sequence[float | None]], look: NodesAt
) -> list[Entry]:
    """Return the nodes as entries of a table; call it on a pool thread if they are many."""
    offset = look.now - look.unix_now
    return [
        Entry(at + offset, NodeReport(node_id, tuple(values), at, at, ()))
        for node_id, at, *values in breathing(zip(ids, last, *columns, strict=True), _BLOCK)
    ]


def _refused(answer: Answer) -> QueryFault:
    """Return the fault for an answer whose status is not 200, with the store's error text."""
    said = problem(answer.body)
    text = (
        f"the store answers {answer.status}: {said.error[:300]}" if said.error else f"the store answers {answer.status}"
    )
    if said.errorType == "timeout" or answer.status == 504:
        return QueryTimeout(text)
    return Overloaded(text) if answer.status in {429, 503} else UpstreamUnavailable(text)


def _quoted(text: str) -> str:
    """Return a text as a string literal of PromQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
