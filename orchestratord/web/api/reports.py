"""POST /update_metrics: reports into the table of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.errors import Busy, Draining, Fault, NoFamily, UnsupportedBody
from orchestratord.nodes.gunzip import gunzip_in_steps
from orchestratord.nodes.intake import ReportIntake
from orchestratord.nodes.report_decoder import shortened
from orchestratord.web.routes import UPDATE_METRICS
from orchestratord.web.server.context import client_of
from orchestratord.web.server.responses import (
    ConstantAnswer,
    failure_body,
    json_body,
    method_not_allowed_body,
    whole_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestratord.nodes.report_decoder import Decoded, ReportDecoder
    from orchestratord.nodes.store import NodeStore, Updated
    from orchestratord.runtime.clock import Clocks
    from orchestratord.runtime.time_slices import TimeSlices
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.api.report_remarks import ReportRemarks
    from orchestratord.web.server.request import BoundedRequest

log = Logger()

#: Bodies up to this size are decoded at once: a millisecond at most. Longer ones, and those that take more than
#: one step to unpack, let the reactor turn in between.
AT_ONCE = 32_768
#: Memory that a longer body takes while it is decoded, as a multiple of its length: the body and its reports.
DECODED_FACTOR = 8
#: Long gzip bodies that are unpacked at a time. Their memory is reserved only once they are whole.
UNPACKED_AT_ONCE = 4

_ONE: dict[str, Any] = {"status": "Metrics updated", "accepted": 1, "superseded": 0}
_ACCEPTED = ConstantAnswer(_ONE)
_ACCEPTED_CLOSE = ConstantAnswer(_ONE, closes=True)
#: Two names for the same coding, by RFC 9110.
_GZIP = frozenset({b"gzip", b"x-gzip"})
_DRAINING = "the orchestrator is shutting down; report to its successor"


class ReportsResource(Resource):
    """Answers requests that carry reports; `orchestratord.nodes.intake` stores the reports.

    `remarks` makes the remarks in an answer. `draining` says whether the service is about to stop; then every report is
    refused. `max_bytes` bounds an unpacked body. `slices` gives the turns of long bodies. `flush` hands the reports of
    this turn of the reactor to the kernel, where that has to come before the answer; None where it does not. `take`
    leaves this to its caller, who knows whether the answer is sent before the turn ends.
    """

    isLeaf = True

    def __init__(
        self,
        reactor: Any,
        decoder: ReportDecoder,
        nodes: NodeStore,
        telemetry: SelfMetrics,
        clocks: Clocks,
        *,
        remarks: ReportRemarks,
        max_bytes: int,
        draining: Any,
        slices: TimeSlices,
        flush: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._slices = slices
        self._unpacking = DeferredSemaphore(UNPACKED_AT_ONCE)
        self._intake = ReportIntake(reactor, decoder, nodes, telemetry, clocks, slices=slices)
        self._telemetry = telemetry
        self._remarks = remarks
        self._max_bytes = max_bytes
        self._draining = draining
        self._flush = flush

    def render(self, request: BoundedRequest) -> bytes | int:
        """Answer a request of any method."""
        if request.method != b"POST":
            return method_not_allowed_body(request, UPDATE_METRICS.allowed)
        try:
            unpacking = self._body(request)
            body = next(unpacking, b"")
            more = next(unpacking, None) if len(body) <= AT_ONCE else b""
            if more is None:
                self._telemetry.report_body(len(body))
                taken = self._intake.take(body, request.node)
                self._flush_now()
                return json_body(request, 200, self._stored(*taken))
        except Exception:  # noqa: BLE001 - a Fault, or a defect of the daemon
            return self._failure_body(request, Failure())
        finished = request.notifyFinish()
        storing = Deferred.fromCoroutine(self._store_long(request, [body, more], unpacking))
        finished.addErrback(lambda _: storing.cancel())
        storing.addErrback(lambda failure: self._answer_failure(request, failure))
        storing.addErrback(lambda failure: log.failure("a long batch failed", failure))
        return NOT_DONE_YET

    def _body(self, request: BoundedRequest) -> Iterator[bytes]:
        """Return the parts of the body, unpacked in steps.

        Raises UnsupportedBody for another media type or coding, Draining if the service is about to stop.
        """
        if self._draining():
            raise Draining(_DRAINING)
        headers = request.requestHeaders
        content_type = headers.getRawHeaders(b"Content-Type")
        if content_type and content_type[0].split(b";", 1)[0].strip().lower() != b"application/json":
            shown = ascii(content_type[0][:80].decode("latin-1"))
            raise UnsupportedBody(f"Content-Type must be application/json, not {shown}")
        body = request.body()
        encoding = headers.getRawHeaders(b"Content-Encoding")
        if encoding:
            name = encoding[0].strip().lower()
            if len(encoding) == 1 and name in _GZIP:
                return gunzip_in_steps(body, self._max_bytes)
            if name != b"identity":
                shown = ascii(b", ".join(encoding)[:80].decode("latin-1"))
                raise UnsupportedBody(f"Content-Encoding must be gzip or none, not {shown}")
        return iter((body,))

    async def _store_long(self, request: BoundedRequest, begun: list[bytes], unpacking: Iterator[bytes]) -> None:
        """Store a long body in slices of the reactor's time; `begun` has its first parts."""
        held = sum(map(len, begun))
        if request.requestHeaders.hasHeader(b"Content-Encoding"):
            _hold(request, held)
        await self._unpacking.acquire()
        try:
            for unpacked in unpacking:
                begun.append(unpacked)
                await self._slices.turn()
            body = b"".join(begun)
            begun.clear()
            _hold(request, len(body) - held)
        finally:
            self._unpacking.release()
        self._telemetry.report_body(len(body))
        # At most half of the memory, so that a single body always fits.
        _hold(request, min(DECODED_FACTOR * len(body), request.channel.context.arriving.limit // 2))
        taken = await self._intake.take_in_slices(body, request.node)
        self._flush_now()
        request.write(json_body(request, 200, self._stored(*taken)))
        request.finish()

    def take(self, body: bytes, *, closes: bool, node: str | None) -> bytes:
        """Store the reports of a short body and return a whole answer, head and body.

        `closes`: the connection ends after it. `node` is the only one that may be reported; None: any.

        Raises a Fault with nothing stored or counted; `render` would answer the same one.
        """
        if self._draining():
            raise Draining(_DRAINING)
        decoded, updated = self._intake.take(body, node)
        self._telemetry.report_body(len(body))
        answer = self._stored(decoded, updated)
        if answer is _ONE:
            return (_ACCEPTED_CLOSE if closes else _ACCEPTED).whole()
        return whole_answer(msgspec.json.encode(answer), closes=closes)

    def _stored(self, decoded: Decoded, updated: Updated) -> dict[str, Any]:
        """Return the answer to reports that were stored; `_ONE` itself for one report without remarks."""
        remarks = self._remarks.about(decoded)
        if updated.accepted == 1 and not updated.superseded and not remarks:
            return _ONE
        counts = {"status": "Metrics updated", "accepted": updated.accepted, "superseded": updated.superseded}
        return {**counts, **remarks}

    def _flush_now(self) -> None:
        """Hand the stored reports to the kernel, if the write-ahead log wants them before the answer."""
        if self._flush is not None:
            self._flush()

    def _failure_body(self, request: BoundedRequest, failure: Failure) -> bytes:
        """Count what was not stored, and return the answer."""
        error = failure.value
        self._intake.count_refused(error)
        if isinstance(error, Fault):
            if isinstance(error, NoFamily):
                self._remarks.log_ignored(shortened(error.names))
            if request.channel.context.access_log:
                # The text may quote what the client has sent, and a client may put its token anywhere.
                reason = request.channel.context.redacted(str(error).encode()).decode()
                log.info("report from {client} refused: {reason}", client=client_of(request), reason=reason)
        return failure_body(request, failure)

    def _answer_failure(self, request: BoundedRequest, failure: Failure) -> None:
        """Answer a long batch that could not be stored; a client that has left gets no answer."""
        if not failure.check(CancelledError):
            request.write(self._failure_body(request, failure))
            request.finish()


def _hold(request: BoundedRequest, size: int) -> None:
    """Reserve so many more bytes for a long body. Raises Busy."""
    if not request.channel.hold_more(size):
        raise Busy("the batches that are being read fill their memory; try again")
