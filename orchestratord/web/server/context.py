"""What the connections of a site share: limits, the gate, memory budgets, counters, and the set of the connections."""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from orchestratord.runtime.ip_families import plain
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.security.gate import Role
from orchestratord.web.server.slow_readers import WAITING_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.web.http import Request
    from twisted.web.http_headers import Headers
    from twisted.web.resource import Resource

    from orchestratord.errors import Fault
    from orchestratord.security.gate import Gate
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.routes import Route
    from orchestratord.web.server.connection_limit import ConnectionLimit
    from orchestratord.web.server.fast_path import FastPath
    from orchestratord.web.server.slow_readers import SlowReaders

log = Logger()


class Connection(Protocol):
    """What a site has to know of a connection: `orchestratord.web.server.channel.BoundedChannel`."""

    #: When it is ended, and when its client must have taken what was written, by the reactor's clock in seconds.
    deadline: float
    taken_by: float

    def timeoutConnection(self) -> None:
        """End it, since one of the two has passed."""
        ...

    def close_when_idle(self) -> None:
        """End it as soon as no request is being answered."""
        ...

    def abort(self) -> None:
        """End it at once."""
        ...


class CountedRequest(Protocol):
    """What has to be known of a request to admit and to count it: `orchestratord.web.server.request.BoundedRequest`."""

    route: Route | None
    label: str
    method: bytes
    uri: bytes
    client: Any
    sentLength: int
    requestHeaders: Headers
    arrived: float

    @property
    def basic(self) -> bool:
        """Whether its token may come as a password."""
        ...


@dataclass(eq=False)
class ServerContext:
    """What connections and requests share with their site. Belongs to the reactor thread."""

    telemetry: SelfMetrics
    reactor: Any
    _: KW_ONLY
    #: Leaves by their whole path, which are reached past the tree of resources.
    hot: Mapping[bytes, Resource]
    #: What answers plain reports and queries past Twisted's parser; None: nothing does.
    fast_path: FastPath | None
    gate: Gate
    #: Takes tokens out of what is to be logged.
    redacted: Callable[[bytes], bytes] = bytes
    #: Bytes of a request's body.
    max_body: int
    #: Memory for all requests that are still arriving.
    arriving: MemoryBudget
    #: How many connections there are and may be, those of other sites included.
    connections: ConnectionLimit
    #: The clients, of all sites, that read slowly.
    readers: SlowReaders
    #: Seconds for a whole request to arrive, a TLS handshake before it included.
    request_timeout: float
    #: Seconds that a kept-alive connection may be without a request.
    idle_timeout: float
    #: Seconds for a client to take an answer.
    answer_timeout: float
    #: Whether each request gets a line in the log.
    access_log: bool = False
    #: To be called before an answer is written that might go out in this very turn of the reactor.
    flush: Callable[[], None] | None = None
    #: Whether the site is about to end: no connection gets another request then.
    closing: bool = False
    channels: set[Connection] = field(default_factory=set, init=False)
    #: Memory for answers, or the rest of them, that wait for slow readers and are in no other bound.
    waiting: MemoryBudget = field(init=False)
    _emptied: Deferred[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.waiting = MemoryBudget(WAITING_BYTES, self.readers.free_memory)

    def admit(self, request: CountedRequest) -> str | None:
        """Return the one node that the client may report, None for any node.

        Raises Unauthorized, Forbidden or KeysPending if the client may not have the request's route.
        """
        if request.route is None:
            return None
        values = request.requestHeaders.getRawHeaders(b"Authorization")
        return self.gate.admit(request.route.role, b", ".join(values) if values else None, basic=request.basic)

    def refused(self, request: CountedRequest, fault: Fault) -> None:
        """Count a report that was refused before it was looked at."""
        if request.route is not None and request.route.role is Role.REPORT:
            self.telemetry.reports(fault.outcome)
        if self.access_log:
            log.info("request from {client} refused: {reason}", client=client_of(request), reason=str(fault))

    def count(self, request: CountedRequest, code: int) -> None:
        """Count a request under a status code, and log it if that is wanted."""
        seconds = time.perf_counter() - request.arrived
        request.arrived = 0.0
        self.telemetry.request(request.label, request.method, code, seconds)
        if self.access_log:
            log.info(
                '{client} "{method} {uri}" {code} {size} B {milliseconds:.1f} ms',
                client=client_of(request),
                method=_printable(self.redacted(request.method)),
                uri=_printable(self.redacted(request.uri)),
                code=code,
                size=request.sentLength,
                milliseconds=seconds * 1000,
            )

    def channel_made(self, channel: Connection) -> None:
        """Add a connection."""
        self.channels.add(channel)
        self.connections.open += 1

    def channel_lost(self, channel: Connection) -> None:
        """Forget a connection that has ended."""
        self.channels.discard(channel)
        self.connections.open -= 1
        if self._emptied is not None and not self.channels:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    async def emptied(self, seconds: float) -> None:
        """Return when the last connection has ended, or after so many seconds."""
        if self.channels and seconds > 0:
            self._emptied = Deferred()
            self._emptied.addTimeout(seconds, self.reactor, onTimeoutCancel=lambda *_: None)
            await self._emptied
            self._emptied = None


def client_of(request: CountedRequest | Request) -> str:
    """Return the address that a request came from, for people; `-` on a UNIX socket."""
    return plain(getattr(request.client, "host", "-"))


def _printable(data: bytes) -> str:
    """Return what came from outside such that it cannot forge a line of the log."""
    return ascii(data[:2000].decode("latin-1"))[1:-1]
