"""Whether Prometheus answers queries, and which alerts are firing; asked only when a page is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.logger import Logger

from orchestratord.errors import Fault
from orchestratord.promql.alerts import ALERTS, firing
from orchestratord.promql.params import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestratord.promql.alerts import Alert
    from orchestratord.promql.client import Answer, QueryClient

log = Logger()

#: Seconds for which an answer is good, and for which a failure is.
_GOOD_FOR, _BAD_FOR = 10.0, 2.0
#: Seconds that a page waits for an answer; after that it shows the last one.
PATIENCE = 0.7
_QUERY = Query("/api/v1/query", (("query", "vector(1)"), ("timeout", "3s")), 3.0)


class _Probe:
    """Sends one query if its last answer is old. `take` uses an answer, and returns its fault, or None."""

    def __init__(self, reactor: Any, client: QueryClient, query: Query, take: Callable[[Answer], str | None]) -> None:
        self._reactor = reactor
        self._client = client
        self._query = query
        self._take = take
        self._old_at = float("-inf")
        self._under_way: Deferred[None] | None = None
        self.fault: str | None = None
        self.asking = True

    def begin(self) -> Deferred[None] | None:
        """Send the query if the last answer is old; return a Deferred of the end of the query under way, or None."""
        if self._under_way is None and self._reactor.seconds() >= self._old_at:
            asking = Deferred.fromCoroutine(self._ask())
            if not asking.called:
                self._under_way = asking
        return self._under_way

    async def _ask(self) -> None:
        try:
            self.fault = self._take(await self._client.fetch(self._query))
        except Fault as fault:
            self.fault = str(fault)
        except Exception:  # noqa: BLE001 - a page shows that Prometheus fails; it does not fail with it
            log.failure("Prometheus could not be asked")
            self.fault = "internal error; the log of the orchestrator says more"
        self.asking = False
        self._old_at = self._reactor.seconds() + (_GOOD_FOR if self.fault is None else _BAD_FOR)
        self._under_way = None


class PrometheusProbe:
    """Sends `client` the cheapest query, and the query for the firing alerts. Belongs to the reactor thread."""

    def __init__(self, reactor: Any, client: QueryClient) -> None:
        self._reactor = reactor
        self._query = _Probe(reactor, client, _QUERY, _answered)
        self._alerts = _Probe(reactor, client, ALERTS, self._take_alerts)
        self._firing: list[Alert] = []

    @property
    def fault(self) -> str | None:
        """Why the last query was not answered; None if it was."""
        return self._query.fault

    @property
    def asking(self) -> bool:
        """Whether the first query has not ended yet."""
        return self._query.asking

    @property
    def alerts(self) -> list[Alert]:
        """The firing alerts; empty if the upstream does not list them."""
        return self._firing if self._alerts.fault is None else []

    async def refresh(self) -> None:
        """Send the queries whose answers are old, and wait for both, PATIENCE seconds at most."""
        under_way = [asking for asking in (self._query.begin(), self._alerts.begin()) if asking is not None]
        if not under_way:
            return
        waiter: Deferred[None] = Deferred()
        left = len(under_way)

        def ended(_: object) -> None:
            nonlocal left
            left -= 1
            if not left and not waiter.called:
                waiter.callback(None)

        for asking in under_way:
            asking.addCallback(ended)
        waiter.addTimeout(PATIENCE, self._reactor)
        try:
            await waiter
        except TimeoutError:
            return

    def _take_alerts(self, answer: Answer) -> str | None:
        alerts = firing(answer.body) if answer.status == 200 else None
        self._firing = alerts or []
        return None if alerts is not None else f"the upstream does not say which alerts are firing: {answer.status}"


def _answered(answer: Answer) -> str | None:
    return None if answer.status == 200 else f"Prometheus answers a plain query with {answer.status}"
