"""The reading side of a connection: strict heads of requests, early refusals, and the end of reading."""

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

#: Bytes of memory that a header takes besides its own bytes.
HEADER_BYTES = 300
#: Bytes of trailers. They are dropped, since no client sends any here.
MAX_TRAILERS = 4096


class ReadingChannel(http.HTTPChannel):
    """Reads requests. The subclass adds deadlines and the order of answers.

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
    #: Whether reading has ended. Nothing that still comes reaches a parser or a route.
    given_up = False
    #: The memory that arriving requests hold. Made when needed, since most reports come in one packet.
    _arriving: Reservation | None = None
    #: Whether the rest of a refused request is coming: it is read to find its end, and dropped.
    _discarding = False
    #: Whether a request arrives, from its first line to the end of its body.
    _in_request = False
    #: Whether the one empty line that is allowed before a request has come.
    _empty_line = False
    # Four times Twisted's, so that a long query in a URL meets its own limit first.
    MAX_LENGTH = totalHeadersSize = 65_536

    def give_up(self) -> None:
        """End reading: drop what has come and was not read yet, and whatever still comes."""
        self.given_up = True
        self._buffer = b""
        self._dataBuffer = []
        if self._in_request and self.requests:
            self.requests[-1].drop()
        self._let_go()

    def dataReceived(self, data: bytes) -> None:
        """Read what comes, unless the connection is given up."""
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
        """Find out how the request ends, let it be admitted or refused, and read its body if it has one."""
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
        """Reserve so many more bytes for the arriving request until it is answered; False if there is no memory."""
        if self._arriving is None:
            self._arriving = self.context.arriving.reservation()
        return self._arriving.hold(self._arriving.held + size)

    def _let_go(self) -> None:
        if self._arriving is not None:
            self._arriving.end()

    def _overwhelmed(self) -> None:
        """Refuse what arrives, since arriving requests fill the memory for them."""
        raise NotImplementedError

    def _linger(self) -> None:
        """Leave the connection open for as long as the client may need to read an early answer."""
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
        """Refuse a chunked body that is malformed, or whose chunks are tiny. Twisted calls this."""
        self._refuse_unread(BadHead("the chunked body is malformed, or its chunks are tiny"))

    def _refuse_unread(self, fault: Fault) -> None:
        """Answer, unless that was done, and end the connection: it is unknown where the next request begins."""
        if not self._discarding:
            self._answer_early(fault.status, str(fault))
        self.loseConnection()

    def _answer_early(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        self.transport.write(early_answer(status, {"error": text}, *headers))
        self.context.telemetry.request("other", b"other", status, 0.0)
