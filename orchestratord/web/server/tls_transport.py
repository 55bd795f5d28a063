"""Accepted connections in TLS: large answers are encrypted in slices of the reactor's time, and an end is an end."""

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

#: Bytes encrypted in one turn of the reactor: a millisecond's work. 45 MB at once would hold it for 70.
SLICE_BYTES = 524_288
#: Bytes that are decrypted at a time, as in Twisted.
_READ = 32_768


class Bound(Protocol):
    """How many connections there may be: `orchestratord.web.server.connection_limit.ConnectionLimit`."""

    def admits_tls(self) -> bool:
        """Return whether there may be another one."""
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
        """Send what is written, and TLS' end, and close; Twisted would wait for the client's last word."""
        if self._waiting:
            self._ending = True
            # As for a connection in clear, nothing more is read.
            self.transport.pauseProducing()
            return
        super().loseConnection()
        if self.transport is not None:
            self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """Tell the wrapped protocol, if it can be told, that the client sends nothing more, in TLS or below it.

        An end below TLS alone may be the work of somebody who cuts the connection. HTTP knows by itself whether a
        request is whole.
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
        """Give what was received to the wrapped protocol, except after an end of ours.

        Twisted gives out all records of a segment, whatever happens meanwhile, and ends the connection when the client
        says that it sends nothing more.
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
        """Close at once, with nothing more sent."""
        self._forget()
        super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget what nobody will read."""
        self._ended = True
        self._forget()
        super().connectionLost(reason)

    def _next_slice(self) -> None:
        self._write_at_once(self._waiting.popleft())
        # Writing may have ended the connection, and what waits with it.
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
    """Wraps the connections of a factory in TLS, whose side of it `creator` makes; `clock` is the reactor.

    `bound` says how many connections there may be; more are closed at once.
    """

    def __init__(
        self, creator: IOpenSSLServerConnectionCreator, wrapped: IProtocolFactory, clock: Any, bound: Bound
    ) -> None:
        super().__init__(creator, False, wrapped, clock)
        self.clock = clock
        self._bound = bound

    def buildProtocol(self, addr: Any) -> TlsTransport | None:  # type: ignore[override]  # IProtocolFactory allows it
        """Return the TLS side of a connection just accepted; None, to close it, if the wrapped factory says so."""
        if not self._bound.admits_tls():
            return None
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else TlsTransport(self, wrapped)

    def registerProtocol(self, p: Any) -> None:
        """Count a connection that has begun; Twisted calls this twice."""
        if p not in self.protocols:
            self._bound.count_tls(1)
        super().registerProtocol(p)

    def unregisterProtocol(self, p: Any) -> None:
        """Count a connection that has ended."""
        super().unregisterProtocol(p)
        self._bound.count_tls(-1)
