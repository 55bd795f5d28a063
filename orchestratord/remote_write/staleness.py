"""Stale markers: for a node that no replica hears from, and for a family that a node reports no longer.

Behind a stale marker an instant query returns nothing for the series. Without one it returns the last value for another
five minutes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from orchestratord.errors import QueryFault
from orchestratord.nodes.families import LAST_REPORT
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRow, with_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    from twisted.python.failure import Failure

    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.remote_write.node_directory import Known
    from orchestratord.remote_write.sample_row import SampleRowFormat
    from orchestratord.runtime.clock import Clocks

_T = TypeVar("_T")

log = Logger()

#: Seconds between two rounds of decisions about silent nodes.
LOOK_EVERY = 1.0
#: Nodes that are decided about in one go: a millisecond or two.
AT_ONCE = 1000
#: Seconds for which the store must have been healthy, with no report waiting for it, before it is asked: then the
#: reports to other replicas are in the store.
QUIET = 10.0
#: Seconds after which an answer of the store is too old to use.
LATE = 2.0
#: Seconds until the store is asked again after it gave no answer.
ASK_AGAIN = 5.0
#: Least seconds between two searches in the store for silent nodes: it may have nodes that no replica knows.
LEAST_SEARCH_EVERY = 30.0
#: At most so many nodes that another replica has heard from are asked about a second time, so many seconds after they
#: become stale there.
MOST_AGAIN, AGAIN_AFTER = 10_000, 2.0

_MILLISECOND = 0.001


class NodeLookup(Protocol):
    """Where the store is asked: `orchestratord.remote_write.node_directory.StoreDirectory`. Raises QueryFault."""

    async def heard(self, node_ids: Sequence[str]) -> Mapping[str, float]:
        """Return when these nodes last reported, in Unix seconds, without nodes that the store has nothing about."""
        ...

    async def known(self, node_ids: Sequence[str]) -> Mapping[str, Known]:
        """Return what an instant query returns about these nodes, without the nodes that it returns nothing about."""
        ...

    async def silent(self, before: float) -> Mapping[str, float]:
        """Return the nodes whose newest report is older than this Unix time, each with the time of that report."""
        ...


class Outbox(Protocol):
    """Where markers go: `orchestratord.remote_write.delivery.Delivery`."""

    def quiet_for(self) -> float:
        """Return for how many seconds the store has been healthy with no report waiting for it."""
        ...

    def add(self, rows: Sequence[bytes]) -> None:
        """Deliver rows."""
        ...


class _Late(Exception):
    """The store took more than LATE seconds to answer, or this process did not run for as long."""


class _Silent(NamedTuple):
    """A silent node, whose series may get stale markers.

    `heard` is the Unix time of its last report that is known here, `behind` the seconds by which its clock is behind
    ours. `again`: the store was asked before, and another replica had heard from the node at `heard`.
    """

    heard: float
    behind: float = 0.0
    again: bool = False


class StaleMarkers(Service):
    """Writes stale markers for nodes that have expired or are forgotten. An `Observer` of the table.

    The store is asked first. A node that any replica has heard from since gets no marker, and neither does a node whose
    series an instant query returns no longer. The timestamp of a marker is the time when the node became stale, which
    is `stale_after` seconds after its last report. So a report that is still being sent is newer than the marker, and
    several replicas write the same marker.

    A replica that has stopped writes no markers. So there is a second question about a node that another replica has
    heard from, when it becomes stale there; the markers of both replicas are the same. From time to time the store is
    searched for silent nodes. A node that is found twice with the same last report gets a marker: one search is not
    enough, since the clock of the node may be behind.

    `marked(outcome, count)` counts nodes by outcome, one of `metrics.MARKER_OUTCOMES`.
    """

    def __init__(
        self,
        reactor: Any,
        nodes: NodeStore,
        store: NodeLookup,
        outbox: Outbox,
        *,
        form: SampleRowFormat,
        names: Sequence[str],
        clocks: Clocks,
        marked: Callable[[str, int], None],
    ) -> None:
        self._reactor = reactor
        self._nodes = nodes
        self._store = store
        self._outbox = outbox
        self._form = form
        self._names = names
        self._clocks = clocks
        self._marked = marked
        #: The silent nodes that are not decided about yet.
        self._silent: dict[str, _Silent] = {}
        #: A heap of nodes that another replica has heard from, each with the Unix time of the second question.
        self._elsewhere: list[tuple[float, str, _Silent]] = []
        self._searched = self._asked = float("-inf")
        #: Since when the store has answered, or this service has run; None if the last question had no answer.
        self._answering: float | None = None
        #: The nodes that the last search found, each with the time of its newest report in the store.
        self._suspects: Mapping[str, float] = {}
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._looking: Deferred[None] | None = None

    def startService(self) -> None:
        """Start deciding about silent nodes."""
        super().startService()
        self._answering = self._reactor.seconds()
        self._loop.start(LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """Stop; another replica finds the nodes that are left, or this one after its next start."""
        super().stopService()
        self._loop.stop()
        if self._looking is not None:
            self._looking.cancel()

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Drop the nodes that report again."""
        del replaced
        if self._silent:
            for report in reports:
                self._silent.pop(report.node_id, None)

    def expired(self, entries: Sequence[Entry]) -> None:
        """Take nodes that went silent."""
        for entry in entries:
            heard = _time_of(entry)
            self._silent[entry.report.node_id] = _Silent(heard, entry.report.received_at - heard)
        # The store may not answer for long. Then the series of the oldest end by themselves, or a search finds them.
        excess = len(self._silent) - self._nodes.max_nodes
        if excess > 0:
            for node_id in list(islice(self._silent, excess)):
                del self._silent[node_id]
            self._marked("unanswered", excess)

    async def forget(self, node_id: str) -> bool:
        """Forget a node at once, here and in the store; return whether either knew it. Raises QueryFault."""
        known = (await self._store.known([node_id])).get(node_id)
        # After the question, because the node may have reported meanwhile: the marker must be the newest sample.
        entry = self._nodes.get(node_id, self._clocks.monotonic())
        self._nodes.forget(node_id, self._clocks.monotonic())
        self._silent.pop(node_id, None)
        if known is None and entry is None:
            return False
        last = max(known.last_report if known else 0.0, _time_of(entry) if entry else 0.0)
        names = known.names if known else frozenset(self._names)
        self._outbox.add([self._marker(node_id, names, last + _MILLISECOND)])
        self._marked("sent", 1)
        return True

    def _look(self) -> Deferred[None]:
        self._looking = Deferred.fromCoroutine(self._decide())
        return self._looking.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("deciding about silent nodes failed; the next try is in a second", failure)

    async def _decide(self) -> None:
        """Decide about the silent nodes, if the store can be asked now."""
        seconds = self._reactor.seconds()
        if seconds < self._asked:
            return
        try:
            if self._answering is None:
                await (self._heard(list(islice(self._silent, 1))) if self._silent else self._search())
                self._answering = seconds
            if min(self._outbox.quiet_for(), seconds - self._answering) < QUIET:
                return
            if seconds >= self._searched + max(self._nodes.stale_after, LEAST_SEARCH_EVERY):
                self._searched = seconds
                await self._search()
            self._remember()
            while self._silent:
                await self._ask(list(islice(self._silent, AT_ONCE)))
                self._remember()
        except _Late:
            # The other replicas may not have delivered yet what they heard meanwhile.
            self._answering = self._reactor.seconds()
        except QueryFault:
            self._asked = seconds + ASK_AGAIN
            self._answering = None
            self._marked("unanswered", len(self._silent))

    def _remember(self) -> None:
        """Take the nodes that are due for the second question and have not reported here since."""
        unix, now = self._clocks.time(), self._clocks.monotonic()
        while self._elsewhere and self._elsewhere[0][0] <= unix:
            _, node_id, silent = heapq.heappop(self._elsewhere)
            if self._nodes.get(node_id, now) is None:
                self._silent.setdefault(node_id, silent)

    async def _search(self) -> None:
        found = await self._store.silent(self._clocks.time() - self._nodes.stale_after)
        now = self._clocks.monotonic()
        for node_id, last in found.items():
            if self._suspects.get(node_id) == last and self._nodes.get(node_id, now) is None:
                self._silent.setdefault(node_id, _Silent(last, again=True))
        self._suspects = found

    async def _ask(self, node_ids: Sequence[str]) -> None:
        """Decide about these nodes. Another replica has heard from most of them, and this first question is cheap."""
        last = await self._heard(node_ids)
        outcomes: Counter[str] = Counter()
        silent = [node_id for node_id in node_ids if node_id in self._silent]
        ends = [node_id for node_id in silent if not self._left_alone(node_id, last.get(node_id), outcomes)]
        self._count(outcomes)
        if ends:
            await self._end(ends)

    async def _end(self, node_ids: Sequence[str]) -> None:
        """Write stale markers for nodes that no replica seems to have heard from, unless the store knows better now."""
        known = await self._timely(self._store.known(node_ids))
        outcomes: Counter[str] = Counter()
        rows: list[bytes] = []
        for node_id in node_ids:
            if node_id not in self._silent:
                continue
            stored = known.get(node_id)
            if stored is None or LAST_REPORT not in stored.names:
                # Without the time of the last report there is no marker: another replica may have heard from the node.
                self._left_alone(node_id, None, outcomes)
            elif not self._left_alone(node_id, stored.last_report, outcomes):
                outcomes["sent"] += 1
                at = max(self._silent.pop(node_id).heard, stored.last_report) + self._nodes.stale_after
                rows.append(self._marker(node_id, stored.names, at))
        self._outbox.add(rows)
        self._count(outcomes)

    async def _heard(self, node_ids: Sequence[str]) -> Mapping[str, float]:
        return await self._timely(self._store.heard(node_ids))

    async def _timely(self, answer: Awaitable[_T]) -> _T:
        began = self._reactor.seconds()
        said = await answer
        if self._reactor.seconds() - began > LATE:
            raise _Late
        return said

    def _left_alone(self, node_id: str, last: float | None, outcomes: Counter[str]) -> bool:
        """Return whether a node gets no marker, given when it last reported according to the store (None: unknown).

        Then it is dropped here, and comes back for the second question if another replica has heard from it.
        """
        silent = self._silent[node_id]
        if last is not None and last <= silent.heard + _MILLISECOND / 2:
            return False
        del self._silent[node_id]
        if not silent.again:
            outcomes["ended_already" if last is None else "heard_elsewhere"] += 1
            if last is not None and len(self._elsewhere) < MOST_AGAIN:
                due = last + silent.behind + self._nodes.stale_after + AGAIN_AFTER
                heapq.heappush(self._elsewhere, (due, node_id, _Silent(last, silent.behind, again=True)))
        return True

    def _count(self, outcomes: Counter[str]) -> None:
        for outcome, count in outcomes.items():
            self._marked(outcome, count)

    def _marker(self, node_id: str, names: Container[str], at: float) -> bytes:
        """Return a row with stale markers for the series of these names, at a Unix time."""
        values = b"".join(STALE if name in names else ABSENT for name in self._names)
        return self._form.row(SampleRow(node_id.encode(), round(at * 1000), values))


def with_stale_markers(report: NodeReport, old: NodeReport) -> bytes:
    """Return the row of a report, with a stale marker for each family that the report lacks and `old` had."""
    row = report.row
    for index, (value, before) in enumerate(zip(report.values, old.values, strict=True)):
        if value is None and before is not None:
            row = with_value(row, index, STALE)
    return row


def _time_of(entry: Entry) -> float:
    """Return the Unix time that a report has in the store."""
    report = entry.report
    return report.received_at if report.timestamp is None else report.timestamp
