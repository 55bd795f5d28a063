"""GET /metrics: the exposition in slices of the reactor's time; prometheus_client's own resource answers the rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from isal import isal_zlib
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.errors import Busy
from orchestratord.web.routes import METRICS
from orchestratord.web.server.negotiation import VARY, accepts_gzip, exposition_accept
from orchestratord.web.server.responses import fault_body, method_not_allowed_body
from orchestratord.web.server.slow_readers import Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from twisted.python.failure import Failure

    from orchestratord.nodes.exposition import Encoder, Exposition
    from orchestratord.nodes.store import NodeStore
    from orchestratord.runtime.clock import Clocks
    from orchestratord.runtime.time_slices import TimeSlices
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.server.request import BoundedRequest

log = Logger()

#: Seconds of the reactor's time that a scrape takes at once. A report waits at most so long for it.
SLICE_SECONDS = 0.002
#: Bytes that are written at once. A fast machine makes many times as much in SLICE_SECONDS, before it is known whether
#: the client reads.
WRITE_BYTES = 524_288
#: Nodes whose lines of one family are joined in one call: 0.1 ms.
BLOCK = 1000
#: Scrapes at a time, until they are read; each holds a copy of the table.
MAX_SCRAPES = 10
#: Scrapes at a time that the fallback answers: it makes an object of 400 bytes for each sample.
MAX_FALLBACKS = 2
#: Bytes of a scrape that may wait for the scraper to read; beyond this, no more of it is made.
AHEAD = 4_194_304

#: The formats in which a sample is the line that was rendered when the report came in.
_FORMATS = ("text/plain; version=0.0.4", "text/plain; version=1.0.0", "application/openmetrics-text; version=1.0.0")


class ScrapeResource(Resource):
    """Answers a scrape as `fallback`, prometheus_client's MetricsResource, would, but faster.

    The fallback answers rare requests: `name[]`, and other formats.
    """

    isLeaf = True

    def __init__(
        self,
        slices: TimeSlices,
        nodes: NodeStore,
        exposition: Exposition,
        telemetry: SelfMetrics,
        clocks: Clocks,
        *,
        fallback: Any,
    ) -> None:
        super().__init__()
        self._slices = slices
        self._nodes = nodes
        self._exposition = exposition
        self._telemetry = telemetry
        self._clocks = clocks
        self._fallback = fallback
        self._scrapes = Slots(MAX_SCRAPES, f"{MAX_SCRAPES} scrapes are under way already; try again")
        self._fallbacks = Slots(MAX_FALLBACKS, f"{MAX_FALLBACKS} scrapes of this kind are under way already; try again")

    def render(self, request: BoundedRequest) -> bytes | int:
        """Answer a scrape."""
        request.label = METRICS.label
        self._telemetry.nodes(self._nodes.count(self._clocks.monotonic()))
        if request.method not in {b"GET", b"HEAD"}:
            return method_not_allowed_body(request, METRICS.allowed)
        accept = exposition_accept(_header(request, b"Accept"))
        encoder, content_type = choose_encoder(accept)
        gzip = accepts_gzip(_header(request, b"Accept-Encoding"))
        request.setHeader(b"Vary", VARY)
        if request.method == b"HEAD":
            request.setHeader(b"Content-Type", content_type.encode())
            request.finish()  # without Content-Length: it is known only when the whole exposition is made
            return NOT_DONE_YET
        common = b"name[]" not in request.args and content_type.startswith(_FORMATS)
        try:
            (self._scrapes if common else self._fallbacks).take(request)
        except Busy as fault:
            return fault_body(request, fault)
        if not common:
            # The fallback reads the headers itself, and ignores their weights.
            request.requestHeaders.setRawHeaders(b"Accept", [accept])
            request.requestHeaders.setRawHeaders(b"Accept-Encoding", [b"gzip" if gzip else b"identity"])
            body: bytes | int = self._fallback.render(request)
            return body
        request.setHeader(b"Content-Type", content_type.encode())
        parts = self._parts(encoder)
        if gzip:
            request.setHeader(b"Content-Encoding", b"gzip")
            parts = _compressed(parts)
        sending = Deferred.fromCoroutine(self._send(request, parts))
        request.notifyFinish().addErrback(lambda _: sending.cancel())
        sending.addErrback(lambda failure: _failed(request, failure))
        return NOT_DONE_YET

    def _parts(self, encoder: Encoder) -> Iterator[bytes]:
        blocks = []
        for block in self._nodes.blocks(self._clocks.monotonic(), BLOCK) if self._exposition.nodes else ():
            blocks.append(block)
            yield b""
        yield from self._exposition.parts(encoder, blocks)

    async def _send(self, request: BoundedRequest, parts: Iterable[bytes]) -> None:
        """Write the parts, in slices of the reactor's time, and finish."""
        ready: list[bytes] = []
        size = 0
        until = time.perf_counter() + SLICE_SECONDS
        for part in parts:
            ready.append(part)
            size += len(part)
            is_late = time.perf_counter() >= until
            if is_late or size >= WRITE_BYTES:
                request.write(b"".join(ready))
                ready.clear()
                size = 0
                if is_late:
                    await self._slices.turn()
                if request.waiting > AHEAD:
                    await request.ready()
                    is_late = True
                if is_late:
                    until = time.perf_counter() + SLICE_SECONDS
        if not request.startedWriting:
            request.setHeader(b"Content-Length", b"%d" % sum(map(len, ready)))
        request.write(b"".join(ready))
        request.finish()


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    for part in parts:
        yield compressor.compress(part)
    yield compressor.flush()


def _header(request: BoundedRequest, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name) or ())


def _failed(request: BoundedRequest, failure: Failure) -> None:
    """Cut the connection, since the 200 may have been sent; a scraper then discards the incomplete exposition."""
    if not failure.check(CancelledError):
        log.failure("a scrape failed", failure)
        request.channel.abort()
