"""The short way of a report or a query from memory: one that comes as nearly all do is answered past Twisted's parser.

A report that goes Twisted's way costs 50 us before the kernel's part; 40 of them go into header lines that are the same
in every report of a profiler, and into objects that nobody looks at. Here the head is looked up as a whole: 12 us.
Whatever is not exactly what `Express` knows goes Twisted's way, bytes unchanged, and so does all that follows on that
connection; what is refused is refused there, in the one place that does it.
"""

from __future__ import annotations

import re
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from orchestratord.access import Rule, rule

if TYPE_CHECKING:
    from orchestratord.access import Gate
    from orchestratord.telemetry import Telemetry

_REQUEST_LINE = b"POST /update_metrics HTTP/1.1"
_QUERY_LINE = re.compile(rb"GET (/query|/api/v1/query)\?([!-~]+) HTTP/1\.1\Z")
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*\Z")
#: Headers that change nothing about the answer. Any other sends the request Twisted's way.
_IDLE_HEADERS = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"})
#: As all but a few clients spell it; another spelling is a header that is not known here.
_AUTHORIZATION = b"\r\nAuthorization: "
#: Heads that are remembered: a fleet sends one for each length of a body.
_MAX_HEADS = 1000
_MAX_HEAD = 2000


class Way(Enum):
    """What is to be done with the bytes of a connection that were not answered."""

    #: More of the request has to come.
    WAIT = 1
    #: Twisted's parser takes over.
    TWISTED = 2


class Reports(Protocol):
    """What takes the reports: `orchestratord.web.reports.ReportsResource`."""

    def take(self, body: bytes, *, closes: bool, node: str | None) -> bytes:
        """Store a body's reports and return a whole answer, or raise with nothing stored."""
        ...


class Queries(Protocol):
    """What answers the queries: `orchestratord.web.queries.Queries`."""

    def at_once(self, path: str, query_string: bytes, *, closes: bool) -> bytes | None:
        """Return a whole answer that is at hand, or None; or raise."""
        ...


class Answered(NamedTuple):
    """A whole answer, head and body, and whether the connection ends with it."""

    data: bytes
    closes: bool


class _Head(NamedTuple):
    """What a head says: how long the report after it is, or which query it asks, and whether the connection ends."""

    length: int
    target: tuple[str, bytes]
    closes: bool
    rule: Rule


class Express:
    """Answers whole reports, and queries whose answer is at hand, of those whom `gate` lets in.

    `max_body` is the longest report, in bytes.
    """

    def __init__(self, reports: Reports, queries: Queries, telemetry: Telemetry, gate: Gate, *, max_body: int) -> None:
        self._reports = reports
        self._queries = queries
        self._telemetry = telemetry
        self._gate = gate
        self._max_body = max_body
        self._heads: dict[bytes, _Head | None] = {}

    def answer(self, data: bytes) -> Answered | Way:
        """Return the answer to a request, if `data` is one and no more, or what is to be done instead."""
        started = time.perf_counter()
        at = data.find(_AUTHORIZATION, 0, _MAX_HEAD)
        if at < 0:
            end, authorization = data.find(b"\r\n\r\n"), None
            top = data[:end]
        else:
            end, top, authorization = _cut(data, at)
        if end < 0:
            return Way.TWISTED
        try:
            head = self._heads[top]
        except KeyError:
            head = self._learn(top)
        missing = -1 if head is None else end + 4 + head.length - len(data)
        if missing < 0 or head is None or (authorization is not None and self._is_odd(authorization, head)):
            return Way.TWISTED
        try:
            # Each time, and before a body is waited for.
            node = self._gate.admit(head.rule, authorization)
            if missing:
                return Way.WAIT
            if head.length:
                method = b"POST"
                answer: bytes | None = self._reports.take(data[end + 4 :], closes=head.closes, node=node)
            else:
                method = b"GET"
                answer = self._queries.at_once(*head.target, closes=head.closes)
        except Exception:  # noqa: BLE001 - nothing was stored; it is refused there, or fails there and is logged
            return Way.TWISTED
        if answer is None:
            return Way.TWISTED
        self._telemetry.request(head.rule.route, method, 200, time.perf_counter() - started)
        return Answered(answer, head.closes)

    def _is_odd(self, authorization: bytes, head: _Head) -> bool:
        """Return whether a value that nobody is going to compare with a token is such that Twisted may object to it."""
        return self._gate.is_open(head.rule.role) and _HEADER.match(b"Authorization:" + authorization) is None

    def _learn(self, data: bytes) -> _Head | None:
        """Remember what a head says, or None if the request has to go Twisted's way."""
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        head = self._parsed(data)
        if len(data) <= _MAX_HEAD and (head is not None or b"authorization" not in data.lower()):
            self._heads[data] = head
        return head

    def _parsed(self, data: bytes) -> _Head | None:
        request_line, *lines = data.split(b"\r\n")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            header = _HEADER.match(line)
            if header is None or header[1].lower() in headers:
                return None
            headers[header[1].lower()] = header[2].lower()
        connection = headers.pop(b"connection", b"keep-alive")
        if connection not in {b"keep-alive", b"close"}:
            return None
        asked = _QUERY_LINE.match(request_line)
        if asked and headers.keys() <= _IDLE_HEADERS:
            asks = rule(b"GET", asked[1])
            return None if asks is None else _Head(0, (asked[1].decode(), asked[2]), connection == b"close", asks)
        length = headers.pop(b"content-length", b"")
        content_type = headers.pop(b"content-type", b"application/json")
        plain = (
            request_line == _REQUEST_LINE
            and re.fullmatch(rb"[0-9]{1,9}", length) is not None
            and content_type == b"application/json"
            and headers.keys() <= _IDLE_HEADERS
        )
        if not plain or not 0 < int(length) <= self._max_body:
            return None
        reports = rule(b"POST", b"/update_metrics")
        return None if reports is None else _Head(int(length), ("", b""), connection == b"close", reports)


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
