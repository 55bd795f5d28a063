"""How every request of ours gets on its way: the agent that sends it, and the connection that it is sent on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IResolutionReceiver, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS, HTTP11ClientProtocol
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from orchestratord.security.tls import readable

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IConsumer, IHostResolution, IProtocol, IProtocolFactory
    from twisted.web.client import URI
    from twisted.web.iweb import IPolicyForHTTPS

T = TypeVar("T")

#: Seconds for a connection to come about; less than a scheduler's patience, so that the next upstream has its turn.
CONNECT_SECONDS = 2.0
#: Seconds for which one address of a name is waited for before the next one is tried beside it (RFC 8305).
NEXT_ADDRESS_SECONDS = 0.25
#: Addresses of one name that are tried.
MAX_ADDRESSES = 16
#: Bytes of the head of an answer, with whatever answers of 1xx stand before it.
MAX_HEAD = 16_384
#: Bytes of it that are read at a time.
_PIECE = 4096


def http_agent(
    reactor: Any,
    policy: IPolicyForHTTPS | None = None,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    pool: HTTPConnectionPool | None = None,
) -> Agent:
    """Return the agent for requests to any http or https URL that `orchestratord.http_client.urls` takes.

    `policy` says whom https trusts; without a pool each request has a connection of its own.
    """
    endpoints = _Endpoints(reactor, policy or BrowserLikePolicyForHTTPS(), connect_seconds)
    pool = _Pool(reactor, persistent=False) if pool is None else pool
    agent: Agent = Agent.usingEndpointFactory(reactor, endpoints, pool)
    return agent


def connection_pool(reactor: Any, connections: int) -> HTTPConnectionPool:
    """Return a pool that keeps up to so many idle connections to each server; whoever makes it closes it."""
    pool = _Pool(reactor, persistent=True)
    pool.maxPersistentPerHost = connections
    # Shorter than what servers grant (Prometheus: 5 minutes), so that it is we who close.
    pool.cachedConnectionTimeout = 60
    return pool


class HeadTooLong(Exception):
    """The head of an answer is over the limit."""


class _Protocol(HTTP11ClientProtocol):
    """A connection on which the head of an answer has a bound: Twisted has none, and logs each answer of 1xx."""

    _head = 0

    def request(self, request: Any) -> Deferred[Any]:
        """Send a request."""
        self._head = 0
        requested: Deferred[Any] = super().request(request)
        return requested

    def dataReceived(self, bytes: bytes) -> None:  # noqa: A002 - as in Twisted
        """Take a part of an answer, unless its head is too long."""
        rest = bytes
        while rest and self._parser is not None and self._parser.state in {STATUS, HEADER}:
            if self._head > MAX_HEAD:
                self._giveUp(Failure(HeadTooLong(f"the head of the answer is longer than {MAX_HEAD} bytes")))
                return
            piece, rest = rest[:_PIECE], rest[_PIECE:]
            self._head += len(piece)
            super().dataReceived(piece)
        if rest:
            super().dataReceived(rest)


class _Factory(_HTTP11ClientFactory):
    def buildProtocol(self, addr: Any) -> HTTP11ClientProtocol:
        del addr
        return _Protocol(self._quiescentCallback)


class _Pool(HTTPConnectionPool):
    _factory = _Factory


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, reactor: Any, policy: IPolicyForHTTPS, seconds: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._seconds = seconds

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return how the server of a URI is connected to."""
        endpoint = HostEndpoint(self._reactor, uri.host.decode("ascii"), uri.port, self._seconds)
        if uri.scheme == b"https":
            return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return endpoint


@implementer(IStreamClientEndpoint)
class HostEndpoint:
    """Connects to a host: a name is looked up as it is written, an address is not looked up.

    Twisted's own HostnameEndpoint puts each name through IDNA, which refuses the underscores of docker-compose, and
    tells of a refused connection only when the next address would have its turn, 0.3 s later. `seconds` bounds the
    attempt at each address.
    """

    def __init__(self, reactor: Any, host: str, port: int, seconds: float) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._seconds = seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return a Deferred of the first connection that comes about, or of the last failure."""
        if isIPAddress(self._host) or isIPv6Address(self._host):
            address = IPv4Address if isIPAddress(self._host) else IPv6Address
            connecting: Deferred[IProtocol] = self._endpoint(address("TCP", self._host, self._port)).connect(
                protocolFactory
            )
            return connecting
        attempts = _Attempts(self._reactor, self._host, self._endpoint, protocolFactory)
        self._reactor.nameResolver.resolveHostName(attempts, self._host, portNumber=self._port)
        return attempts.connected

    def _endpoint(self, address: IAddress) -> Any:
        kind = TCP6ClientEndpoint if isinstance(address, IPv6Address) else TCP4ClientEndpoint
        return kind(self._reactor, address.host, address.port, timeout=self._seconds)  # type: ignore[attr-defined]


@implementer(IResolutionReceiver)
class _Attempts:
    """The attempts at a name's addresses, in their order: the next one when one has failed, or takes long."""

    def __init__(self, reactor: Any, host: str, endpoint: Any, factory: IProtocolFactory) -> None:
        self.connected: Deferred[IProtocol] = Deferred(self._cancelled)
        self._host = host
        self._endpoint = endpoint
        self._factory = factory
        self._addresses: list[IAddress] = []
        self._under_way: list[Deferred[IProtocol]] = []
        self._over = False
        self._next = LoopingCall(self._attempt)
        self._next.clock = reactor

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Wait for the addresses."""

    def addressResolved(self, address: IAddress) -> None:
        """Keep an address."""
        if isinstance(address, IPv4Address | IPv6Address) and len(self._addresses) < MAX_ADDRESSES:
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """Begin with the first address."""
        if self._over:
            return
        if not self._addresses:
            self._end(Failure(DNSLookupError(f"no address for the host name {self._host!a}")))
            return
        self._next.start(NEXT_ADDRESS_SECONDS)

    def _attempt(self) -> None:
        if not self._addresses:
            self._next.stop()
            return
        attempt = self._endpoint(self._addresses.pop(0)).connect(self._factory)
        self._under_way.append(attempt)
        attempt.addCallbacks(self._succeeded, self._failed, (attempt,), None, (attempt,))

    def _succeeded(self, protocol: IProtocol, attempt: Deferred[IProtocol]) -> None:
        self._under_way.remove(attempt)
        self._end(protocol)

    def _failed(self, failure: Failure, attempt: Deferred[IProtocol]) -> None:
        self._under_way.remove(attempt)
        if self._over:
            return
        if self._addresses and self._next.running:
            self._next.reset()
            self._attempt()
        elif not self._under_way and not self._addresses:
            self._end(failure)

    def _cancelled(self, _: object) -> None:
        self._end(Failure(ConnectingCancelledError(self._host)))

    def _end(self, outcome: IProtocol | Failure) -> None:
        if self._over:
            return
        self._over = True
        if self._next.running:
            self._next.stop()
        for attempt in tuple(self._under_way):
            attempt.cancel()
        if isinstance(outcome, Failure):
            self.connected.errback(outcome)
        else:
            self.connected.callback(outcome)


@implementer(IBodyProducer)
class WholeBody:
    """A request's body that is there already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all of it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: it has been written."""

    def resumeProducing(self) -> None:
        """Do nothing: it has been written."""

    def stopProducing(self) -> None:
        """Do nothing: it has been written."""


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
