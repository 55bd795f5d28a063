"""Names are looked up on threads of their own."""

from __future__ import annotations

import socket
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.task import deferLater
from zope.interface import implementer

from orchestratord.http_client.resolver import Resolver, ResolverService

REACTOR: Any = reactor
FOUND = [
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 90, 0, 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 90)),
]


@implementer(IResolutionReceiver)
class RemoteWriteClient:
    """Remembers what was found; `over` fires at the end."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.over: Deferred[None] = Deferred()

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        """It begins."""
        self.name = resolutionInProgress.name

    def addressResolved(self, address: Any) -> None:
        """An address."""
        self.found.append(address)

    def resolutionComplete(self) -> None:
        """It is over."""
        self.over.callback(None)


def ask(names: Resolver, name: str, **options: Any) -> RemoteWriteClient:
    """Ask for a name."""
    receiver = RemoteWriteClient()
    names.resolveHostName(receiver, name, 90, **options)
    return receiver


@pytest_twisted.ensureDeferred
async def test_a_name_is_found() -> None:
    """All its addresses, in their order, or those of the kind that was asked for."""
    names = Resolver(REACTOR, getaddrinfo=lambda *_: FOUND)
    receiver = ask(names, "host")
    await receiver.over
    assert receiver.found == [IPv6Address("TCP", "::1", 90), IPv4Address("TCP", "127.0.0.1", 90)]
    only = ask(names, "host", addressTypes=[IPv4Address])
    await only.over
    assert only.found == [IPv4Address("TCP", "127.0.0.1", 90)]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("label too long")])
@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_exist(error: Exception) -> None:
    """Has no address."""

    def fails(*_: object) -> Any:
        raise error

    receiver = ask(Resolver(REACTOR, getaddrinfo=fails), "nowhere.invalid")
    await receiver.over
    assert receiver.found == []


def test_an_address_is_found_at_once() -> None:
    """There is nothing to wait for, and no thread for it."""
    for literal in ("127.0.0.1", "::1"):
        receiver = ask(Resolver(REACTOR), literal)
        assert receiver.over.called
        assert [address.host for address in receiver.found] == [literal]


@pytest_twisted.ensureDeferred
async def test_a_lookup_that_hangs() -> None:
    """Has one thread, however many wait, none of them for long; its late answer is for those who wait by then."""
    release, calls = Event(), []

    def hangs(*args: Any) -> Any:
        calls.append(args)
        assert release.wait(30)
        return FOUND

    names = Resolver(REACTOR, getaddrinfo=hangs, seconds=0.05)
    receivers = [ask(names, "host") for _ in range(100)]
    for receiver in receivers:
        await receiver.over
        assert receiver.found == []
    patient = Resolver(REACTOR, getaddrinfo=hangs)
    waiting = [ask(patient, "host") for _ in range(10)]
    while len(calls) < 2:
        await deferLater(REACTOR, 0.01)
    release.set()
    for receiver in waiting:
        await receiver.over
        assert len(receiver.found) == 2
    assert len(calls) == 2


def test_the_reactor_uses_it_while_the_service_runs() -> None:
    """And what it used before, afterwards."""
    before = REACTOR.nameResolver
    service = ResolverService(REACTOR)
    service.startService()
    assert isinstance(REACTOR.nameResolver, Resolver)
    service.stopService()
    assert REACTOR.nameResolver is before
