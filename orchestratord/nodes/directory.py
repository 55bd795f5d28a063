"""What is known of the nodes, for whoever looks: by this process' table, or by the store that all replicas share."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from twisted.internet.defer import DeferredSemaphore

from orchestratord.errors import Overloaded, QueryFault, QueryTimeout, UpstreamUnavailable, beside_queries
from orchestratord.nodes.report import NodeReport
from orchestratord.nodes.store import Entry
from orchestratord.promql.instant_vector import blocks, problem
from orchestratord.promql.params import INSTANT, Query, newest
from orchestratord.remote_write.sample_row import LAST_REPORT, MAX_MILLISECONDS, row_names
from orchestratord.runtime.gil_yield import breathing, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.defer import Deferred

    from orchestratord.nodes.families import Families
    from orchestratord.nodes.store import NodeStore
    from orchestratord.promql.client import Answer, QueryClient
    from orchestratord.runtime.clock import Clocks

#: Nodes that one query for all their families names.
_MOST_NAMED = 200
#: Characters that name nodes in a query: VictoriaMetrics takes 16,384 for a whole one.
_MOST_CHARACTERS = 8000
#: Looks at the whole fleet at a time: of 100,000 nodes, each takes tens of megabytes.
_LOOKS = 2
#: Seconds that an instant query looks back, unless it is told otherwise.
_LOOKBACK = 300.0
#: Entries made in one go.
_BLOCK = 500

#: A dot in a regular expression.
_DOT = "[.]"
_NODE_ID = re.compile(r"[A-Za-z0-9._:-]{1,253}")


class NodesAt(NamedTuple):
    """What is known of the fresh nodes at one moment.

    `entries` returns them, unordered, on any thread, in a list that is the caller's: where there may be many, on a pool
    thread, which lets go of them in steps (`breath.let_go`), for all at once would hold the interpreter. `now` is that
    moment by the clock of their `seen`, `unix_now` by the calendar, both in seconds.
    """

    entries: Callable[[], list[Entry]]
    now: float
    unix_now: float


class NodeDirectory(Protocol):
    """Where to look for nodes. Belongs to the reactor thread."""

    #: Seconds without a report after which a node is in no answer.
    stale_after: float
    #: Whether this is what all replicas have heard; else, what this process has.
    shared: bool
    #: What a query in PromQL adds to its matchers so that it finds these nodes alone: nothing, or `,name="value"`.
    matchers: str

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes; their reports may lack the families that are not named.

        Raises a Fault, also if it takes longer than `within` seconds, for which it does not wait for its turn.
        """
        ...

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node: with its entry, or without any if it is not fresh. Raises a Fault."""
        ...


class TableDirectory:
    """The nodes that have reported to this process. They age by the monotonic one of `clocks`."""

    shared = False
    matchers = ""

    def __init__(self, nodes: NodeStore, clocks: Clocks) -> None:
        self.stale_after = nodes.stale_after
        self._nodes = nodes
        self._clocks = clocks

    async def look(self, names: Sequence[str], within: float | None = None) -> NodesAt:
        """Look at all nodes, with all families, at once."""
        del names, within
        now = self._clocks.monotonic()
        return NodesAt(lambda: self._nodes.snapshot(now), now, self._clocks.time())

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node."""
        now = self._clocks.monotonic()
        entry = self._nodes.get(node_id, now)
        return NodesAt(lambda: [] if entry is None else [entry], now, self._clocks.time())

    async def forget(self, node_id: str) -> bool:
        """Forget a node; return whether it was there and fresh."""
        return self._nodes.forget(node_id, self._clocks.monotonic())


class Known(NamedTuple):
    """What a store knows of a node: the newest time of a report, in Unix seconds, and the series that it still answers.

    LAST_REPORT is among `names`; where it is not, `last_report` is 0.
    """

    last_report: float
    names: frozenset[str]


class StoreDirectory:
    """The nodes whose reports a store has, by instant queries, whoever they reported to.

    Only series with these external `labels`, and no `job`, are looked at: what was scraped is another's. The value of
    LAST_REPORT is when a node's last report was made, by its own timestamp, from which its age is counted.

    `in_thread` runs a function on a pool thread. Each query takes `query_timeout` seconds at the most.
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
        """Return what the store knows of these nodes, fresh or not; nothing of those of which it answers no series.

        Raises a QueryFault.
        """
        known: dict[str, Known] = {}
        for named in _portions(node_ids, _MOST_NAMED):
            for node_id, values in (await self._values(_Lookup(self._clocks.time()), named)).items():
                last = values.get(LAST_REPORT, math.nan)
                known[node_id] = Known(last if _is_time(last) else 0.0, frozenset(values))
        return known

    async def heard(self, node_ids: Sequence[str]) -> dict[str, float]:
        """Return when these nodes last reported, by what the store still answers, in Unix seconds; raises a QueryFault.

        One series of each: a ninth of what `known` asks for.
        """
        heard: dict[str, float] = {}

        def take(node_id: str, value: float) -> None:
            if _is_time(value):
                heard[node_id] = value

        for named in _portions(node_ids, _MOST_CHARACTERS):
            await self._each(_Lookup(self._clocks.time()), LAST_REPORT, take, named=named)
        return heard

    async def silent(self, before: float) -> dict[str, float]:
        """Return the nodes whose newest report is from before this Unix time, and its time. Raises a QueryFault."""
        found: dict[str, float] = {}

        def take(node_id: str, value: float) -> None:
            if _is_time(value) and _NODE_ID.fullmatch(node_id):
                found[node_id] = value

        await self._each(_Lookup(self._clocks.time()), LAST_REPORT, take, only=f" < {before:.3f}")
        return found

    async def node(self, node_id: str) -> NodesAt:
        """Look at one node. Raises a Fault."""
        asked = _Lookup(self._clocks.time())
        look = NodesAt(list, self._clocks.monotonic(), asked.at)
        if not _NODE_ID.fullmatch(node_id):
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
        """Look at all nodes: one query for when they last reported, one for each family that is named.

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
            if value > limit and _is_time(value) and _NODE_ID.fullmatch(node_id):
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
        """Give each node's value of one name to `take`, on a pool thread.

        Only of these nodes, if any are `named`; `only` compares the value in PromQL.
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
        """Return the values that the store answers of these nodes, by node and name."""
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
        """Return the store's answer to an instant query; raises a QueryFault if it is anything but a 200."""
        left = min(self._query_timeout, asked.deadline - self._clocks.monotonic())
        if left <= 0:
            raise QueryTimeout("the store took too long to say what it knows of the nodes")
        params = [("query", promql), ("time", f"{asked.at:.3f}"), ("timeout", f"{left:.3f}")]
        # Thanos answers with what it has got, if some of its parts are away, and calls that a success.
        params.append(("partial_response", "false"))
        if self.stale_after > _LOOKBACK:  # older stores than those that know one of these look back 5 minutes
            params += [(name, f"{self.stale_after:g}s") for name in ("lookback_delta", "max_lookback")]
        answer = await self._client.fetch(newest(Query(INSTANT, tuple(params), left)))
        if answer.status != 200:
            raise _refused(answer)
        return answer


class _Lookup(NamedTuple):
    """The moment that the queries of one look are about, in Unix seconds; until when they all may take, monotonic."""

    at: float
    deadline: float = math.inf


def _named(node_ids: Sequence[str]) -> str:
    """Return the matcher of these nodes."""
    # Of all that ids are made of only the dot means something in a regular expression.
    alternatives = "|".join(node_ids).replace(".", _DOT)
    return f'node_id=~"{alternatives}"'


def _portions(node_ids: Iterable[str], most: int) -> list[list[str]]:
    """Return what can be ids, in as many queries as they take, of up to `most` each."""
    portions: list[list[str]] = []
    budget = 0
    for node_id in filter(_NODE_ID.fullmatch, node_ids):
        # As it is written: an id may be all dots.
        length = len(node_id) + (len(_DOT) - 1) * node_id.count(".") + 1
        budget -= length
        if not portions or budget < 0 or len(portions[-1]) == most:
            portions.append([])
            budget = _MOST_CHARACTERS - length
        portions[-1].append(node_id)
    return portions


def _is_time(value: float) -> bool:
    """Return whether it can be the time of a report, as a sample row has them; a store may have anything."""
    return 0 <= value <= MAX_MILLISECONDS / 1000


def _into(column: list[float | None], index: dict[str, int]) -> Callable[[str, float], None]:
    def take(node_id: str, value: float) -> None:
        at = index.get(node_id)
        if at is not None:
            column[at] = _reported(value)

    return take


def _reported(value: float) -> float | None:
    """Return a value as it was reported: whole ones were whole numbers, and no report has one that is not finite."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _entries(
    ids: Sequence[str], last: Sequence[float], columns: Sequence[Sequence[float | None]], look: NodesAt
) -> list[Entry]:
    """Return the nodes as a table would have them; on a pool thread if they are many."""
    offset = look.now - look.unix_now
    return [
        Entry(at + offset, NodeReport(node_id, tuple(values), at, at, ()))
        for node_id, at, *values in breathing(zip(ids, last, *columns, strict=True), _BLOCK)
    ]


def _refused(answer: Answer) -> QueryFault:
    """Return what it means that the store did not answer with 200, in its own words."""
    said = problem(answer.body)
    text = (
        f"the store answers {answer.status}: {said.error[:300]}" if said.error else f"the store answers {answer.status}"
    )
    if said.errorType == "timeout" or answer.status == 504:
        return QueryTimeout(text)
    return Overloaded(text) if answer.status in {429, 503} else UpstreamUnavailable(text)


def _quoted(text: str) -> str:
    """Return a text as PromQL quotes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
