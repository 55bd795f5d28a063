"""Accepted connections in TLS, in memory: what Python's own `ssl` reads of them."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from orchestratord.security.tls import ServerFiles, ServerTls
from orchestratord.web.server.connection_limit import ConnectionLimit
from orchestratord.web.server.tls_transport import SLICE_BYTES, TlsFactory
from tests.certificates import Authority
from tests.wire import turn

if TYPE_CHECKING:
    from pathlib import Path

LARGE = b"".join(b"%015d\n" % number for number in range(4 * SLICE_BYTES // 16))


class Site(Factory):
    """What is served; it may refuse connections."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Take a connection, or not."""
        del addr
        return None if self._pipe.refusing else Protocol()


class Pipe:
    """A connection after its handshake; `ours` is what a channel has for its transport."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        authority.issue("server", "localhost")
        self.clock = Clock()
        self.connections = ConnectionLimit(1)
        files = ServerFiles(authority.certificate("server"), authority.key("server"))
        self.refusing = False
        self.address: Any = None
        self.factory = TlsFactory(ServerTls(self.clock.seconds, files), Site(self), self.clock, self.connections)
        ours: Any = self.factory.buildProtocol(self.address)
        self.ours = ours
        self.wire = StringTransport()
        self.ours.makeConnection(self.wire)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._theirs = authority.client_context().wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._theirs.do_handshake()
            if said := self._outgoing.read():
                self.ours.dataReceived(said)
            self._carry()

    def read(self) -> bytes:
        """Return what has arrived at the other side."""
        self._carry()
        parts = []
        try:
            while part := self._theirs.read(1_000_000):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(parts)

    def _carry(self) -> None:
        self._incoming.write(self.wire.value())
        self.wire.clear()


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    """A connection after its handshake."""
    return Pipe(tmp_path)


def test_a_large_answer_goes_in_slices(pipe: Pipe) -> None:
    """One for each turn of the reactor, whole and in order, and what is written later after it."""
    pipe.ours.write(LARGE)
    pipe.ours.writeSequence([b"the ", b"end"])
    read = pipe.read()
    assert 0 < len(read) <= SLICE_BYTES
    limit = 0
    while pipe.clock.getDelayedCalls():
        turn(pipe.clock)
        part = pipe.read()
        assert len(part) <= SLICE_BYTES
        read += part
        limit += 1
    assert read == LARGE + b"the end"
    assert limit >= 4


def test_the_end_comes_after_it(pipe: Pipe) -> None:
    """A connection that is told to end ends with the last slice; nothing is read or written after that."""
    pipe.ours.write(LARGE)
    pipe.ours.loseConnection()
    pipe.ours.write(b"too late")
    assert not pipe.wire.disconnecting
    assert pipe.wire.producerState == "paused"
    read = pipe.read()
    while pipe.clock.getDelayedCalls():
        turn(pipe.clock)
        read += pipe.read()
    assert read == LARGE
    assert pipe.wire.disconnecting


def test_a_small_answer_ends_at_once(pipe: Pipe) -> None:
    """Without waiting for the other side's last word."""
    pipe.ours.write(b"x")
    pipe.ours.loseConnection()
    assert pipe.read() == b"x"
    assert pipe.wire.disconnecting


def test_an_abort_drops_it(pipe: Pipe) -> None:
    """At once, though slices wait, and an end after them."""
    pipe.ours.write(LARGE)
    pipe.ours.loseConnection()
    pipe.ours.abortConnection()
    assert pipe.wire.disconnected
    assert pipe.clock.getDelayedCalls() == []


def test_a_client_that_leaves_drops_it(pipe: Pipe) -> None:
    """Nothing is encrypted for nobody, then or later."""
    pipe.ours.write(LARGE)
    pipe.ours.connectionLost(Failure(ConnectionDone()))
    pipe.ours.write(LARGE)
    assert pipe.clock.getDelayedCalls() == []


def test_a_connection_that_the_site_refuses_is_refused(pipe: Pipe) -> None:
    """Before any handshake."""
    pipe.refusing = True
    pipe.connections.tls_limit = 2
    assert pipe.factory.buildProtocol(pipe.address) is None


def test_connections_are_counted_and_bounded(pipe: Pipe) -> None:
    """One too many is closed before it costs anything, and counted; when one has ended there is room."""
    assert pipe.connections.tls_open == 1
    assert pipe.factory.buildProtocol(pipe.address) is None
    assert pipe.connections.refused == 1
    pipe.ours.connectionLost(Failure(ConnectionDone()))
    assert pipe.connections.tls_open == 0
    assert pipe.factory.buildProtocol(pipe.address) is not None
