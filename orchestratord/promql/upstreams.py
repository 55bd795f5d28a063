"""Queries to Prometheus over HTTP: one deadline over the whole exchange, and failover. Answers are not parsed."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.internet.error import ConnectError, DNSLookupError, UserError
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from orchestratord import __version__
from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable, UpstreamUnreachable
from orchestratord.http_client.agent import WholeBody, cancellable, http_agent
from orchestratord.http_client.body import BodyCutOff, BodyOverLimit, TinyChunks, close, read_body
from orchestratord.http_client.error_text import reason_of
from orchestratord.http_client.retry_after import retry_after
from orchestratord.promql.client import Answer
from orchestratord.promql.params import Query
from orchestratord.promql.upstream_answer import Broken, broken, is_own, may_be_own
from orchestratord.promql.upstream_health import UpstreamHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.web.client import HTTPConnectionPool
    from twisted.web.iweb import IPolicyForHTTPS

    from orchestratord.promql.upstream_health import Upstream
    from orchestratord.runtime.concurrency_limit import ConcurrencyLimit
    from orchestratord.runtime.memory_budget import MemoryBudget
    from orchestratord.telemetry.self_metrics import SelfMetrics

#: Bytes of parameters in a URL. Longer ones are sent as a form, since proxies refuse long URLs.
MAX_URL_PARAMS = 4096
#: Routes of Prometheus that take a form as well as a URL's parameters.
_TAKES_FORM = frozenset(
    {
        "/api/v1/query",
        "/api/v1/query_range",
        "/api/v1/series",
        "/api/v1/labels",
        "/api/v1/format_query",
        "/api/v1/query_exemplars",
    }
)


#: The User-Agent of clients' queries and of probes, which an upstream's log can tell apart.
AGENT = f"orchestratord/{__version__}"
PROBE_AGENT = f"{AGENT} (probe)"
#: The queries of a probe. The first does not wait in Prometheus' own queue of queries; if its answer is not one of
#: Prometheus, since a proxy blocks it, say, the second decides.
_PROBES = (Query("/api/v1/status/buildinfo", ()), Query("/api/v1/query", (("query", "1"),)))


class _Missed(Exception):
    """An upstream did not answer as Prometheus. `reached`: it answered something else; `wait`: its Retry-After in s."""

    def __init__(self, text: str, *, reached: bool, wait: int | None = None) -> None:
        super().__init__(text)
        self.reached = reached
        self.wait = wait


class Upstreams:
    """A QueryClient that asks the Prometheus servers at the URLs `bases`, in their order, until one answers.

    `query_timeout` bounds a whole exchange in seconds, failover and the wait for `limit` included. `max_answer_bytes`
    bounds one body, `budget` the memory of all answers until they are passed on, `limit` the exchanges at a time.
    `authorization` returns the value of that header for each request; `now` is the Unix time; `draw` returns numbers
    from 0 to 1, for the jitter of probes. Belongs to the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        agent: IAgent,
        bases: Sequence[str],
        telemetry: SelfMetrics,
        *,
        headers: Sequence[tuple[str, str]] = (),
        authorization: Callable[[], str] | None = None,
        query_timeout: float,
        limit: ConcurrencyLimit,
        max_answer_bytes: int,
        budget: MemoryBudget,
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        first_probe_after: float = 0.0,
    ) -> None:
        self._reactor = reactor
        self._agent = agent
        #: A service: while it runs, it probes the upstreams.
        self.health = UpstreamHealth(
            reactor, bases, telemetry, probe=self._probe, random=draw, first_after=first_probe_after
        )
        self._telemetry = telemetry
        self._headers = Headers({"Accept": ["application/json"], "User-Agent": [AGENT]})
        #: Whether `headers` have a User-Agent, which probes then use too.
        self._named = any(name.lower() == "user-agent" for name, _ in headers)
        if self._named:
            self._headers.removeHeader("User-Agent")
        for name, value in headers:
            self._headers.addRawHeader(name, value)
        self._authorization = authorization
        self._query_timeout = query_timeout
        self._limit = limit
        self._max_answer_bytes = max_answer_bytes
        self._budget = budget
        self._now = now

    async def fetch(self, query: Query) -> Answer:
        """Return the first answer that is one of Prometheus, with any status.

        Raises Overloaded, QueryTimeout or UpstreamUnavailable. Cancelling the awaiting Deferred aborts the exchange.
        """
        seconds = min(self._query_timeout, query.timeout or self._query_timeout)
        exchange = Deferred.fromCoroutine(self._in_its_turn(query))
        exchange.addTimeout(seconds, self._reactor)
        try:
            return await exchange
        except TimeoutError:
            raise QueryTimeout(f"no whole answer from Prometheus within {seconds:g} s") from None

    def at_once(self, query: Query) -> None:
        """Return None: every answer needs an exchange."""

    async def _in_its_turn(self, query: Query) -> Answer:
        await self._limit.acquire()
        try:
            return await self._exchange(query)
        finally:
            self._limit.release()

    async def _exchange(self, query: Query) -> Answer:
        missed: list[_Missed] = []
        for upstream in self.health.in_order():
            try:
                return await self._attempt(upstream, query)
            except _Missed as error:
                missed.append(error)
        kind = UpstreamUnavailable if any(error.reached for error in missed) else UpstreamUnreachable
        fault = kind("no Prometheus could answer: " + "; ".join(str(error) for error in missed))
        waits = [error.wait for error in missed if error.wait is not None]
        if waits:
            fault.retry_after = min(waits)
        raise fault

    async def _attempt(self, upstream: Upstream, query: Query) -> Answer:
        """Return an upstream's answer; raises _Missed if the next upstream is to be asked."""
        began = self._reactor.seconds()
        try:
            answer = await cancellable(Deferred.fromCoroutine(self._ask(upstream, query)))
        except CancelledError:
            # The deadline has passed or the client has left. An upstream that has answered something since is slow.
            timed_out = self._reactor.seconds() - began >= self._query_timeout
            self._telemetry.upstream_request(upstream.base, "timeout" if timed_out else "cancelled")
            if upstream.heard < began:
                self.health.doubt(upstream)
            raise
        except BodyOverLimit as error:
            self._answered(upstream)
            raise UpstreamUnavailable(f"{upstream.base}: {error}") from None
        except Overloaded:
            self._answered(upstream)
            raise
        except Broken as error:
            self._telemetry.upstream_request(upstream.base, "broken")
            self.health.doubt(upstream)
            raise _Missed(f"{upstream.base}: {error}", reached=True, wait=error.retry_after) from None
        except Exception as error:  # noqa: BLE001 - whatever an Agent may raise: refused, no route, no such host, TLS
            self._telemetry.upstream_request(upstream.base, "unreachable")
            reason = reason_of(error)
            if isinstance(error, ConnectError | DNSLookupError | UserError):
                self.health.failed(upstream, reason)
            else:
                self.health.doubt(upstream)
            raise _Missed(f"{upstream.base}: {reason}", reached=False) from None
        self._answered(upstream)
        return answer

    def _answered(self, upstream: Upstream) -> None:
        self._telemetry.upstream_request(upstream.base, "answered")
        self.health.answered(upstream)

    async def _probe(self, upstream: Upstream) -> None:
        """Return if an upstream answers as Prometheus; raise an error if it does not."""
        first, second = _PROBES
        try:
            try:
                await self._ask(upstream, first, PROBE_AGENT)
            except Broken:
                await self._ask(upstream, second, PROBE_AGENT)
        except (Overloaded, BodyOverLimit):
            return  # it answers, though the answer does not fit here

    async def _ask(self, upstream: Upstream, query: Query, agent: str = AGENT) -> Answer:
        response = await self._sent(upstream, query, agent)
        content_type = (response.headers.getRawHeaders(b"Content-Type") or [b""])[0]
        if may_be_own(response.code, content_type):
            upstream.heard = self._reactor.seconds()
        reservation = self._budget.reservation()
        try:
            body = await read_body(response, self._max_answer_bytes, reservation=reservation)
        except (BodyCutOff, TinyChunks) as error:
            raise Broken(str(error)) from None
        if response.code == 204 and not body and query.path == "/api/v1/query_exemplars":  # the query selects nothing
            return Answer(204, b"", b"")
        seconds = (
            retry_after(response.headers.getRawHeaders(b"Retry-After"), self._now())
            if response.code in {429, 503}
            else None
        )
        wait = None if seconds is None else max(1, math.ceil(seconds))
        if is_own(response.code, content_type, body):
            headers = () if wait is None else ((b"Retry-After", b"%d" % wait),)
            return Answer(response.code, content_type, body, headers, reservation=reservation)
        reservation.end()
        raise broken(response.code, content_type, body, wait)

    def _sent(self, upstream: Upstream, query: Query, agent: str) -> Deferred[IResponse]:
        """Send a query; fires with the response when its headers are there."""
        url = (upstream.base + query.path).encode()
        params = urlencode(query.params).encode()
        headers = self._headers
        if agent != AGENT and not self._named:
            headers = headers.copy()
            headers.setRawHeaders("User-Agent", [agent])
        if self._authorization is not None:
            headers = headers.copy()
            headers.setRawHeaders("Authorization", [self._authorization()])
        if len(params) > MAX_URL_PARAMS and query.path in _TAKES_FORM:
            headers = headers.copy()
            headers.addRawHeader("Content-Type", "application/x-www-form-urlencoded")
            return self._agent.request(b"POST", url, headers, WholeBody(params))
        return self._agent.request(b"GET", b"%b?%b" % (url, params) if params else url, headers)


@implementer(IAgent)
class PlainAgent:
    """An IAgent that asks for answers without compression, and refuses others, whose unpacked size has no bound.

    Prometheus takes five times as long for a gzipped answer, and unpacking it would take as long again.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Send a request; the Deferred fails with Broken if the answer is compressed."""
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    encoding = b", ".join(response.headers.getRawHeaders(b"Content-Encoding") or ()).decode("latin-1")
    if encoding.lower() in {"", "identity"}:
        return response
    close(response)
    raise Broken(f"answered with Content-Encoding {encoding[:40]!a}, which was not asked for")


def plain_agent(reactor: Any, pool: HTTPConnectionPool, policy: IPolicyForHTTPS | None = None) -> IAgent:
    """Return an agent that keeps its connections in the pool; `policy` says which certificates https trusts."""
    return PlainAgent(http_agent(reactor, policy, pool=pool))
