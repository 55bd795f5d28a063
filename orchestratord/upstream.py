"""Prometheus over treq: connections kept, one deadline over the whole exchange, failover. Bytes in, bytes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlencode

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.internet.protocol import Protocol as BodyProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable, UpstreamUnreachable
from orchestratord.room import Room
from orchestratord.tls import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.web.iweb import IPolicyForHTTPS

    from orchestratord.query import Query
    from orchestratord.room import Lease
    from orchestratord.telemetry import Telemetry
    from orchestratord.turns import Turns

log = Logger()

T = TypeVar("T")

#: Seconds for which an upstream that could not be reached is passed over, as long as another is left to try.
SKIP_SECONDS = 5.0
#: Seconds for a connection to come about; less than a scheduler's patience, so that the next upstream has its turn.
CONNECT_SECONDS = 2.0
#: Longer parameters travel in a form: proxies in between refuse long URLs.
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


@dataclass(frozen=True)
class Answer:
    """An upstream's answer as it came: its status, its Content-Type, its body; and headers of our own about it.

    The Content-Type is empty where there is none, with a 204. `lease` is what the body holds of the memory for
    answers; whoever keeps the body keeps the lease.
    """

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    lease: Lease | None = field(default=None, compare=False, repr=False)


class QueryClient(Protocol):
    """What the query path needs of the world behind it."""

    async def fetch(self, query: Query) -> Answer:
        """Return the whole answer, or raise a QueryFault; cancelling ends the exchange."""
        ...

    def at_once(self, query: Query) -> Answer | None:
        """Return an answer of status 200 that needs no exchange, if there is one."""
        ...


class _Broken(Exception):
    """An upstream answered, but not as Prometheus does."""


class _TooLarge(Exception):
    """An upstream's answer is over the limit."""


class _Upstream:
    """One Prometheus, and what the last requests said about it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.up = True
        self.skip_until = 0.0
        self.last_answer = float("-inf")


class Upstreams:
    """The Prometheus servers, asked in their order until one answers.

    `query_timeout` bounds a whole exchange, failover and the wait for its turn included, in seconds;
    `max_answer_bytes` its body; `room` all the answers that are being collected and passed on; `turns` how many
    exchanges are in flight. `authorization` gives the value of that header for each request. Belongs to the reactor
    thread.
    """

    def __init__(
        self,
        reactor: Any,
        client: HTTPClient,
        bases: Sequence[str],
        telemetry: Telemetry,
        *,
        headers: Sequence[tuple[str, str]] = (),
        authorization: Callable[[], str] | None = None,
        query_timeout: float,
        turns: Turns,
        max_answer_bytes: int,
        room: Room,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._upstreams = [_Upstream(base) for base in bases]
        self._telemetry = telemetry
        self._headers = Headers({"Accept": ["application/json"]})
        for name, value in headers:
            self._headers.addRawHeader(name, value)
        self._authorization = authorization
        self._query_timeout = query_timeout
        self._turns = turns
        self._max_answer_bytes = max_answer_bytes
        self._room = room
        for base in bases:
            telemetry.upstream_known(base)

    async def fetch(self, query: Query) -> Answer:
        """Return the first upstream's answer that is one, with any status.

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
        """Return None: every answer is an exchange."""

    async def _in_its_turn(self, query: Query) -> Answer:
        await self._turns.take()
        try:
            return await self._exchange(query)
        finally:
            self._turns.give()

    async def _exchange(self, query: Query) -> Answer:
        failures: list[str] = []
        reached = False
        for upstream in self._in_turn():
            started = self._reactor.seconds()
            try:
                answer = await cancellable(Deferred.fromCoroutine(self._ask(upstream, query)))
            except CancelledError:
                # The deadline has passed or the client has left. Had it answered anything meanwhile, it was only slow.
                timed_out = self._reactor.seconds() - started >= self._query_timeout
                self._telemetry.upstream_request(upstream.base, "timeout" if timed_out else "cancelled")
                if timed_out and upstream.last_answer < started:
                    self._down(upstream, f"no answer within {self._query_timeout:g} s")
                raise
            except _TooLarge as error:
                self._answered(upstream)
                raise UpstreamUnavailable(f"{upstream.base}: {error}") from None
            except Overloaded:
                self._answered(upstream)
                raise
            except _Broken as error:
                self._telemetry.upstream_request(upstream.base, "broken")
                reached = True
                failures.append(f"{upstream.base}: {error}")
            except Exception as error:  # noqa: BLE001 - whatever an Agent may raise: refused, no route, no such host, TLS
                self._telemetry.upstream_request(upstream.base, "unreachable")
                reason = reason_of(error)
                failures.append(f"{upstream.base}: {reason}")
                self._down(upstream, reason)
            else:
                self._answered(upstream)
                return answer
        fault = UpstreamUnavailable if reached else UpstreamUnreachable
        raise fault("no Prometheus could answer: " + "; ".join(failures))

    def _in_turn(self) -> list[_Upstream]:
        now = self._reactor.seconds()
        return [upstream for upstream in self._upstreams if upstream.skip_until <= now] or self._upstreams[:]

    async def _ask(self, upstream: _Upstream, query: Query) -> Answer:
        url = upstream.base + query.path
        params = urlencode(query.params)
        headers = self._headers
        if self._authorization is not None:
            headers = headers.copy()
            headers.setRawHeaders("Authorization", [self._authorization()])
        if len(params) > MAX_URL_PARAMS and query.path in _TAKES_FORM:
            headers = headers.copy()
            headers.addRawHeader("Content-Type", "application/x-www-form-urlencoded")
            requested = self._request("POST", url, headers, params.encode())
        else:
            requested = self._request("GET", f"{url}?{params}" if params else url, headers, None)
        response = await requested
        lease = self._room.lease()
        body = await _body(response, self._max_answer_bytes, lease)
        content_type = (response.headers.getRawHeaders(b"Content-Type") or [b""])[0]
        unlike = None
        if 300 <= response.code < 400:
            unlike = ", a redirect, which is not followed"
        elif response.code == 204 and not body and query.path == "/api/v1/query_exemplars":  # it selects nothing
            return Answer(204, b"", b"")
        elif not content_type.lower().startswith(b"application/json"):
            shown = content_type[:200].decode("latin-1") or "no content type"
            unlike = f" with {shown!a}, which is no answer of Prometheus' API"
        if unlike is not None:
            lease.end()
            raise _Broken(f"answered {response.code}{unlike}")
        return Answer(response.code, content_type, body, lease=lease)

    def _request(self, method: str, url: str, headers: Headers, data: bytes | None) -> Deferred[Any]:
        return self._client.request(
            method, url, headers=headers, data=data, allow_redirects=False, unbuffered=True, reactor=self._reactor
        )

    def _answered(self, upstream: _Upstream) -> None:
        self._telemetry.upstream_request(upstream.base, "answered")
        upstream.last_answer = self._reactor.seconds()
        upstream.skip_until = 0.0
        if not upstream.up:
            upstream.up = True
            self._telemetry.upstream_up(upstream.base, up=True)
            log.info("upstream {upstream} is back", upstream=upstream.base)

    def _down(self, upstream: _Upstream, reason: str) -> None:
        upstream.skip_until = self._reactor.seconds() + SKIP_SECONDS
        if upstream.up:
            upstream.up = False
            self._telemetry.upstream_up(upstream.base, up=False)
            log.warn("upstream {upstream} is down: {reason}", upstream=upstream.base, reason=reason)


@implementer(IAgent)
class PlainAgent:
    """Asks for plain answers and takes no others, below treq, which asks for gzip and unpacks without a bound.

    Prometheus takes five times as long over a gzipped answer, and we would take as long again.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Request as any IAgent does; the Deferred fails with _Broken if the answer is encoded all the same."""
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    encoding = b", ".join(response.headers.getRawHeaders(b"Content-Encoding") or ()).decode("latin-1")
    if encoding.lower() in {"", "identity"}:
        return response
    collector = _BodyCollector(0, Room(0).lease())
    collector.done.addErrback(lambda _: None)
    response.deliverBody(collector)
    collector.done.cancel()
    raise _Broken(f"answered with Content-Encoding {encoding[:40]!a}, which was not asked for")


def http_client(reactor: Any, pool: HTTPConnectionPool, policy: IPolicyForHTTPS | None = None) -> HTTPClient:
    """Return a treq client that keeps its connections in the pool, and no cookies; `policy` says whom https trusts."""
    agent = PlainAgent(Agent(reactor, policy or BrowserLikePolicyForHTTPS(), connectTimeout=CONNECT_SECONDS, pool=pool))
    return HTTPClient(agent, IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[])))


def connection_pool(reactor: Any, connections: int) -> HTTPConnectionPool:
    """Return a pool that keeps up to so many idle connections to each upstream; whoever makes it closes it."""
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = connections
    # Shorter than what servers grant (Prometheus: 5 minutes), so that it is we who close.
    pool.cachedConnectionTimeout = 60
    return pool


class _BodyCollector(BodyProtocol):
    """Collects a response's body up to a limit, and as far as a lease goes, which it ends if there is no whole body."""

    def __init__(self, limit: int, lease: Lease) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._limit = limit
        self._lease = lease
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Take a part; over the limit, end the connection."""
        self._size += len(data)
        if self.done.called:
            return
        if self._size > self._limit:
            self._refuse(_TooLarge(f"the answer is over the limit of {self._limit} bytes"))
        elif not self._lease.hold(self._size):
            self._refuse(Overloaded("the answers that are being passed on fill their memory; try again"))
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Finish: only a body whose end was marked counts as whole."""
        if self.done.called:
            return
        if reason.check(ResponseDone):
            body = b"".join(self._parts)
            self._parts.clear()
            self.done.callback(body)
        else:
            self._forget()
            self.done.errback(_Broken(f"the answer broke off after {self._size} bytes"))

    def _refuse(self, error: Exception) -> None:
        self.done.errback(error)
        self._abort()

    def _forget(self) -> None:
        self._parts.clear()
        self._lease.end()

    def _abort(self) -> None:
        self._forget()
        if self.transport is not None:
            self.transport.loseConnection()


async def _body(response: IResponse, limit: int, lease: Lease) -> bytes:
    collector = _BodyCollector(limit, lease)
    response.deliverBody(collector)
    return await collector.done


def cancellable(work: Deferred[T]) -> Deferred[T]:
    """Return a Deferred of the same result that fails with CancelledError if it is cancelled, and with nothing else.

    An Agent's Deferred fails with ResponseNeverReceived then, which looks like an upstream that has died.
    """

    def cancel(_: object) -> None:
        outer.errback(Failure(CancelledError()))
        work.cancel()

    outer: Deferred[T] = Deferred(cancel)
    work.addCallbacks(
        lambda result: None if outer.called else outer.callback(result),
        lambda failure: None if outer.called else outer.errback(failure),
    )
    return outer


def reason_of(error: Exception) -> str:
    """Say in a few words why an upstream could not be reached."""
    causes = getattr(error, "reasons", None)
    if causes:
        error = causes[0].value
    # The upstream may have had a hand in it: a line of the log is one line.
    return ascii(readable(error).rstrip(".")[:300])[1:-1]
