"""Accepted connections in TLS: large answers are encrypted in slices of the reactor's time, and an end is an end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

if TYPE_CHECKING:
    from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
    from twisted.python.failure import Failure

#: Bytes encrypted in one turn of the reactor: a millisecond's work. 45 MB at once would hold it for 70.
SLICE_BYTES = 524_288


class Bound(Protocol):
    """How many connections there may be: `orchestratord.web.connections.Connections`."""

    def admits_tls(self) -> bool:
        """Return whether there may be another one."""
        ...

    def count_tls(self, change: int) -> None:
        """Count connections that have begun, or ended."""
        ...


class TlsTransport(BufferingTLSTransport):
    """What a site's channel has for its transport where the world has TLS."""

    factory: TlsFactory
    transport: Any
    _ending = False
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

    def abortConnection(self) -> None:
        """Close at once, with nothing more sent."""
        self._forget()
        super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget what nobody will read."""
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
