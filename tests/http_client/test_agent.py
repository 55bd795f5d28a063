"""Connections to other servers: any host that a URL may name, and a failure known as soon as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from orchestratord.http_client.agent import (
    MAX_ADDRESSES,
    MAX_HEAD,
    NEXT_ADDRESS_SECONDS,
    HeadTooLong,
    HostEndpoint,
    connection_pool,
    http_agent,
)
from orchestratord.security.tls import ClientOptions, ClientTls
from tests.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from twisted.internet.defer import Deferred

FIRST, SECOND = IPv6Address("TCP", "2001:db8::1", 80), IPv4Address("TCP", "192.0.2.1", 80)


class Reactor(MemoryReactorClock):
    """Knows each name by these addresses, once the test says so; connections come about when the test says so."""

    def __init__(self, *addresses: Any) -> None:
        super().__init__()
        self.addresses = addresses
        self.looked_up: list[tuple[str, int]] = []
        self.held: list[Any] | None = None
        self.nameResolver: Any = self

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0) -> None:
        """Look a name up."""
        self.looked_up.append((name, portNumber))
        receiver.resolutionBegan(None)
        if self.held is not None:
            self.held.append(receiver)
            return
        for address in self.addresses:
            receiver.addressResolved(address)
        receiver.resolutionComplete()

    @property
    def dialled(self) -> list[str]:
        """Return the addresses that were tried."""
        return [client[0] for client in self.tcpClients]

    def refuse(self, index: int) -> None:
        """Refuse a connection."""
        self.tcpClients[index][2].clientConnectionFailed(self.connectors[index], Failure(Refused()))

    def accept(self, index: int) -> StringTransport:
        """Let a connection come about."""
        transport = StringTransport()
        protocol: Any = self.tcpClients[index][2].buildProtocol(None)
        protocol.makeConnection(transport)
        return transport


def dial(reactor: Any, host: str = "prometheus") -> tuple[Deferred[Any], list[Any]]:
    """Return an attempt to connect, and where its outcome will be."""
    outcome: list[Any] = []
    connecting = HostEndpoint(reactor, host, 80, 2.0).connect(Factory.forProtocol(Protocol))
    return connecting.addBoth(outcome.append), outcome


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::1"])
def test_an_address_is_not_looked_up(host: str) -> None:
    """It is connected to as it is."""
    reactor = Reactor()
    _, outcome = dial(reactor, host)
    assert (reactor.dialled, reactor.looked_up) == ([host], [])
    reactor.accept(0)
    assert isinstance(outcome[0], Protocol)


@pytest.mark.parametrize("host", ["my_prometheus", "prometheus", "xn--bcher-kva.example", "a.b."])
def test_a_name_is_looked_up_as_it_is_written(host: str) -> None:
    """Underscores too: docker-compose has them, and IDNA has not."""
    reactor = Reactor(SECOND)
    _, outcome = dial(reactor, host)
    assert (reactor.looked_up, reactor.dialled) == ([(host, 80)], [SECOND.host])
    reactor.accept(0)
    assert isinstance(outcome[0], Protocol)


def test_a_refusal_is_known_at_once() -> None:
    """No clock has to move: not for the one address of a name, and not for the next of several."""
    reactor = Reactor(SECOND)
    _, outcome = dial(reactor)
    reactor.refuse(0)
    assert outcome[0].check(Refused)
    assert reactor.getDelayedCalls() == []
    reactor = Reactor(FIRST, SECOND)
    _, outcome = dial(reactor)
    assert reactor.dialled == [FIRST.host]
    reactor.refuse(0)
    assert reactor.dialled == [FIRST.host, SECOND.host]
    assert outcome == []
    reactor.refuse(1)
    assert outcome[0].check(Refused)
    assert reactor.getDelayedCalls() == []


def test_the_next_address_is_tried_beside_one_that_says_nothing() -> None:
    """The first connection counts; the other attempt is ended."""
    reactor = Reactor(FIRST, SECOND)
    _, outcome = dial(reactor)
    reactor.advance(NEXT_ADDRESS_SECONDS)
    assert reactor.dialled == [FIRST.host, SECOND.host]
    reactor.accept(1)
    assert isinstance(outcome[0], Protocol)
    assert reactor.connectors[0].stoppedConnecting
    assert reactor.getDelayedCalls() == []


def test_a_refusal_beside_an_attempt_under_way_waits_for_it() -> None:
    """The other address may be the one that answers."""
    reactor = Reactor(FIRST, SECOND)
    _, outcome = dial(reactor)
    reactor.advance(NEXT_ADDRESS_SECONDS)
    reactor.refuse(1)
    assert outcome == []
    reactor.accept(0)
    assert isinstance(outcome[0], Protocol)


def test_addresses_are_bounded() -> None:
    """Whatever a resolver says."""
    reactor = Reactor(*[SECOND] * 1000)
    _, outcome = dial(reactor)
    for index in range(MAX_ADDRESSES):
        reactor.refuse(index)
    assert outcome[0].check(Refused)


def test_a_name_without_addresses() -> None:
    """Is an error that names it."""
    _, outcome = dial(Reactor(), "nowhere")
    assert outcome[0].check(DNSLookupError)
    assert "'nowhere'" in str(outcome[0].value)


def test_an_attempt_that_is_given_up() -> None:
    """While the name is looked up, and while connecting; what comes later changes nothing."""
    reactor = Reactor(FIRST)
    reactor.held = []
    connecting, outcome = dial(reactor)
    connecting.cancel()
    assert outcome[0].check(ConnectingCancelledError)
    reactor.held[0].addressResolved(FIRST)
    reactor.held[0].resolutionComplete()
    assert reactor.dialled == []
    reactor = Reactor(FIRST, SECOND)
    connecting, outcome = dial(reactor)
    connecting.cancel()
    assert outcome[0].check(ConnectingCancelledError)
    assert reactor.connectors[0].stoppedConnecting
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("url", "host", "said"),
    [
        ("http://[::1]:9090/x", "::1", b"[::1]:9090"),
        ("http://[2001:db8::1]/x", "2001:db8::1", b"[2001:db8::1]"),
        ("http://my_prometheus:9090/x", SECOND.host, b"my_prometheus:9090"),
        ("http://prometheus/x", SECOND.host, b"prometheus"),
    ],
)
def test_the_agent_takes_every_host(url: str, host: str, said: bytes) -> None:
    """And its Host header is what a server expects."""
    reactor = Reactor(SECOND)
    http_agent(reactor).request(b"GET", url.encode())
    assert reactor.dialled == [host]
    assert b"Host: %b\r\n" % said in reactor.accept(0).value()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("opening", "line"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", b" folded\r\n"),
    ],
)
def test_the_head_of_an_answer_has_a_bound(opening: bytes, line: bytes, pooled: bool) -> None:
    """Headers, their continuations, and answers of 1xx, each of which Twisted logs; the connection ends."""
    reactor = Reactor()
    outcome: list[Any] = []
    pool = connection_pool(reactor, 1) if pooled else None
    http_agent(reactor, pool=pool).request(b"GET", b"http://192.0.2.1/").addErrback(outcome.append)
    transport = StringTransport()
    protocol: Any = reactor.tcpClients[0][2].buildProtocol(None)
    protocol.makeConnection(transport)
    protocol.dataReceived(opening)
    part = line * 200
    for _ in range(MAX_HEAD // len(part) - 1):
        protocol.dataReceived(part)
    assert not outcome
    protocol.dataReceived(20 * part)
    (reason,) = outcome[0].value.reasons
    assert reason.check(HeadTooLong)
    assert transport.disconnecting
    protocol.dataReceived(part)


def test_a_head_may_come_with_a_long_body() -> None:
    """What is in the same part is not counted, and a body is no head."""
    reactor = Reactor()
    outcome: list[Any] = []
    http_agent(reactor).request(b"GET", b"http://192.0.2.1/").addBoth(outcome.append)
    protocol: Any = reactor.tcpClients[0][2].buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    protocol.dataReceived(b"Content-Length: %d\r\n\r\n" % (4 * MAX_HEAD) + b"x" * 2 * MAX_HEAD)
    protocol.dataReceived(b"x" * 2 * MAX_HEAD)
    assert [response.code for response in outcome] == [200]


@pytest.mark.parametrize("name", ["my_prometheus", "::1", "192.0.2.1", "prometheus.example"])
def test_the_name_in_a_certificate(tmp_path: Path, name: str) -> None:
    """Is compared for each kind of host, an underscore in it too."""
    authority = Authority(tmp_path)
    policy = ClientTls(lambda: 0.0, ClientOptions("--ca", "", ""), ca=authority.path)
    for served, refused in ((name, None), ("other.example", f"it is not for {name}")):
        certificate: Any = authority.issue("server", served).certificate
        named: Any = policy.creatorForNetloc(name.encode(), 443)

        class Certificate:
            def to_cryptography(self, certificate: Any = certificate) -> Any:
                return certificate

        assert named._refusal(Certificate(), 0, 0, ok=True) == refused
