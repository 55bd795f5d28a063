"""Identical queries share one exchange with Prometheus, and, if that is wanted, its answer for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's name for it

from orchestratord.errors import QueryTimeout
from orchestratord.promql.client import Answer
from orchestratord.promql.params import Query, memory
from orchestratord.runtime.byte_cache import ByteCache
from orchestratord.runtime.single_flight import Flight

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from orchestratord.promql.client import QueryClient

#: Bytes of answers that are kept at the most, with what was asked.
CACHE_BYTES = 67_108_864
#: Bytes of an answer beside its body.
_ANSWER_BYTES = 600


class _Exchange(NamedTuple):
    """An exchange under way, and when it began, by the reactor's clock."""

    started: float
    flight: Flight[Answer]


class CoalescingClient:
    """A QueryClient before another one: `client` is asked once for all that ask the same at the same time.

    Each client keeps its own deadline, of `query_timeout` seconds or less, and may leave without hurting the others.
    `cache_seconds` is how long a complete answer of status 200 is given again, with its Age; 0 keeps none.
    """

    def __init__(
        self,
        reactor: Any,
        client: QueryClient,
        *,
        query_timeout: float,
        cache_seconds: float,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._query_timeout = query_timeout
        self._cache_seconds = cache_seconds
        self._exchanges: dict[Query, _Exchange] = {}
        self._cache: ByteCache[Query, tuple[float, Answer]] = ByteCache(
            cache_bytes, lambda query, kept: memory(query) + len(kept[1].body) + _ANSWER_BYTES
        )

    async def fetch(self, query: Query) -> Answer:
        """Return the answer of an exchange that is under way, or of a new one; raises what the client raises."""
        arrived = self._reactor.seconds()
        kept = self.at_once(query)
        if kept is not None:
            return kept
        deadline = arrived + min(self._query_timeout, query.timeout or self._query_timeout)
        while True:
            exchange = self._exchanges.get(query) or self._begin(query)
            waiting = exchange.flight.join()
            # The machine may have stopped this process for longer than the deadline, and a reactor refuses the past.
            waiting.addTimeout(max(0.0, deadline - self._reactor.seconds()), self._reactor)
            try:
                return await waiting
            except TimeoutError:
                raise QueryTimeout(f"no whole answer from Prometheus within {deadline - arrived:g} s") from None
            except QueryTimeout:
                # The exchange began before this client came, and so ended before its time: it has some left.
                if exchange.started >= arrived or self._reactor.seconds() >= deadline:
                    raise

    def at_once(self, query: Query) -> Answer | None:
        """Return the answer that is kept, if there is one."""
        return self._kept(query, self._reactor.seconds()) if self._cache_seconds else None

    def _begin(self, query: Query) -> _Exchange:
        work = Deferred.fromCoroutine(self._client.fetch(query))
        exchange = _Exchange(self._reactor.seconds(), Flight(work.addBoth(self._ended, query), cancel=True))
        if not work.called:
            self._exchanges[query] = exchange
        return exchange

    def _ended(self, result: Answer | Failure, query: Query) -> Answer | Failure:
        self._exchanges.pop(query, None)
        if self._cache_seconds and isinstance(result, Answer) and result.status == 200:
            self._keep(query, result)
        return result

    def _kept(self, query: Query, now: float) -> Answer | None:
        while (oldest := self._cache.oldest()) is not None and now - oldest[1][0] >= self._cache_seconds:
            self._cache.drop(oldest[0])
        found = self._cache.peek(query)
        if found is None:
            return None
        since, answer = found
        return replace(answer, headers=(*answer.headers, (b"Age", b"%d" % (now - since))))

    def _keep(self, query: Query, answer: Answer) -> None:
        self._cache.put(query, (self._reactor.seconds(), answer))
