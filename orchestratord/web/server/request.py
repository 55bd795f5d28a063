"""A request: its body within limits, and its answer sent as fast as the client reads."""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web import http, server
from twisted.web.http import _MalformedChunkedDataError

from orchestratord.errors import BodyTooLarge, Fault
from orchestratord.security.gate import Role
from orchestratord.web.routes import FRONT_PAGE, INDEX, cleaned, find_route
from orchestratord.web.server.http_head import check
from orchestratord.web.server.negotiation import prefers_html
from orchestratord.web.server.responses import RefusedResource
from orchestratord.web.server.send_buffer import PIECE, SendBuffer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from orchestratord.runtime.memory_budget import Reservation
    from orchestratord.web.routes import Route
    from orchestratord.web.server.context import ServerContext


#: The least average size in bytes of a body's chunks, if there are more than FREE_CHUNKS of them.
LEAST_CHUNK = 32
FREE_CHUNKS = 1000


class RequestChannel(Protocol):
    """What a request needs of its connection: `orchestratord.web.server.channel.BoundedChannel`."""

    context: ServerContext
    #: Twisted's name for the factory; a request takes it over when it is processed.
    site: Any
    transport: Any
    requests: list[Any]
    #: Bytes of the body; None where it is chunked.
    length: Any
    #: Whether another request may come after this one.
    persistent: bool
    #: Whether the client reads more slowly than it is answered.
    blocked: bool

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """The method, the target and the version of the request."""
        ...

    @property
    def is_last(self) -> bool:
        """Whether the answer ends the connection."""
        ...

    def hold_more(self, size: int) -> bool:
        """Hold so many bytes more for the request that arrives; False if there is no room."""
        ...

    def refuse(self, request: BoundedRequest, fault: Fault) -> None:
        """Answer the request ahead of its end."""
        ...

    def loseConnection(self) -> None:
        """End the connection as soon as the client has read what was written."""
        ...

    def abort(self) -> None:
        """End the connection at once."""
        ...


class BoundedRequest(server.Request):
    """A request whose body never takes more than the site's limit, and whose answer waits for the client to read.

    `route` is its row in `orchestratord.web.routes`, None where there is no such route. `label` is the `route` under
    which it is counted: `other` until something answers for its route.

    Twisted's private `_disconnected` is used, since Twisted has nothing public that tells that the client has left, and
    logs an error where something is written after that.
    """

    label = "other"
    #: Whether an error is answered as a page: the client prefers HTML, and the route has a page.
    for_people = False
    route: Route | None = None
    #: The one node that the client may report; None: any.
    node: str | None = None
    channel: RequestChannel  # type: ignore[assignment]  # it is a BoundedChannel, and so an HTTPChannel
    #: When the whole request had arrived, by `time.perf_counter` in seconds; 0 before that, and when it is counted.
    arrived = 0.0
    #: The memory that the answer holds, until its last byte is sent.
    reservation: Reservation | None = None
    #: Whether it holds one of the slots of its kind of answers: see `orchestratord.web.server.slow_readers.Slots`.
    has_slot = False
    #: Whether the client waits for `100 Continue` before it sends its body.
    awaits_continue = False
    _refused = False
    _abandoned = False
    _forbidden: Fault | None = None
    _received = 0
    #: Parts of a chunked body, and the bytes in them.
    _chunks = _in_chunks = 0
    _outgoing: SendBuffer | None = None
    _finishing = False
    _ready: Deferred[None] | None = None

    def gotLength(self, length: int | None) -> None:
        """Refuse a client whom the gate does not admit, or a Content-Length over the limit, before the body is read."""
        super().gotLength(length)
        self.method, target, version = self.channel.request_line
        self.uri = cleaned(target)
        self.route = find_route(self.method, self.uri)
        if self.route is INDEX and self.wants_page("text/plain"):
            self.route = FRONT_PAGE
        try:
            self.awaits_continue = check(self.method, version, self.requestHeaders.getRawHeaders)
            self.node = self.channel.context.admit(self)
        except Fault as fault:
            self._forbidden = fault  # answered in `process` if there is no body to refuse
            if length != 0:
                self._refuse(fault)
            return
        if length is not None and length > self.channel.context.max_body:
            self._refuse(self._too_large())

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body; refuse a body without a Content-Length as soon as it is too long.

        If there are too many chunks for the bytes in them, this raises the error with which Twisted's parser ends a
        malformed body. Each chunk takes as long as 100 bytes, also in a request that was refused.
        """
        if self.channel.length is None:
            self._chunks += 1
            self._in_chunks += len(data)
            if self._chunks > FREE_CHUNKS + self._in_chunks // LEAST_CHUNK:
                raise _MalformedChunkedDataError
        if self._refused:
            return
        self._received += len(data)
        if self._received > self.channel.context.max_body:
            self._refuse(self._too_large())
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Process a request that has wholly arrived; a refused one has been answered already."""
        if self._refused:
            self.channel.loseConnection()
            return
        self.arrived = time.perf_counter()
        if self.channel.context.closing or self.channel.is_last:
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        super().requestReceived(command, cleaned(path), version)

    def process(self) -> None:
        """Go straight to a hot leaf: the tree and Klein's routing would take 70 us."""
        self.site = self.channel.site
        leaf = (
            self.channel.context.hot.get(self.path)
            if self._forbidden is None
            else self._refused_resource(self._forbidden)
        )
        if leaf is None:
            super().process()
        else:
            if self.route is not None:
                self.label = self.route.label
            self.setHeader(b"Date", http.datetimeToString())
            self.render(leaf)

    def _refused_resource(self, fault: Fault) -> RefusedResource:
        """Count a request that was not let in, and that has no body, and return what answers it."""
        self.channel.context.refused(self, fault)
        # This challenge makes a browser ask its user for the token as a password. Programs must not see it.
        asks = fault.status == 401 and self.basic and self.wants_page("application/json")
        return RefusedResource(fault, asks=asks)

    def getRequestHostname(self) -> bytes:
        """Return a constant: no answer depends on the client's Host, and Klein's routing fails for some values."""
        return b"orchestrator"

    @property
    def basic(self) -> bool:
        """Whether a token may come as a password: only to read. To change something, a Bearer token is required."""
        return self.route is not None and self.route.role is Role.QUERY and self.method in {b"GET", b"HEAD"}

    def wants_page(self, other: str) -> bool:
        """Return whether the client prefers a page to the media type `other`; an error is then a page too."""
        self.responseHeaders.setRawHeaders(b"Vary", [b"Accept"])
        accept = b",".join(self.requestHeaders.getRawHeaders(b"Accept") or ()).decode("latin-1")
        self.for_people = prefers_html(accept, other)
        return self.for_people

    def body(self) -> bytes:
        """Return the whole body, as it was sent."""
        assert self.content is not None  # noqa: S101 - there from gotLength to the end
        body: bytes = self.content.read()
        return body

    def write(self, data: bytes) -> None:
        """Send a part of the answer as far as the client reads. The rest waits here and is not copied."""
        if self._outgoing is None:
            if self._disconnected or self.method == b"HEAD" or not (self.channel.blocked or len(data) > PIECE):
                super().write(data)
                return
            self._outgoing = SendBuffer()
            if not self._holds(len(data)):
                self.channel.abort()
        if not (self._disconnected or self._abandoned):
            self._outgoing.add(data)
            self.send_more()

    def finish(self) -> None:
        """End the answer, now or as soon as the client has read what waits."""
        if self._abandoned and not self._disconnected:
            return  # the end of the connection ends the answer
        if self._outgoing is not None and self._outgoing.size and not self._disconnected:
            self._finishing = True
            return
        self._outgoing = self.reservation = None
        super().finish()

    def abandon(self) -> None:
        """Drop the answer, since its connection is about to end."""
        self._abandoned = True
        self.reservation = None
        if self._outgoing is not None:
            self._outgoing.clear()

    def _holds(self, size: int) -> bool:
        """Reserve memory for what waits, unless another limit covers it; False if there is none."""
        if self.has_slot or self.reservation is not None:
            return True
        self.reservation = self.channel.context.waiting.reservation()
        return self.reservation.hold(size)

    @property
    def waiting(self) -> int:
        """Bytes of the answer that wait for the client to read."""
        return self._outgoing.size if self._outgoing is not None else 0

    async def ready(self) -> None:
        """Return when nothing waits any more."""
        if self.waiting:
            self._ready = Deferred()
            await self._ready

    def send_more(self) -> None:
        """Send what waits as far as the client reads; the channel calls this when it has read."""
        outgoing = self._outgoing
        if outgoing is None:
            return
        while outgoing.size and not self.channel.blocked:
            super().write(outgoing.piece())
        if outgoing.size:
            return
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.callback(None)
        if self._finishing:
            self._finishing = False
            self.finish()

    def connectionLost(self, reason: Failure) -> None:
        """Count a request whose client left before the answer, and drop the answer."""
        context = self.channel.context
        self._outgoing = self.reservation = None
        super().connectionLost(reason)
        if self.arrived:
            context.count(self, 499)

    def drop(self) -> None:
        """Drop what has come of a refused request, and what still comes."""
        self._refused = True
        self.content = BytesIO()

    def _refuse(self, fault: Fault) -> None:
        self.drop()
        self.channel.refuse(self, fault)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is over the limit of {self.channel.context.max_body} bytes")
