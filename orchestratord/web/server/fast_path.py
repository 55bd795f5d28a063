"""The fast path: usual reports, and queries that memory answers, bypass Twisted's parser.

A report on the ordinary path costs 50 us besides the kernel's work. 40 us of them go into header lines that are the
same in every report of a profiler, and into objects that are not used. Here all headers are looked up as one key: 12
us. A request that is not exactly what `FastPath` knows takes the ordinary path with its bytes unchanged, and so do all
later requests on that connection. Refusals are made on the ordinary path only.
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
#: Headers that do not change the answer. A request with any other header takes the ordinary path.
_IDLE_HEADERS = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"})
#: The usual spelling. Another spelling is a header that is not known here.
_AUTHORIZATION = b"\r\nAuthorization: "
#: Header blocks that are remembered: profilers send one for each length of a body.
_MAX_KNOWN = 1000
_MAX_HEAD = 2000


class Unanswered(Enum):
    """What to do with the bytes of a connection that were not answered."""

    #: Wait for the rest of the request.
    WAIT = 1
    #: Give them to Twisted's parser: the ordinary path.
    FALL_THROUGH = 2


class ReportsTaken(Protocol):
    """Stores reports: `orchestratord.web.api.reports.ReportsResource`."""

    def take(self, body: bytes, *, closes: bool, node: str | None) -> bytes:
        """Store a body's reports and return a whole answer, or raise with nothing stored."""
        ...


class QueriesAtHand(Protocol):
    """Answers queries: `orchestratord.web.api.queries.Queries`."""

    def at_once(self, path: str, query_string: bytes, *, closes: bool) -> bytes | None:
        """Return a whole answer if there is one without asking Prometheus, else None. May raise."""
        ...


class Answered(NamedTuple):
    """A whole answer, head and body, and whether the connection ends after it."""

    data: bytes
    closes: bool


class _Headers(NamedTuple):
    """What the headers of a request mean: whether they are a plain query's, and the length of a plain report's body.

    `length` is in bytes; 0: the headers are not a report's. `closes`: the connection ends after the answer.
    """

    is_query: bool
    length: int
    closes: bool


class FastPath:
    """Answers whole reports, and queries that need no Prometheus, from clients that `gate` admits.

    `max_body` is the longest report, in bytes. Belongs to the reactor thread.
    """

    def __init__(
        self, reports: ReportsTaken, queries: QueriesAtHand, telemetry: SelfMetrics, gate: Gate, *, max_body: int
    ) -> None:
        self._reports = reports
        self._queries = queries
        self._telemetry = telemetry
        self._gate = gate
        self._max_body = max_body
        #: What header blocks mean. The request line is not part of the key, since every query has its own.
        self._known: dict[bytes, _Headers | None] = {}

    def answer(self, data: bytes, *, last: bool = False) -> Answered | Unanswered:
        """Return the answer if `data` is exactly one request, or what to do instead.

        With `last` the answer ends the connection, even if the client does not ask for that.
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
            # For each packet, so that a client without a token does not get to send a body.
            node = self._gate.admit(UPDATE_METRICS.role, authorization)
            if missing:
                return Unanswered.WAIT
            answer = self._reports.take(data[body:], closes=headers.closes, node=node)
        except Exception:  # noqa: BLE001 - nothing was stored; the ordinary path answers or logs the same exception
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
        except Exception:  # noqa: BLE001 - the ordinary path answers or logs the same exception
            return Unanswered.FALL_THROUGH
        if answer is None:
            return Unanswered.FALL_THROUGH
        self._telemetry.request(route.label, b"GET", 200, time.perf_counter() - started)
        return Answered(answer, headers.closes)

    def _is_odd(self, authorization: bytes | None, route: Route) -> bool:
        """Return whether the value of Authorization must be read on the ordinary path.

        Where the role requires a token, the fast path takes `Bearer` in its usual spelling only. The ordinary path
        reads other spellings, white space around a token, and malformed headers.
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
        """Parse and remember what headers mean; None: the request takes the ordinary path."""
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
    """Return where the head ends (-1: it does not), the head without Authorization, and the value of Authorization.

    It is cut out since every node may have its own token, and their heads are equal without it. A second Authorization
    stays in the head, which makes the head unknown. The search for the head's end starts behind the token: a search
    through a token of 1 kB would take 2 us.
    """
    value = at + len(_AUTHORIZATION)
    stop = data.find(b"\r", value)
    end = data.find(b"\r\n\r\n", stop) if stop >= 0 else -1
    return end, data[:at] + data[stop:end], data[value:stop]
