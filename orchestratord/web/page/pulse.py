"""Whether queries are answered, as one that is asked for the purpose tells: only while somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.logger import Logger

from orchestratord.errors import Fault
from orchestratord.query import Query

if TYPE_CHECKING:
    from orchestratord.upstream import QueryClient

log = Logger()

#: Seconds after which an answer is old, and after which a failure is.
_GOOD_FOR, _BAD_FOR = 10.0, 2.0
#: Seconds that a page waits for the answer; after that it says what is known.
PATIENCE = 0.7
_QUERY = Query("/api/v1/query", (("query", "vector(1)"), ("timeout", "3s")), 3.0)


class Pulse:
    """Asks `client` the cheapest of queries. Belongs to the reactor thread.

    `fault` is why the last one was not answered, None if it was; `asking` is true until one has ended.
    """

    def __init__(self, reactor: Any, client: QueryClient) -> None:
        self._reactor = reactor
        self._client = client
        self._old_at = float("-inf")
        self._under_way: Deferred[None] | None = None
        self.fault: str | None = None
        self.asking = True

    async def feel(self) -> None:
        """Ask if the last answer is old, and wait for a moment."""
        if self._under_way is None and self._reactor.seconds() >= self._old_at:
            asking = Deferred.fromCoroutine(self._ask())
            if not asking.called:
                self._under_way = asking
        if self._under_way is not None:
            waiter: Deferred[None] = Deferred()
            self._under_way.addCallback(lambda _: None if waiter.called else waiter.callback(None))
            waiter.addTimeout(PATIENCE, self._reactor)
            try:
                await waiter
            except TimeoutError:
                return

    async def _ask(self) -> None:
        try:
            answer = await self._client.fetch(_QUERY)
        except Fault as fault:
            self.fault = str(fault)
        except Exception:  # noqa: BLE001 - a page says how things are; it does not fail because they are bad
            log.failure("Prometheus could not be asked")
            self.fault = "internal error; the log of the orchestrator says more"
        else:
            self.fault = None if answer.status == 200 else f"Prometheus answers a plain query with {answer.status}"
        self.asking = False
        self._old_at = self._reactor.seconds() + (_GOOD_FOR if self.fault is None else _BAD_FOR)
        self._under_way = None
