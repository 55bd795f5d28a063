"""What is read of a connection: the heads of requests, strictly, and nothing any more once it is given up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twisted.web import http
from twisted.web.http import _ChunkedTransferDecoder, _IdentityTransferDecoder

from orchestratord.web.server.http_head import BadHead, field, framing, request_line
from orchestratord.web.server.responses import early_answer, fault_content, fault_headers

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITCPTransport

    from orchestratord.errors import Fault
    from orchestratord.runtime.memory_budget import Reservation
    from orchestratord.web.server.context import ServerContext
    from orchestratord.web.server.request import BoundedRequest

#: What a header takes of memory beside its bytes.
HEADER_BYTES = 300
#: Bytes of trailers, which are dropped: nobody sends any here, and each takes memory beside its bytes.
MAX_TRAILERS = 4096


class ReadingChannel(http.HTTPChannel):
    """Reads requests. A subclass says how long each may take, and in whose turn it is answered.

    Twisted's own reading of a head is not used: it is laxer than RFC 9112 in some places, and it goes on with the next
    line after it has refused one.

    Twisted has no public form of the private state that is used here and in the subclass (the names are Twisted's;
    `tests/web/server/test_twisted_private.py` fails if a new Twisted changes them):

    - `_buffer`, `_dataBuffer`: what has come and was not read yet. It is dropped when the connection is given up, and
      tells whether another request has come.
    - `_command`, `_path`, `_version`: the first line. Twisted reads it more laxly, and gives it to a request too late.
    - `_receivedHeaderSize`, `_receivedHeaderCount`: the size of the head, which this class counts itself.
    - `_transferDecoder`, `_finishRequestBody`: the body, which `http_head` frames more strictly than Twisted.
    - `_send100Continue`, `_respondToBadRequestAndDisconnect`: `100 Continue` only where the body is wanted; and the
      answer to a malformed chunked body, for which Twisted's has no body and no Content-Length.
    - `_busyReceiving`, `_handlingRequest`: whether this is a call from within another, and whether Twisted keeps what
      comes for later.
    - `_networkProducer`, `_optimisticEagerReadSize`: reading stops while a client does not read its answers.
    """

    #: Set by the site, as Twisted sets `site`.
    context: ServerContext
    transport: ITCPTransport
    #: Whether the connection is of no use any more. Nothing that still comes on it reaches a parser or a route.
    given_up = False
    #: What the requests that arrive hold of the memory for them; made when needed, since most reports are one packet.
    _arriving: Reservation | None = None
    #: Whether what comes is the rest of a request that was refused: its body is read to find its end, and dropped.
    _discarding = False
    #: Whether a request arrives, from its first line to the end of its body.
    _in_request = False
    #: Whether the one empty line that may stand before a request was there.
    _empty_line = False
    # Four times Twisted's, so that a long query in a URL meets its own limit first.
    MAX_LENGTH = totalHeadersSize = 65_536

    def give_up(self) -> None:
        """Read nothing more: neither what comes, nor what has come and was not read yet."""
        self.given_up = True
        self._buffer = b""
        self._dataBuffer = []
        if self._in_request and self.requests:
            self.requests[-1].drop()
        self._let_go()

    def dataReceived(self, data: bytes) -> None:
        """Have what comes read, unless the connection is given up."""
        if not self.given_up:
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Read a line of a head."""
        self._receivedHeaderSize += len(line)
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_unread(BadHead(f"the head is longer than {self.totalHeadersSize} bytes"))
            return
        try:
            if not self._in_request:
                self._first_line(line)
            elif line:
                self._field(line)
            else:
                self.allHeadersReceived()
        except BadHead as fault:
            self._refuse_unread(fault)

    def _first_line(self, line: bytes) -> None:
        if not line and not self._empty_line:
            self._empty_line = True
            return
        # From here on there is a request that arrives, for the deadlines and the limits.
        self._command, self._path, self._version = request_line(line, self.isSecure)
        self._in_request = True
        self.requests.append(self.requestFactory(self, len(self.requests)))

    def _field(self, line: bytes) -> None:
        if not self._discarding and not self.hold_more(HEADER_BYTES):
            self._overwhelmed()
            return
        self._receivedHeaderCount += 1
        if self._receivedHeaderCount > self.maxHeaders:
            raise BadHead(f"there are more than {self.maxHeaders} headers")
        self.requests[-1].requestHeaders.addRawHeader(*field(line))

    def allHeadersReceived(self) -> None:
        """Learn how the request ends, and whether it is one that is answered; then read its body, if it has one."""
        request = self.requests[-1]
        values = request.requestHeaders.getRawHeaders
        framed = framing(self._version, values)
        self.length = framed.length
        if framed.length is None:
            decoder = _ChunkedTransferDecoder(request.handleContentChunk, self._finishRequestBody)
            decoder._maxTrailerHeadersSize = MAX_TRAILERS  # noqa: SLF001 - there is no other way to set it
            self._transferDecoder = decoder
        elif framed.length:
            self._transferDecoder = _IdentityTransferDecoder(
                framed.length, request.handleContentChunk, self._finishRequestBody
            )
        self.persistent = not framed.closes
        if framed.closes:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        request.gotLength(framed.length)
        if framed.length == 0:
            self.allContentReceived()
            return
        if request.awaits_continue and not self._discarding:
            self._send100Continue()
        self.setRawMode()

    def allContentReceived(self) -> None:
        """Answer the request."""
        self._in_request = self._empty_line = False
        super().allContentReceived()

    def isSecure(self) -> bool:
        """Return whether the connection is in TLS."""
        return hasattr(self.transport, "negotiatedProtocol")

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """The method, the target and the version of the request whose head has just come.

        Twisted gives them to the request only with its whole body.
        """
        return self._command, self._path, self._version

    def hold_more(self, size: int) -> bool:
        """Hold so many bytes more for the request that arrives, until it is answered; False if there is no room."""
        if self._arriving is None:
            self._arriving = self.context.arriving.reservation()
        return self._arriving.hold(self._arriving.held + size)

    def _let_go(self) -> None:
        if self._arriving is not None:
            self._arriving.end()

    def _overwhelmed(self) -> None:
        """Refuse what arrives, since all requests that arrive fill the memory there is for them."""
        raise NotImplementedError

    def _linger(self) -> None:
        """Leave the connection open for as long as its client may need to read an early answer."""
        raise NotImplementedError

    def refuse(self, request: BoundedRequest, fault: Fault) -> None:
        """Answer a request ahead of its end. The end of its body ends the connection, or a deadline does."""
        content, has_body = fault_content(fault, request.route), request.method != b"HEAD"
        self.transport.write(early_answer(fault.status, content, *fault_headers(fault), has_body=has_body))
        request.label = request.route.label if request.route else "other"
        request.arrived = time.perf_counter()
        self.context.refused(request, fault)
        self.context.count(request, fault.status)
        self._discarding = True
        self._let_go()
        self._linger()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request whose first line, or a header, is too long."""
        del line
        self._answer_early(414, f"the request line or a header is longer than {self.MAX_LENGTH} bytes")
        self.give_up()
        self._linger()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse a chunked body that is none. Twisted calls this."""
        self._refuse_unread(BadHead("the chunked body is malformed"))

    def _refuse_unread(self, fault: Fault) -> None:
        """Answer, unless there was an answer already, and end the connection: nothing tells where a request begins."""
        if not self._discarding:
            self._answer_early(fault.status, str(fault))
        self.loseConnection()

    def _answer_early(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        self.transport.write(early_answer(status, {"error": text}, *headers))
        self.context.telemetry.request("other", b"other", status, 0.0)
