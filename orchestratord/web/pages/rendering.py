"""How a page is made and answered: its frame, its bytes off the reactor thread, and the headers that protect it."""

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

#: Pages made at a time; more wait for their turn with 503.
MAX_MAKING = 4

#: Nothing but our own files, and no script or style in the markup, whatever may get into it.
_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: A chart is a document of its own when it is opened by itself: it has a style, and nothing else.
PICTURE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


class Drawn(NamedTuple):
    """A page or picture, as it is, and compressed."""

    plain: bytes
    compressed: bytes


class PageMaker:
    """Makes pages. Belongs to the reactor thread; `in_thread` runs a function on a pool thread."""

    def __init__(self, clocks: Clocks, assets: Assets, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._clocks = clocks
        self._assets = assets
        self._single = 0
        self.in_thread = in_thread

    def frame(self, title: str, place: str, renew: float | None) -> Frame:
        """Return what is around a page made now."""
        return Frame(title, place, renew, self._clocks.time(), self._assets)

    async def single(self, title: str, place: str, content: Callable[[], list[Any]]) -> Drawn:
        """Make a page that is nobody else's; raises Overloaded."""
        frame = self.frame(title, place, None)
        if self._single >= MAX_MAKING:
            raise Overloaded(f"{MAX_MAKING} pages are in the making already; try again")
        self._single += 1
        try:
            made: Drawn = await self.in_thread(lambda: drawn(page(frame, *content())))
        finally:
            self._single -= 1
        return made


def drawn(body: bytes) -> Drawn:
    """Compress what was made; on a pool thread."""
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    return Drawn(body, compressor.compress(body) + compressor.flush())


def html(request: BoundedRequest, status: int, made: Drawn) -> bytes:
    """Answer a page."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
    return answer(request, made, _POLICY)


def answer(request: BoundedRequest, made: Drawn, policy: bytes) -> bytes:
    """Answer a page or a picture, compressed for those who take that."""
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
