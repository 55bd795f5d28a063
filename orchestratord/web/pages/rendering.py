"""Renders pages on a pool thread, and sets the headers of the response, such as the content security policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from isal import isal_zlib
from prometheus_client.exposition import gzip_accepted

from orchestratord.errors import Overloaded
from orchestratord.web.pages.layout import Frame, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from orchestratord.runtime.clock import Clocks
    from orchestratord.web.pages.assets import Assets
    from orchestratord.web.server.request import BoundedRequest

#: Pages rendered at a time; a request for one more gets 503.
MAX_RENDERING = 4

#: Only our own files. No script or style in the markup, even if somebody could inject one.
_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: For a chart that is opened as a document: it has a style, and nothing else.
PICTURE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


class RenderedBody(NamedTuple):
    """A page or chart as bytes, plain and with gzip. `compressed` is empty if it was not compressed."""

    plain: bytes
    compressed: bytes


class PageRenderer:
    """Renders pages. Belongs to the reactor thread; `in_thread` runs a function on a pool thread."""

    def __init__(self, clocks: Clocks, assets: Assets, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._clocks = clocks
        self._assets = assets
        self._unshared = 0
        self.in_thread = in_thread

    def frame(self, title: str, menu_path: str, refresh_seconds: float | None) -> Frame:
        """Return the frame of a page that is rendered now."""
        return Frame(title, menu_path, refresh_seconds, self._clocks.time(), self._assets)

    async def render_unshared(self, title: str, menu_path: str, content: Callable[[], list[Any]]) -> RenderedBody:
        """Render a page for one request only; raises Overloaded if MAX_RENDERING such pages are being rendered."""
        frame = self.frame(title, menu_path, None)
        if self._unshared >= MAX_RENDERING:
            raise Overloaded(f"{MAX_RENDERING} pages are being rendered; try again")
        self._unshared += 1
        try:
            made: RenderedBody = await self.in_thread(lambda: compressed(page(frame, *content())))
        finally:
            self._unshared -= 1
        return made


def compressed(body: bytes) -> RenderedBody:
    """Return the body with its gzip form. For a pool thread."""
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    return RenderedBody(body, compressor.compress(body) + compressor.flush())


def respond_html(request: BoundedRequest, status: int, made: RenderedBody) -> bytes:
    """Set the status and headers of an HTML page, and return its body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
    return respond(request, made, _POLICY)


def respond(request: BoundedRequest, made: RenderedBody, policy: bytes) -> bytes:
    """Set the headers of a page or chart, and return its body, with gzip if the client accepts it."""
    request.setHeader(b"Content-Security-Policy", policy)
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.setHeader(b"Referrer-Policy", b"no-referrer")
    request.setHeader(b"Cache-Control", b"private, no-cache")
    request.setHeader(b"Vary", b"Accept, Accept-Encoding")
    body = made.plain
    if made.compressed and gzip_accepted(_header(request, b"Accept-Encoding")):
        request.setHeader(b"Content-Encoding", b"gzip")
        body = made.compressed
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _header(request: BoundedRequest, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name) or ())
