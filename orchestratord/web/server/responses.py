"""How answers are written: JSON, and every Fault as the contract has it. Only here do errors become responses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.logger import Logger
from twisted.web.http import datetimeToString
from werkzeug.exceptions import HTTPException

from orchestratord.errors import Fault, UnknownNode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.python.failure import Failure
    from twisted.web.http import Request

log = Logger()

_encode = msgspec.json.encode
JSON = b"application/json"


class ConstantAnswer:
    """A 200 with a JSON body that never changes; its bytes are made once a second, for the Date in them."""

    def __init__(self, value: Any, *, closes: bool = False) -> None:
        self._body = _encode(value)
        self._closes = closes
        self._made = 0
        self._bytes = b""

    def whole(self) -> bytes:
        """Return head and body."""
        second = int(time.time())
        if second != self._made:
            self._made = second
            self._bytes = whole_answer(self._body, closes=self._closes)
        return self._bytes


def whole_answer(body: bytes, *headers: tuple[bytes, bytes], closes: bool) -> bytes:
    """Return head and body of a 200 with a JSON body."""
    return b"HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s%s\r\n%s" % (
        datetimeToString(),
        len(body),
        b"".join([b"%s: %s\r\n" % header for header in headers]),
        b"Connection: close\r\n" if closes else b"",
        body,
    )


def json_body(request: Request, status: int, value: Any) -> bytes:
    """Set the status and the headers of a JSON answer, and return its body."""
    body = _encode(value)
    request.setResponseCode(status)
    request.responseHeaders.setRawHeaders(b"Content-Type", [JSON])
    request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body


def text_body(request: Request, status: int, text: str) -> bytes:
    """Set the status and the headers of a plain text, and return its bytes."""
    body = text.encode()
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def unknown_node(node_id: str) -> UnknownNode:
    """Return the fault of asking for a node that is not there."""
    return UnknownNode(f"no fresh report of node {node_id[:253]!a}")


def fault_headers(fault: Fault) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that a fault's answer has beside those of any JSON."""
    if fault.retry_after is None:
        return fault.headers
    return (*fault.headers, (b"Retry-After", b"%d" % fault.retry_after))


def fault_body(request: Request, fault: Fault, *, is_promql: bool = False) -> bytes:
    """Set the status and the headers that a fault calls for, and return its body."""
    if fault.closes:
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        request.channel.persistent = False
    for name, value in fault_headers(fault):
        request.responseHeaders.setRawHeaders(name, [value])
    return json_body(request, fault.status, fault.envelope if is_promql else fault.content)


def query_error_body(request: Request, status: int, error_type: str, text: str) -> bytes:
    """Answer in Prometheus' error envelope."""
    return json_body(request, status, {"status": "error", "errorType": error_type, "error": text})


def failure_body(request: Request, failure: Failure) -> bytes:
    """Answer whatever a route has raised; what is nobody's Fault is ours: 500, logged, and nothing told."""
    error = failure.value
    if isinstance(error, Fault):
        return fault_body(request, error)
    if isinstance(error, HTTPException):
        return _routing_error_body(request, error)
    log.failure("{method} {path} failed", failure, method=request.method, path=request.path)
    if request.path.startswith((b"/query", b"/api/")):
        return query_error_body(request, 500, "internal", "internal error; the log of the orchestrator says more")
    return json_body(request, 500, {"error": "internal error; the log of the orchestrator says more"})


def method_not_allowed_body(request: Request, allowed: Sequence[str]) -> bytes:
    """Answer 405 with the methods that there are."""
    request.responseHeaders.setRawHeaders(b"Allow", [", ".join(allowed).encode()])
    method = request.method.decode("ascii", "replace")[:20]
    return json_body(request, 405, {"error": f"method {method!a} is not allowed here: {', '.join(allowed)}"})


def _routing_error_body(request: Request, error: HTTPException) -> bytes:
    if error.code == 405:
        return method_not_allowed_body(request, sorted(getattr(error, "valid_methods", None) or ()))
    if error.code == 404:
        return json_body(request, 404, {"error": "no such path; GET / lists what there is"})
    return json_body(request, error.code or 500, {"error": error.name})
