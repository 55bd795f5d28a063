"""Accepted connections in TLS: large answers are encrypted in slices of the reactor's time; both ends close at once."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory

#: Bytes encrypted in one turn of the reactor: 1 ms. 45 MB at once would block the reactor for 70 ms.
SLICE_BYTES = 524_288
#: Bytes that are decrypted at a time, as in Twisted.
_READ = 32_768


class TlsLimit(Protocol):
    """The limit on connections in TLS: `orchestratord.web.server.connection_limit.ConnectionLimit`."""

    def admits_tls(self) -> bool:
        """Return whether another one is allowed."""
        ...

    def count_tls(self, change: int) -> None:
        """Count connections that have begun, or ended."""
        ...


@implementer(IHalfCloseableProtocol)
class TlsTransport(BufferingTLSTransport):
    """The transport of a site's channel on a connection in TLS.

    Twisted's private state and steps are used, since the order of them cannot be changed in public: `_flushReceiveBIO`
    is replaced, with `_tlsConnection`, `_lostTLSConnection`, `_flushSendBIO` and `_tlsShutdownFinished` as in
    Twisted's; `_handshakeDone` and `_shutdownTLS` end a connection whose client has left during the handshake.
    """

    factory: TlsFactory
    transport: Any
    wrappedProtocol: Any
    _ending = False
    #: Whether the client sends nothing more.
    _ended = False
    _turn: Any = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: deque[bytes] = deque()
        # Twisted sets `write` on the instance as well, for its speed.
        self._write_at_once = self.write
        self.write = self._write_in_turn  # type: ignore[method-assign]

    def _write_in_turn(self, data: bytes) -> None:
        if len(data) <= SLICE_BYTES and not self._waiting:
            self._write_at_once(data)
            return
        if self.connected and not self._ending:
            self._waiting.extend(data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES))
            if self._turn is None:
                self._next_slice()

    def writeSequence(self, sequence: Any) -> None:
        """Write parts in their order."""
        self.write(b"".join(sequence))

    def loseConnection(self) -> None:
        """Send what is written and the TLS close alert, and close. Twisted would wait for the client's alert."""
        if self._waiting:
            self._ending = True
            # Read nothing more, as on a connection without TLS.
            self.transport.pauseProducing()
            return
        super().loseConnection()
        if self.transport is not None:
            self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """Tell the wrapped protocol, if it listens, that the client sends nothing more: in TLS, or in TCP below it.

        An attacker can cause an end of TCP alone. That is harmless: HTTP itself knows whether a request is whole.
        """
        if self._ended:
            return
        self._ended = True
        if not self._handshakeDone:
            self._shutdownTLS()
            self._tlsShutdownFinished(None)
        elif not self.disconnecting:
            told: Any = IHalfCloseableProtocol(self.wrappedProtocol, None)
            (self.loseConnection if told is None else told.readConnectionLost)()

    def writeConnectionLost(self) -> None:
        """Do nothing: the writing side is never shut down alone."""

    def _flushReceiveBIO(self) -> None:
        """Give what was received to the wrapped protocol, unless this side has ended the connection.

        Twisted's own method delivers all records of a segment even then, and ends the connection when the client sends
        its close alert.
        """
        while not self._lostTLSConnection:
            try:
                data = self._tlsConnection.recv(_READ)
            except WantReadError:
                break
            except ZeroReturnError:
                self.readConnectionLost()
                break
            except Error:
                self._tlsShutdownFinished(Failure())
            else:
                if not (self._ending or self.disconnecting):
                    ProtocolWrapper.dataReceived(self, data)
        self._flushSendBIO()

    def abortConnection(self) -> None:
        """Close at once, and send nothing more."""
        self._forget()
        super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop what the client will not read."""
        self._ended = True
        self._forget()
        super().connectionLost(reason)

    def _next_slice(self) -> None:
        self._write_at_once(self._waiting.popleft())
        # Writing may have ended the connection, and dropped what waits.
        self._turn = self.factory.clock.callLater(0, self._go_on) if self._waiting or self._ending else None

    def _go_on(self) -> None:
        self._turn = None
        if self._waiting:
            self._next_slice()
        elif self._ending:
            self._ending = False
            self.loseConnection()

    def _forget(self) -> None:
        self._waiting.clear()
        self._ending = False
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None


class TlsFactory(TLSMemoryBIOFactory):
    """Wraps the connections of a factory in TLS. `creator` makes our side of TLS; `clock` is the reactor.

    `limit` limits the connections; more are closed at once.
    """

    def __init__(
        self, creator: IOpenSSLServerConnectionCreator, wrapped: IProtocolFactory, clock: Any, limit: TlsLimit
    ) -> None:
        super().__init__(creator, False, wrapped, clock)
        self.clock = clock
        self._limit = limit

    def buildProtocol(self, addr: Any) -> TlsTransport | None:  # type: ignore[override]  # IProtocolFactory allows it
        """Return the TLS side of an accepted connection; None, which closes it, over a limit."""
        if not self._limit.admits_tls():
            return None
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else TlsTransport(self, wrapped)

    def registerProtocol(self, p: Any) -> None:
        """Count a connection that has begun; Twisted calls this twice."""
        if p not in self.protocols:
            self._limit.count_tls(1)
        super().registerProtocol(p)

    def unregisterProtocol(self, p: Any) -> None:
        """Count a connection that has ended."""
        super().unregisterProtocol(p)
        self._limit.count_tls(-1)
