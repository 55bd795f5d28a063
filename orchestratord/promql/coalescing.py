"""Identical queries at the same time share one exchange with Prometheus; its answer may be cached for a while."""

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

#: Bytes that cached answers may take, their queries included.
CACHE_BYTES = 67_108_864
#: Bytes that an answer takes besides its body.
_ANSWER_BYTES = 600


class _Exchange(NamedTuple):
    """An exchange under way, and when it began, by the reactor's clock."""

    started: float
    flight: Flight[Answer]


class CoalescingClient:
    """A QueryClient in front of another one, `client`, which gets one query for all who ask the same at the same time.

    Each caller has a deadline of its own, of `query_timeout` seconds or less, and may leave without effect on the
    others. `cache_seconds` is how long an answer of status 200 is cached; such an answer has a header Age. With 0
    nothing is cached. Belongs to the reactor thread.
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
        """Return the answer from the cache, of the exchange under way, or of a new one.

        Raises QueryTimeout, or what the client raises.
        """
        arrived = self._reactor.seconds()
        kept = self.at_once(query)
        if kept is not None:
            return kept
        deadline = arrived + min(self._query_timeout, query.timeout or self._query_timeout)
        while True:
            exchange = self._exchanges.get(query) or self._begin(query)
            waiting = exchange.flight.join()
            # This process may have been stopped for longer than the deadline, and callLater refuses negative delays.
            waiting.addTimeout(max(0.0, deadline - self._reactor.seconds()), self._reactor)
            try:
                return await waiting
            except TimeoutError:
                raise QueryTimeout(f"no whole answer from Prometheus within {deadline - arrived:g} s") from None
            except QueryTimeout:
                # The exchange began before this caller came, so it ended before the caller's own deadline: ask again.
                if exchange.started >= arrived or self._reactor.seconds() >= deadline:
                    raise

    def at_once(self, query: Query) -> Answer | None:
        """Return the answer from the cache, or None."""
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
