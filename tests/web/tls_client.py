"""A client in TLS of a site in memory: Python's own `ssl`, whose records a test puts into segments as it likes."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

from twisted.internet.testing import StringTransport

from orchestratord.security.tls import ServerFiles, ServerTls
from orchestratord.web.server.tls_transport import TlsFactory
from tests.wire import Answer, answers

if TYPE_CHECKING:
    from tests.certificates import Authority
    from tests.wire import Wire


class Segments(StringTransport):
    """What is below TLS."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: there is no delay."""


class TlsClient:
    """A connection after its handshake; `ours` is what the reactor gives segments to."""

    def __init__(self, wire: Wire, authority: Authority) -> None:
        self._clock = wire.clock
        files = ServerFiles(authority.certificate("server"), authority.key("server"))
        tls: Any = TlsFactory(
            ServerTls(self._clock.seconds, files), wire.site, self._clock, wire.connections
        ).buildProtocol(None)
        self.ours = tls
        self.transport = Segments()
        self.ours.makeConnection(self.transport)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._theirs = authority.client_context().wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._theirs.do_handshake()
            if said := self._outgoing.read():
                self.ours.dataReceived(said)
            self._carry()

    def records(self, *parts: bytes) -> bytes:
        """Return the parts in a record each, as bytes of a segment."""
        for part in parts:
            self._theirs.write(part)
        return self._outgoing.read()

    def send(self, *parts: bytes) -> None:
        """Send the parts in a record each, all in one segment."""
        self.ours.dataReceived(self.records(*parts))

    def close_notify(self) -> bytes:
        """Return the record by which the client says that it sends nothing more."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._theirs.unwrap()
        return self._outgoing.read()

    def answers(self) -> list[Answer]:
        """Return what was answered since the last call."""
        self._clock.advance(0)
        self._carry()
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self._theirs.read(1_000_000):
                parts.append(part)
        return answers(b"".join(parts))

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def _carry(self) -> None:
        self._incoming.write(self.transport.value())
        self.transport.clear()
