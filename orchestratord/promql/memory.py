"""Answers plain selectors of the latest value from the NodeStore instead of Prometheus."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from orchestratord.errors import Overloaded, UpstreamUnreachable
from orchestratord.promql.client import Answer
from orchestratord.promql.params import INSTANT
from orchestratord.promql.selection import Selection, select
from orchestratord.runtime.byte_cache import ByteCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestratord.nodes.families import Families
    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.promql.client import QueryClient
    from orchestratord.promql.params import Mode, Query
    from orchestratord.runtime.memory_budget import MemoryBudget, Reservation
    from orchestratord.runtime.time_slices import TimeSlices

#: Nodes that are matched in one turn of the reactor, and instructions of RE2 in one turn: a millisecond each.
_BLOCK, _STEPS_IN_A_TURN = 1000, 250_000
#: Instructions of RE2 that a query may take in all: at worst 1 s, if RE2 cannot use its automaton.
_MAX_STEPS = 200_000_000
#: Characters of the longest query whose parsed selection is cached, and bytes of that cache.
_MAX_REMEMBERED = 500
_REMEMBERED = 33_554_432
#: The cost of calling RE2 for one node id, in instructions of RE2.
_CALL_STEPS = 500
_UNKNOWN: Any = object()
_WARNING = "no Prometheus could be reached: the orchestrator answered from the latest reports in its memory"


class MemoryClient:
    """A QueryClient in front of another one, `client`: it answers plain selectors of the latest value from memory.

    It answers a query only if this is exactly a selector of one known family with matchers on `node_id` alone, at the
    present time, valid by Prometheus' rules, and within the bounds of `bounded_parser`, `node_matching` and this file.
    All other queries go to `client`. `mode` says when memory is used: "always", "fallback" (no Prometheus can be
    reached) or "never". In the mode fallback, `reachable` returns whether any Prometheus is known to answer; while it
    returns False, no query waits for one. `clocks` has `monotonic` and `time`. `budget` bounds the memory of answers.
    Belongs to the reactor thread.
    """

    def __init__(
        self,
        slices: TimeSlices,
        client: QueryClient,
        nodes: NodeStore,
        families: Families,
        *,
        clocks: Any,
        mode: Mode,
        budget: MemoryBudget,
        reachable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._slices = slices
        self._client = client
        self._nodes = nodes
        self._clocks = clocks
        self._mode = mode
        self._budget = budget
        self._reachable = reachable
        self._indexes = {name: index for index, name in enumerate(families.names)}
        #: Schedulers repeat their queries, and parsing one takes longer than the lookup.
        self._remembered: ByteCache[str, Selection | None] = ByteCache(
            _REMEMBERED, lambda promql, selection: 2 * len(promql) + (0 if selection is None else selection.size)
        )

    async def fetch(self, query: Query) -> Answer:
        """Return the answer, from memory or from the client; raises Overloaded, or what the client raises."""
        if self._mode == "always":
            answer = await self._from_memory(query, ())
            return await self._client.fetch(query) if answer is None else answer
        if self._mode == "fallback" and not self._reachable():
            answer = await self._from_memory(query, (_WARNING,))
            if answer is not None:
                return answer
        try:
            return await self._client.fetch(query)
        except UpstreamUnreachable:
            answer = await self._from_memory(query, (_WARNING,)) if self._mode == "fallback" else None
            if answer is None:
                raise
            return answer

    def at_once(self, query: Query) -> Answer | None:
        """Return memory's answer to a selector that names a few nodes, or the answer that the client has at once."""
        selection = self._selected(query) if self._mode == "always" else None
        if selection is None:
            return self._client.at_once(query)
        if not _is_short(selection):
            return None
        return _answer([self._found(selection, self._named(selection.node_ids or ()))], ())

    def _selected(self, query: Query) -> Selection | None:
        if query.path != INSTANT:
            return None
        params = dict(query.params)
        if not params.keys() <= {"query", "timeout"} or len(params) < len(query.params):
            return None
        if query.timeout is None and params.get("timeout"):
            return None  # Prometheus reports the error
        promql = params.get("query", "")
        if len(promql) > _MAX_REMEMBERED:
            return select(promql, self._indexes)
        found = self._remembered.get(promql, _UNKNOWN)
        if found is _UNKNOWN:
            found = select(promql, self._indexes)
            self._remembered.put(promql, found)
        return found

    async def _from_memory(self, query: Query, warnings: tuple[str, ...]) -> Answer | None:
        """Return the answer from memory; None if memory cannot answer the query, or if that takes too much work."""
        selection = self._selected(query)
        if selection is None:
            return None
        reservation = self._budget.reservation()
        try:
            parts = await self._parts(selection, reservation)
        except BaseException:
            reservation.end()
            raise
        if parts is None:
            reservation.end()
            return None
        answer = _answer(parts, warnings)
        if not reservation.hold(len(answer.body)):
            raise _out_of_memory()
        return replace(answer, reservation=reservation)

    async def _parts(self, selection: Selection, reservation: Reservation) -> list[bytes] | None:
        """Return the elements of the result, a part for each turn of the reactor; None if it takes too much work."""
        parts: list[bytes] = []
        steps = 0
        # A selector without node ids copies the references to all entries.
        held = 0 if selection.node_ids is not None else 8 * len(self._nodes)
        if not reservation.hold(held):
            raise _out_of_memory()
        has_turns = not _is_short(selection)
        if has_turns:
            await self._slices.turn()
        for number, entries in enumerate(self._blocks(selection)):
            if has_turns and number:
                await self._slices.turn()
            steps += sum(len(entry.report.node_id) for entry in entries) * selection.steps
            if steps > _MAX_STEPS:
                return None
            found = self._found(selection, entries)
            held += len(found) + 1
            if not reservation.hold(held):
                raise _out_of_memory()
            if found:
                parts.append(found)
        return parts

    def _blocks(self, selection: Selection) -> Iterator[list[Entry]]:
        """Yield the entries that may match, in blocks that can be matched in one turn of the reactor."""
        if selection.node_ids is None:
            blocks = self._nodes.blocks(self._clocks.monotonic(), _BLOCK)
        else:
            named = selection.node_ids
            blocks = (self._named(named[at : at + _BLOCK]) for at in range(0, len(named), _BLOCK))
        for block in blocks:
            if selection.steps:
                yield from _of_few_steps(block, selection.steps)
            else:
                yield block

    def _named(self, node_ids: Iterable[str]) -> list[Entry]:
        now = self._clocks.monotonic()
        return [entry for node_id in node_ids if (entry := self._nodes.get(node_id, now)) is not None]

    def _found(self, selection: Selection, entries: list[Entry]) -> bytes:
        """Return the elements of the result for these entries, as JSON with commas between them."""
        # Family names and node ids have no character that JSON escapes.
        head = f'{{"metric":{{"__name__":"{selection.name}","node_id":"'
        middle = f'"}},"value":[{round(self._clocks.time(), 3)!r},"'
        column, matches = selection.column, selection.matches
        found = []
        for entry in entries:
            report = entry.report
            value = report.values[column]
            if value is not None and matches(report.node_id):
                found.append(f'{head}{report.node_id}{middle}{printed(value)}"]}}')
        return ",".join(found).encode()


def _out_of_memory() -> Overloaded:
    return Overloaded("the answers that are being passed on fill their memory; try again")


def _is_short(selection: Selection) -> bool:
    """Return whether a selection takes less than one turn of the reactor."""
    named = selection.node_ids
    return named is not None and len(named) <= _BLOCK and _most_steps(named, selection) <= _STEPS_IN_A_TURN


def _most_steps(node_ids: list[str], selection: Selection) -> int:
    return selection.steps * sum(map(len, node_ids)) if selection.steps else 0


def _of_few_steps(block: list[Entry], steps: int) -> Iterator[list[Entry]]:
    """Yield a block's entries in pieces that take at most _STEPS_IN_A_TURN, or are one entry."""
    piece: list[Entry] = []
    taken = 0
    for entry in block:
        work = steps * len(entry.report.node_id) + _CALL_STEPS
        if piece and taken + work > _STEPS_IN_A_TURN:
            yield piece
            piece, taken = [], 0
        piece.append(entry)
        taken += work
    if piece:
        yield piece


def _answer(parts: list[bytes], warnings: tuple[str, ...]) -> Answer:
    """Return the answer with these parts of a result, joined with one copy: 10 MB for 100,000 nodes."""
    pieces = [b'{"status":"success","data":{"resultType":"vector","result":[']
    for part in parts:
        if part:
            pieces += (part, b",")
    if len(pieces) > 1:
        pieces.pop()
    pieces.append(b"]}" + (b',"warnings":' + msgspec.json.encode(warnings) if warnings else b"") + b"}")
    return Answer(200, b"application/json", b"".join(pieces), ((b"X-Orchestrator-Source", b"memory"),))


def printed(value: float) -> str:
    """Return a value as Prometheus' API prints it: the shortest digits that read back to the same float.

    It has an exponent only below 1e-6 and from 1e21 on, as in JavaScript.
    """
    number = float(value)
    if number.is_integer() and abs(number) < 2**53:
        return f"{number:.0f}"
    if 1e-6 <= abs(number) < 1e21:
        return f"{Decimal(repr(number)):f}".removesuffix(".0")
    return repr(number)
