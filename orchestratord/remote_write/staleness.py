"""The ends of nodes' series: a stale marker for who is silent everywhere, so that instant queries stop answering."""

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
from orchestratord.remote_write.sample_row import ABSENT, LAST_REPORT, STALE, SampleRow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    from twisted.python.failure import Failure

    from orchestratord.nodes.directory import Known
    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.store import Entry, NodeStore
    from orchestratord.remote_write.sample_row import SampleRowFormat
    from orchestratord.runtime.clock import Clocks

_T = TypeVar("_T")

log = Logger()

#: Seconds between looks at the nodes whose end is not settled.
LOOK_EVERY = 1.0
#: Nodes that are decided about at once: a millisecond or two.
AT_ONCE = 1000
#: For how long the store must have been well, as far as is known here, and nothing have waited for it, before it is
#: asked, in seconds: what other replicas have heard is in it then.
QUIET = 10.0
#: Seconds after which an answer is too late to go by.
LATE = 2.0
#: Seconds until the store is asked again if it gave no answer.
ASK_AGAIN = 5.0
#: The store is asked no more often than this who is silent in it, in seconds: there may be nodes that no replica knows.
LEAST_SEARCH_EVERY = 30.0
#: Nodes at most that are asked about again when their end is due elsewhere, and how many seconds after that.
MOST_AGAIN, AGAIN_AFTER = 10_000, 2.0

_MILLISECOND = 0.001


class NodeLookup(Protocol):
    """What the store knows: `orchestratord.nodes.directory.StoreDirectory`. Raises QueryFault."""

    async def heard(self, node_ids: Sequence[str]) -> Mapping[str, float]:
        """Return when these nodes last reported, in Unix seconds; nothing of one that a query does not answer."""
        ...

    async def known(self, node_ids: Sequence[str]) -> Mapping[str, Known]:
        """Return what an instant query answers of these nodes; a node that it answers nothing of is left out."""
        ...

    async def silent(self, before: float) -> Mapping[str, float]:
        """Return the nodes whose newest report is from before this Unix time, and its time."""
        ...


class Outbox(Protocol):
    """Where markers go: `orchestratord.remote_write.delivery.Delivery`."""

    def quiet_for(self) -> float:
        """Return for how long the store has been well, in seconds; 0 if something waits for it."""
        ...

    def add(self, rows: Sequence[bytes]) -> None:
        """Deliver rows."""
        ...


class _Late(Exception):
    """The store has taken long to answer: it has hung, or we have."""


class _Silent(NamedTuple):
    """A node to be ended: the time of the last report that is known here, and by how much its clock is behind ours.

    `again`: another replica had heard from it when the store was asked, and that was its last report.
    """

    heard: float
    behind: float = 0.0
    again: bool = False


class StaleMarkers(Service):
    """Ends the series of nodes that have expired or are forgotten. An `Observer` of the table.

    The store is asked first: a node that any replica has heard from since is left alone, and one whose series an
    instant query does not answer any more has ended already. A marker stands where the node became stale, `stale_after`
    after its last report, so that a report that is under way is newer, and several replicas write the same one.

    A replica that is no more cannot end what it has heard of. So a node that another one has heard from is asked about
    once more, when its end is due there; the marker of both is the same. And now and then the store is asked who is
    silent in it: such a node is ended if nothing has come from it between two searches; its clock may be behind.

    `marked(outcome, count)` counts what became of nodes.
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
        #: The nodes to be ended.
        self._silent: dict[str, _Silent] = {}
        #: A heap of those that others have heard from, each with the Unix time of the next question about it.
        self._elsewhere: list[tuple[float, str, _Silent]] = []
        self._searched = self._asked = float("-inf")
        #: Since when the store has answered, or this has run; None if it did not answer at last.
        self._answering: float | None = None
        #: Who was silent at the last search, with the time of the newest report in the store.
        self._suspects: Mapping[str, float] = {}
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._looking: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._answering = self._reactor.seconds()
        self._loop.start(LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """Stop looking; the nodes that are left are found by another replica, or at the next start."""
        super().stopService()
        self._loop.stop()
        if self._looking is not None:
            self._looking.cancel()

    def updated(self, reports: Sequence[NodeReport], replaced: Sequence[NodeReport | None]) -> None:
        """Leave alone who is back."""
        del replaced
        if self._silent:
            for report in reports:
                self._silent.pop(report.node_id, None)

    def expired(self, entries: Sequence[Entry]) -> None:
        """Take nodes whose series are to be ended."""
        for entry in entries:
            heard = _time_of(entry)
            self._silent[entry.report.node_id] = _Silent(heard, entry.report.received_at - heard)
        # If the store cannot be asked for long: the oldest have ended by themselves, or are found by a search.
        excess = len(self._silent) - self._nodes.max_nodes
        if excess > 0:
            for node_id in list(islice(self._silent, excess)):
                del self._silent[node_id]
            self._marked("unanswered", excess)

    async def forget(self, node_id: str) -> bool:
        """Forget a node at once, here and in the store; return whether anybody knew it. Raises QueryFault."""
        known = (await self._store.known([node_id])).get(node_id)
        # Now, for it may have reported meanwhile: the marker goes behind all that is forgotten.
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
        self._looking = Deferred.fromCoroutine(self._flush())
        return self._looking.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("the ends of nodes could not be settled; the next try is in a second", failure)

    async def _flush(self) -> None:
        """Decide about the nodes that are waiting for it, if the store can be asked now."""
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
            # What the other replicas had for it meanwhile may not be in it yet.
            self._answering = self._reactor.seconds()
        except QueryFault:
            self._asked = seconds + ASK_AGAIN
            self._answering = None
            self._marked("unanswered", len(self._silent))

    def _remember(self) -> None:
        """Take the nodes whose end is due elsewhere, and that have not reported here since."""
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
        """Settle the ends of these nodes. Of most another replica has heard, which takes the store little to say."""
        last = await self._heard(node_ids)
        outcomes: Counter[str] = Counter()
        silent = [node_id for node_id in node_ids if node_id in self._silent]
        ends = [node_id for node_id in silent if not self._left_alone(node_id, last.get(node_id), outcomes)]
        self._count(outcomes)
        if ends:
            await self._end(ends)

    async def _end(self, node_ids: Sequence[str]) -> None:
        """End the series of nodes of which nobody seems to have heard; what the store says now decides."""
        known = await self._timely(self._store.known(node_ids))
        outcomes: Counter[str] = Counter()
        rows: list[bytes] = []
        for node_id in node_ids:
            if node_id not in self._silent:
                continue
            stored = known.get(node_id)
            if stored is None or LAST_REPORT not in stored.names:
                # No marker where nothing says when the node last reported: another replica may have heard from it.
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
        """Return whether a node's series are not to be ended, if the store says that it last reported at this time.

        It is forgotten here then, until it is asked about once more if another replica has heard from it.
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
        """Return the row that ends the series of these names at a Unix time."""
        values = b"".join(STALE if name in names else ABSENT for name in self._names)
        return self._form.row(SampleRow(node_id.encode(), round(at * 1000), values))


def _time_of(entry: Entry) -> float:
    """Return the Unix time under which a report is in the store."""
    report = entry.report
    return report.received_at if report.timestamp is None else report.timestamp
