"""How many connections there may be, and the short answer to one too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone

from orchestratord.web.server.responses import early_answer

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITCPTransport
    from twisted.python.failure import Failure

#: Connections over the limit that are answered at a time; more are closed without a word.
REFUSALS = 64
#: Seconds in which one that is refused should have sent its request: a reset at once would take the answer from it.
REFUSAL_SECONDS = 2.0


class ConnectionLimit:
    """Counts connections; sites that share it share its limits. Belongs to the reactor thread.

    Those in TLS take twenty times the memory, and have a limit of their own besides.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.tls_limit = limit
        #: How many there are, and how many of those are in TLS.
        self.open = self.tls_open = 0
        #: How many were one too many since the start.
        self.refused = 0
        self._refusals = 0

    @property
    def full(self) -> bool:
        """Whether the next one is one too many."""
        return self.open >= self.limit

    def admits_tls(self) -> bool:
        """Return whether there may be another one in TLS, or count a refusal."""
        if self.tls_open < self.tls_limit:
            return True
        self.refused += 1
        return False

    def count_tls(self, change: int) -> None:
        """Count connections in TLS that have begun, or ended."""
        self.tls_open += change

    def refusal(self, reactor: Any) -> RefusingProtocol | None:
        """Return what answers a connection that is one too many; None if it should be closed at once."""
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
        """End: whoever has sent its request now reads the answer."""
        del data
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for another refusal."""
        del reason
        self._connections.refusing(-1)
        if self._deadline.active():
            self._deadline.cancel()
