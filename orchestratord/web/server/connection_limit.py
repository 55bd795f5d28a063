"""The limit on connections, and the 503 for a connection over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone

from orchestratord.web.server.responses import early_answer

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITCPTransport
    from twisted.python.failure import Failure

#: Connections over the limit that get an answer at a time; more are closed without one.
REFUSALS = 64
#: Seconds for a refused client to send its request. A reset at once would destroy the answer.
REFUSAL_SECONDS = 2.0


class ConnectionLimit:
    """Counts the connections of all sites that share it. Belongs to the reactor thread.

    A connection in TLS takes twenty times the memory, so TLS has a lower limit of its own.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.tls_limit = limit
        #: How many there are, and how many of those are in TLS.
        self.open = self.tls_open = 0
        #: How many were refused since the start.
        self.refused = 0
        self._refusals = 0

    @property
    def full(self) -> bool:
        """Whether the next connection is over the limit."""
        return self.open >= self.limit

    def admits_tls(self) -> bool:
        """Return whether another connection in TLS is allowed; if not, count a refusal."""
        if self.tls_open < self.tls_limit:
            return True
        self.refused += 1
        return False

    def count_tls(self, change: int) -> None:
        """Count connections in TLS that have begun, or ended."""
        self.tls_open += change

    def refusal(self, reactor: Any) -> RefusingProtocol | None:
        """Count a refusal, and return the protocol that answers it; None: close the connection at once."""
        self.refused += 1
        return RefusingProtocol(self, reactor) if self._refusals < REFUSALS else None

    def refusing(self, change: int) -> None:
        """Count connections that are being refused."""
        self._refusals += change


class RefusingProtocol(Protocol):
    """Answers 503 without looking at the request, and ends with its first packet or after a moment."""

    transport: ITCPTransport

    def __init__(self, connections: ConnectionLimit, reactor: Any) -> None:
        self._connections = connections
        self._reactor = reactor
        self._deadline: Any = None

    def connectionMade(self) -> None:
        """Answer at once."""
        self._connections.refusing(1)
        self._deadline = self._reactor.callLater(REFUSAL_SECONDS, self.transport.abortConnection)
        self.transport.write(early_answer(503, {"error": "too many connections; try again"}, (b"Retry-After", b"1")))

    def dataReceived(self, data: bytes) -> None:
        """End the connection: a client that has sent its request reads the answer."""
        del data
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for another refusal."""
        del reason
        self._connections.refusing(-1)
        if self._deadline.active():
            self._deadline.cancel()
