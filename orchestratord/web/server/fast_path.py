"""The short way of a report or a query from memory: one that comes as nearly all do is answered past the ordinary way.

A report that goes Twisted's way costs 50 us before the kernel's part; 40 of them go into header lines that are the same
in every report of a profiler, and into objects that nobody looks at. Here the headers are looked up as a whole: 12 us.
Whatever is not exactly what `FastPath` knows goes Twisted's way, bytes unchanged, and so does all that follows on that
connection; what is refused is refused there, in the one place that does it.
"""

from __future__ import annotations

import re
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from orchestratord.web.routes import ROUTES, UPDATE_METRICS
from orchestratord.web.server.http_head import BadHead, field, framing

if TYPE_CHECKING:
    from orchestratord.security.gate import Gate
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.routes import Route

_REPORT_LINE = b"POST %s HTTP/1.1" % UPDATE_METRICS.path.encode()
_QUERIES = {route.path.encode(): route for route in ROUTES if route.is_fast and "GET" in route.methods}
_QUERY_LINE = re.compile(rb"GET (%s)\?([!-~]+) HTTP/1\.1\Z" % b"|".join(map(re.escape, _QUERIES)))
_VERSION = b"HTTP/1.1"
#: Every path that is answered here.
FAST_PATHS = (UPDATE_METRICS.path.encode(), *_QUERIES)
#: Headers that change nothing about the answer. Any other sends the request Twisted's way.
_IDLE_HEADERS = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"})
#: As all but a few clients spell it; another spelling is a header that is not known here.
_AUTHORIZATION = b"\r\nAuthorization: "
#: Header blocks that are remembered: a fleet sends one for each length of a body.
_MAX_KNOWN = 1000
_MAX_HEAD = 2000


class Unanswered(Enum):
    """What is to be done with the bytes of a connection that were not answered."""

    #: More of the request has to come.
    WAIT = 1
    #: Twisted's parser takes over.
    FALL_THROUGH = 2


class ReportsTaken(Protocol):
    """What takes the reports: `orchestratord.web.api.reports.ReportsResource`."""

    def take(self, body: bytes, *, closes: bool, node: str | None) -> bytes:
        """Store a body's reports and return a whole answer, or raise with nothing stored."""
        ...


class QueriesAtHand(Protocol):
    """What answers the queries: `orchestratord.web.api.queries.QueriesAtHand`."""

    def at_once(self, path: str, query_string: bytes, *, closes: bool) -> bytes | None:
        """Return a whole answer that is at hand, or None; or raise."""
        ...


class Answered(NamedTuple):
    """A whole answer, head and body, and whether the connection ends with it."""

    data: bytes
    closes: bool


class _Headers(NamedTuple):
    """What the headers of a request say: whether they are those of a plain query, or of a plain report and how long.

    `length` is the report's, in bytes; 0: they are not those of a report.
    """

    is_query: bool
    length: int
    closes: bool


class FastPath:
    """Answers whole reports, and queries whose answer is at hand, of those whom `gate` lets in.

    `max_body` is the longest report, in bytes.
    """

    def __init__(
        self, reports: ReportsTaken, queries: QueriesAtHand, telemetry: SelfMetrics, gate: Gate, *, max_body: int
    ) -> None:
        self._reports = reports
        self._queries = queries
        self._telemetry = telemetry
        self._gate = gate
        self._max_body = max_body
        #: What header blocks said; the request line is not part of the key, since every query has its own.
        self._known: dict[bytes, _Headers | None] = {}

    def answer(self, data: bytes, *, last: bool = False) -> Answered | Unanswered:
        """Return the answer to a request, if `data` is one and no more, or what is to be done instead.

        `last` has it end the connection, whether the client asks for that or not.
        """
        started = time.perf_counter()
        at = data.find(_AUTHORIZATION, 0, _MAX_HEAD)
        if at < 0:
            end, authorization = data.find(b"\r\n\r\n"), None
            top = data[:end]
        else:
            end, top, authorization = _cut(data, at)
        if end < 0:
            return Unanswered.FALL_THROUGH
        line, _, block = top.partition(b"\r\n")
        try:
            headers = self._known[block]
        except KeyError:
            headers = self._learn(block)
        if headers is None:
            return Unanswered.FALL_THROUGH
        if last:
            headers = headers._replace(closes=True)
        if line == _REPORT_LINE and headers.length:
            return self._report(data, end + 4, headers, authorization, started)
        if headers.is_query and end + 4 == len(data):
            return self._query(line, headers, authorization, started)
        return Unanswered.FALL_THROUGH

    def _report(
        self, data: bytes, body: int, headers: _Headers, authorization: bytes | None, started: float
    ) -> Answered | Unanswered:
        """Answer a report whose body begins at `body`."""
        missing = body + headers.length - len(data)
        if missing < 0 or self._is_odd(authorization, UPDATE_METRICS):
            return Unanswered.FALL_THROUGH
        try:
            # Each time, and before the rest of a body is waited for.
            node = self._gate.admit(UPDATE_METRICS.role, authorization)
            if missing:
                return Unanswered.WAIT
            answer = self._reports.take(data[body:], closes=headers.closes, node=node)
        except Exception:  # noqa: BLE001 - nothing was stored; it is refused there, or fails there and is logged
            return Unanswered.FALL_THROUGH
        self._telemetry.request(UPDATE_METRICS.label, b"POST", 200, time.perf_counter() - started)
        return Answered(answer, headers.closes)

    def _query(
        self, line: bytes, headers: _Headers, authorization: bytes | None, started: float
    ) -> Answered | Unanswered:
        asked = _QUERY_LINE.match(line)
        if asked is None or self._is_odd(authorization, _QUERIES[asked[1]]):
            return Unanswered.FALL_THROUGH
        route = _QUERIES[asked[1]]
        try:
            self._gate.admit(route.role, authorization)
            answer = self._queries.at_once(route.path, asked[2], closes=headers.closes)
        except Exception:  # noqa: BLE001 - it is refused there, or fails there and is logged
            return Unanswered.FALL_THROUGH
        if answer is None:
            return Unanswered.FALL_THROUGH
        self._telemetry.request(route.label, b"GET", 200, time.perf_counter() - started)
        return Answered(answer, headers.closes)

    def _is_odd(self, authorization: bytes | None, route: Route) -> bool:
        """Return whether a value has to be read the other way.

        Where a token is needed, only one that is as it should be, byte for byte, is let in. Another spelling of
        `Bearer`, white space around a token, or what is no header at all, is read there.
        """
        if authorization is None:
            return False
        if not self._gate.is_open(route.role):
            return authorization[:7] != b"Bearer "
        try:
            field(b"Authorization:" + authorization)
        except BadHead:
            return True
        return False

    def _learn(self, block: bytes) -> _Headers | None:
        """Remember what headers say, or None if the request has to go Twisted's way."""
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        headers = self._parsed(block)
        if len(block) <= _MAX_HEAD and (headers is not None or b"authorization" not in block.lower()):
            self._known[block] = headers
        return headers

    def _parsed(self, block: bytes) -> _Headers | None:
        headers: dict[bytes, list[bytes]] = {}
        try:
            for line in block.split(b"\r\n"):
                name, value = field(line)
                headers.setdefault(name.lower(), []).append(value)
            length, closes = framing(_VERSION, lambda name: headers.get(name.lower()))
        except BadHead:
            return None
        if any(len(values) != 1 for values in headers.values()) or length is None:
            return None
        if headers.pop(b"connection", [b"close"])[0].lower() not in {b"keep-alive", b"close"}:
            return None
        if headers.keys() <= _IDLE_HEADERS:
            return _Headers(is_query=True, length=0, closes=closes)
        content_type = headers.pop(b"content-type", [b"application/json"])[0].lower()
        headers.pop(b"content-length", None)
        plain = content_type == b"application/json" and headers.keys() <= _IDLE_HEADERS
        if not plain or not 0 < length <= self._max_body:
            return None
        return _Headers(is_query=False, length=length, closes=closes)


def _cut(data: bytes, at: int) -> tuple[int, bytes, bytes]:
    """Return where the head ends, -1 if it does not, the head without its Authorization, and the value of that.

    It is cut out since every node may have a token of its own, and their heads are one and the same without. A second
    one, or what else is odd, stays in the head, which then is none that is known. A token of 1 kB is skipped by the one
    byte at its end: looking for the end of the head all through it would take 2 us.
    """
    value = at + len(_AUTHORIZATION)
    stop = data.find(b"\r", value)
    end = data.find(b"\r\n\r\n", stop) if stop >= 0 else -1
    return end, data[:at] + data[stop:end], data[value:stop]
