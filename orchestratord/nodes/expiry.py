"""The timer that removes stale nodes. `NodeStore` (`store.py`) decides which nodes are stale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from orchestratord.nodes.store import NodeStore
    from orchestratord.telemetry.self_metrics import SelfMetrics

log = Logger()

#: Nodes removed in one turn of the reactor: about a millisecond.
AT_ONCE = 1000
#: The most ids in a line of the log.
_NAMED = 5


class ExpirySweep(Service):
    """Removes stale nodes every `every` seconds. `monotonic` is the clock by which the table's nodes age.

    `running` is a clock that stands still while the machine is suspended, since this process cannot sweep then.
    """

    def __init__(
        self,
        reactor: Any,
        nodes: NodeStore,
        telemetry: SelfMetrics,
        monotonic: Callable[[], float],
        every: float,
        *,
        running: Callable[[], float],
    ) -> None:
        self._nodes = nodes
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._running = running
        self._every = every
        self._last = float("-inf")
        self._failure: str | None = None
        self._reactor = reactor
        self._loop = LoopingCall(self.sweep)
        self._loop.clock = reactor
        self._done: Deferred[LoopingCall] | None = None

    def startService(self) -> None:
        """Sweep now and then every `every` seconds."""
        super().startService()
        self._done = self._loop.start(self._every)

    def stopService(self) -> None:
        """Stop sweeping."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def sweep(self) -> None:
        """Remove up to AT_ONCE stale nodes; if there may be more, go on in the next turn of the reactor."""
        now = self._monotonic()
        try:
            expired = self._nodes.expire(now, AT_ONCE)
            if expired:
                self._telemetry.expired(len(expired))
                more = ", ..." if len(expired) > _NAMED else ""
                log.info(
                    "expired {count} nodes without a report for {seconds:g} s: {ids}",
                    count=len(expired),
                    seconds=self._nodes.stale_after,
                    ids=", ".join(expired[:_NAMED]) + more,
                )
            if len(expired) == AT_ONCE:
                self._reactor.callLater(0, self.sweep)
        except Exception as error:  # noqa: BLE001 - a LoopingCall ends for good at the first exception
            log.failure("the sweep failed; the next one is in {seconds:g} s", seconds=self._every)
            self._failure = f"the expiry sweep fails: {type(error).__name__}"
        else:
            self._last = self._running()
            self._failure = None

    def unhealthy(self) -> str | None:
        """Return why the sweep does not work, or None if it does."""
        if self._failure:
            return self._failure
        silent = self._running() - self._last
        if silent > 3 * self._every + 5:
            return f"the expiry sweep has not run for {silent:.0f} s"
        return None
