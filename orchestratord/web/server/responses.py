"""Answers: JSON, plain text, and errors. Only this file makes an error an answer of the API; pages show theirs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, datetimeToString
from twisted.web.resource import Resource
from werkzeug.exceptions import HTTPException, NotFound

from orchestratord.errors import Fault, InternalError, UnknownNode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.web.http import Request

    from orchestratord.web.routes import Route

log = Logger()

_encode = msgspec.json.encode
JSON = b"application/json"
_INTERNAL = "internal error; the log of the orchestrator says more"


class ConstantAnswer:
    """A 200 with a constant JSON body. Its bytes are made once a second, since they contain the Date."""

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
    """Return the fault for a node that has no fresh report."""
    return UnknownNode(f"no fresh report of node {node_id[:253]!a}")


def fault_headers(fault: Fault) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that a fault's answer has besides those of every JSON answer."""
    if fault.retry_after is None:
        return fault.headers
    return (*fault.headers, (b"Retry-After", b"%d" % fault.retry_after))


def fault_content(fault: Fault, route: Route | None) -> dict[str, str]:
    """Return the value that is the JSON body of a fault's answer, in the envelope of the route."""
    return fault.envelope if route is not None and route.is_promql else fault.content


def set_fault_headers(request: Request, fault: Fault) -> None:
    """Set the headers of a fault's answer, in whatever form its body is, and end the connection if the fault does."""
    if fault.closes:
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        request.channel.persistent = False
    for name, value in fault_headers(fault):
        request.responseHeaders.setRawHeaders(name, [value])


def fault_body(request: Request, fault: Fault) -> bytes:
    """Set the status and the headers of a fault's answer, and return its body."""
    set_fault_headers(request, fault)
    return json_body(request, fault.status, fault_content(fault, _route(request)))


def failure_body(request: Request, failure: Failure, *, see: str = "GET / lists what there is") -> bytes:
    """Answer an exception that a route has raised, or Klein's for what is not a route; `see` ends the text of a 404.

    Any exception but a Fault is a defect of the daemon: it is logged, and the client is told no more than 500.
    """
    error = failure.value
    if isinstance(error, Fault):
        return fault_body(request, error)
    if isinstance(error, HTTPException):
        return _routing_error_body(request, error, see)
    log.failure("{method} {path} failed", failure, method=request.method, path=request.path)
    return json_body(request, 500, fault_content(InternalError(_INTERNAL), _route(request)))


def method_not_allowed_body(request: Request, allowed: Sequence[str]) -> bytes:
    """Answer 405 with the methods that are allowed."""
    request.responseHeaders.setRawHeaders(b"Allow", [", ".join(allowed).encode()])
    method = request.method.decode("ascii", "replace")[:20]
    return json_body(request, 405, {"error": f"method {method!a} is not allowed here: {', '.join(allowed)}"})


def early_answer(status: int, content: dict[str, str], *headers: tuple[bytes, bytes], has_body: bool = True) -> bytes:
    """Return head and body of an error that is answered ahead of the request's end, past Twisted's Request.

    It ends the connection. Without a body, as HEAD has it, its Content-Length is the same.
    """
    body = _encode(content)
    return b"HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s%s\r\n%s" % (
        status,
        RESPONSES.get(status, b"Refused"),
        datetimeToString(),
        len(body),
        b"".join([b"%s: %s\r\n" % header for header in headers]),
        b"Connection: close\r\n",
        body if has_body else b"",
    )


class NoSuchPath(Resource):
    """Answers every method with 404."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Answer as every other 404."""
        return failure_body(request, Failure(NotFound()))


class RefusedResource(Resource):
    """Answers a request that was refused, and that has no body, with a fault.

    `asks` adds the challenge that makes a browser ask its user for a token as a password.
    """

    isLeaf = True

    def __init__(self, fault: Fault, *, asks: bool) -> None:
        super().__init__()
        self._fault = fault
        self._asks = asks

    def render(self, request: Request) -> bytes:
        """Answer any method."""
        body = fault_body(request, self._fault)
        if self._asks:
            request.responseHeaders.addRawHeader(b"WWW-Authenticate", b'Basic realm="orchestratord", charset="UTF-8"')
        return body


def _route(request: Request) -> Route | None:
    route: Route | None = getattr(request, "route", None)
    return route


def _routing_error_body(request: Request, error: HTTPException, see: str) -> bytes:
    if error.code == 405:
        return method_not_allowed_body(request, sorted(getattr(error, "valid_methods", None) or ()))
    if error.code == 404:
        return json_body(request, 404, {"error": f"no such path; {see}"})
    return json_body(request, error.code or 500, {"error": error.name})
