"""The latest value of a plain selector, answered from the table instead of Prometheus."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
import re2
from promql_parser import MatchOp, VectorSelector
from promql_parser import parse as parse_promql
from twisted.internet.task import deferLater

from orchestratord.errors import Overloaded, UpstreamUnreachable
from orchestratord.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestratord.catalogue import Catalogue
    from orchestratord.nodes import Entry, NodeStore
    from orchestratord.options import Mode
    from orchestratord.query import Query
    from orchestratord.room import Room
    from orchestratord.upstream import QueryClient

#: Nodes that are matched in one turn of the reactor: about a millisecond.
_BLOCK = 1000
#: Characters of a query whose selection is remembered, and how many are: 30 MB at most.
_MAX_REMEMBERED = 500
_REMEMBERED = 16_384
_WARNING = "no Prometheus could be reached: the orchestrator answered from the latest reports in its memory"
_LITERALS = re2.compile(r"[A-Za-z0-9_:\-]+(\|[A-Za-z0-9_:\-]+)*")


class Selection:
    """What a plain selector asks for: one family, by its index in the catalogue, and which nodes.

    `node_ids` are the only nodes that can match, where the matchers name them; None: any. `matches` decides.
    """

    def __init__(self, name: str, index: int, matchers: list[Any]) -> None:
        self.name = name
        self.index = index
        self.node_ids: list[str] | None = None
        self._tests = [self._test(matcher.op, matcher.value) for matcher in matchers]

    def _test(self, op: MatchOp, value: str) -> Callable[[str], bool]:
        if op == MatchOp.Equal:
            self.node_ids = [value]
            return lambda node_id: node_id == value
        if op == MatchOp.NotEqual:
            return lambda node_id: node_id != value
        if op == MatchOp.Re and _LITERALS.fullmatch(value):
            self.node_ids = list(dict.fromkeys(value.split("|")))
            names = frozenset(self.node_ids)
            return lambda node_id: node_id in names
        pattern = re2.compile(f"(?s:{value})")
        if op == MatchOp.Re:
            return lambda node_id: pattern.fullmatch(node_id) is not None
        return lambda node_id: pattern.fullmatch(node_id) is None

    def matches(self, node_id: str) -> bool:
        """Return whether every matcher does."""
        return all(test(node_id) for test in self._tests)


class LatestFromMemory:
    """A QueryClient before another one: plain selectors of the latest value never, always, or at need from the table.

    A query is answered here only if it is exactly a selector of one catalogue family with matchers on `node_id`, at the
    present time; everything else is `client`'s. `reachable` returns whether any Prometheus is known to answer: in the
    mode fallback nobody waits for one while none is. `clocks` has `monotonic` and `time`. The answers that are about
    the whole table take of `room`.
    """

    def __init__(
        self,
        reactor: Any,
        client: QueryClient,
        nodes: NodeStore,
        catalogue: Catalogue,
        *,
        clocks: Any,
        mode: Mode,
        room: Room,
        reachable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._nodes = nodes
        self._clocks = clocks
        self._mode = mode
        self._room = room
        self._reachable = reachable
        indexes = {name: index for index, name in enumerate(catalogue.names)}
        self._select = partial(select, indexes=indexes)
        #: Schedulers ask the same of the same nodes again and again; parsing takes longer than looking up.
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._select)

    async def fetch(self, query: Query) -> Answer:
        """Return the answer, from the table or from the client; raises what the client raises."""
        if self._mode == "always":
            selection = self._selected(query)
            return await (self._client.fetch(query) if selection is None else self._answer(selection, ()))
        if self._mode == "fallback" and not self._reachable():
            selection = self._selected(query)
            if selection is not None:
                return await self._answer(selection, (_WARNING,))
        try:
            return await self._client.fetch(query)
        except UpstreamUnreachable:
            selection = self._selected(query) if self._mode == "fallback" else None
            if selection is None:
                raise
            return await self._answer(selection, (_WARNING,))

    def at_once(self, query: Query) -> Answer | None:
        """Return the answer to a selector that names its nodes, if it comes from the table, or one that is kept."""
        selection = self._selected(query) if self._mode == "always" else None
        if selection is None:
            return self._client.at_once(query)
        if selection.node_ids is None:
            return None
        now = self._clocks.monotonic()
        return self._envelope(selection, next(self._matching(selection, now)), ())

    def _selected(self, query: Query) -> Selection | None:
        params = dict(query.params)
        if (
            query.path != "/api/v1/query"
            or not params.keys() <= {"query", "timeout"}
            or len(params) < len(query.params)
        ):
            return None
        promql = params.get("query", "")
        return (self._remembered if len(promql) <= _MAX_REMEMBERED else self._select)(promql)

    async def _answer(self, selection: Selection, warnings: tuple[str, ...]) -> Answer:
        matching: list[Entry] = []
        for block in self._matching(selection, self._clocks.monotonic()):
            if selection.node_ids is None:
                await deferLater(self._reactor, 0)
            matching += block
        answer = self._envelope(selection, matching, warnings)
        lease = self._room.lease()
        if not lease.hold(len(answer.body)):
            raise Overloaded("the answers that are being passed on fill their memory; try again")
        return replace(answer, lease=lease)

    def _envelope(self, selection: Selection, entries: list[Entry], warnings: tuple[str, ...]) -> Answer:
        unix_now = round(self._clocks.time(), 3)
        result: list[Any] = []
        for entry in entries:
            value = entry.report.values[selection.index]
            if value is not None:
                metric = {"__name__": selection.name, "node_id": entry.report.node_id}
                result.append({"metric": metric, "value": [unix_now, printed(value)]})
        envelope: dict[str, Any] = {"status": "success", "data": {"resultType": "vector", "result": result}}
        if warnings:
            envelope["warnings"] = warnings
        return Answer(200, b"application/json", msgspec.json.encode(envelope), ((b"X-Orchestrator-Source", b"memory"),))

    def _matching(self, selection: Selection, now: float) -> Iterator[list[Entry]]:
        """Return the entries that match, in one block if the selector names its nodes."""
        if selection.node_ids is None:
            blocks = self._nodes.blocks(now, _BLOCK)
        else:
            named = (self._nodes.get(node_id, now) for node_id in selection.node_ids)
            blocks = iter([[entry for entry in named if entry is not None]])
        return ([entry for entry in block if selection.matches(entry.report.node_id)] for block in blocks)


def select(promql: str, indexes: dict[str, int]) -> Selection | None:
    """Return what a query selects, or None if it is anything but a plain selector of a family with matchers on node_id.

    `indexes` are the families' places in the catalogue.
    """
    try:
        expression = parse_promql(promql)
    except ValueError:
        return None  # Prometheus says what is wrong with it
    if not isinstance(expression, VectorSelector) or expression.offset is not None or expression.at is not None:
        return None
    matchers = expression.matchers.matchers
    plain = not expression.matchers.or_matchers and all(matcher.name == "node_id" for matcher in matchers)
    if expression.name not in indexes or not plain:
        return None
    try:
        return Selection(expression.name, indexes[expression.name], matchers)
    except re2.error:
        return None


def printed(value: float) -> str:
    """Return a value as Prometheus' API prints it: the shortest digits that read back to the same float.

    With an exponent only below 1e-6 and from 1e21 on, as JavaScript does.
    """
    number = float(value)
    if number.is_integer() and abs(number) < 2**53:
        return f"{number:.0f}"
    if 1e-6 <= abs(number) < 1e21:
        return f"{Decimal(repr(number)):f}".removesuffix(".0")
    return repr(number)
