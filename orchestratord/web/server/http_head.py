"""The head of a request as RFC 9112 defines it: the first line, the fields, and how long the body is. Pure.

The fast path and the ordinary one read heads with these functions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_SHOWN = 40
#: A body whose length has more digits than this is over every limit. Python refuses to read numbers of 4,300 digits.
_MAX_DIGITS = 15

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_TOKEN)
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_HOST = rb"(?:\[[0-9A-Za-z:.%_~!$&'()*+,;=-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
_HOST_FIELD = re.compile(_HOST)
_ABSOLUTE = re.compile(rb"(https?)://(%s)([/?].*)?" % _HOST, re.IGNORECASE | re.DOTALL)
#: Control characters except the tab: not allowed in a value. RFC 9110, 5.5.
_CONTROLS = bytes([*range(9), *range(10, 32), 127])
#: The registered methods of plain HTTP: RFC 9110, PATCH and QUERY; except CONNECT, which is for proxies.
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY"})


class BadHead(Fault):
    """The head is not valid HTTP/1.1, or does not say where the request ends, so nothing after it can be read."""

    status = 400
    closes = True


class UnknownVersion(BadHead):
    """A version of HTTP with another major number."""

    status = 505


class UnknownCoding(BadHead):
    """A transfer coding other than chunked: the body cannot be read."""

    status = 501


class Misdirected(BadHead):
    """An https target on a connection without TLS."""

    status = 421


class UnknownMethod(Fault):
    """A method that is not registered for HTTP, or CONNECT."""

    status = 501


class UnknownExpectation(Fault):
    """An expectation other than 100-continue."""

    status = 417


class NoSuchTag(Fault):
    """If-Match with an entity tag. No answer here has one, so none can match."""

    status = 412


class RequestLine(NamedTuple):
    """The first line of a request. `target` is a path with its query, or `*`; `version` HTTP/1.0 or HTTP/1.1."""

    method: bytes
    target: bytes
    version: bytes


class Framing(NamedTuple):
    """How a request ends. `length` is its body's in bytes, None for a chunked one, `closes` ends the connection."""

    length: int | None
    closes: bool


def request_line(line: bytes, is_secure: Callable[[], bool]) -> RequestLine:
    """Return what a first line says; `is_secure` tells whether the connection is in TLS. Raises BadHead."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadHead(f"the first line must be a method, a target and HTTP/1.1, not {_shown(line)}")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise UnknownVersion(f"only HTTP/1.1 is supported, not HTTP/{major.decode()}.{minor.decode()}")
    return RequestLine(method, _target(method, target, is_secure), b"HTTP/1.0" if minor == b"0" else b"HTTP/1.1")


def _target(method: bytes, target: bytes, is_secure: Callable[[], bool]) -> bytes:
    """Return a target's path and query. The host of an absolute target is ignored."""
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or absolute[2][:1] in {b"", b":"}:
        if method == b"CONNECT":
            raise UnknownCoding("CONNECT is for proxies, and this is not one")
        raise BadHead(f"the target must be a path or an http URL, not {_shown(target)}")
    if absolute[1].lower() == b"https" and not is_secure():
        raise Misdirected("an https URL is answered in TLS only")
    rest = absolute[3] or b"/"
    return rest if rest[:1] == b"/" else b"/" + rest


def field(line: bytes) -> tuple[bytes, bytes]:
    """Return a field line's name and value. Raises BadHead."""
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise BadHead(f"a header must be a name, a colon and a value, not {_shown(name)}")
    value = value.strip(b" \t")
    if len(value.translate(None, _CONTROLS)) != len(value):
        raise BadHead(f"the header {_shown(name)} holds a control character")
    return name, value


def framing(version: bytes, values: Callable[[bytes], Sequence[bytes] | None]) -> Framing:
    """Return how the request ends; `values` gives the values of a field. Raises BadHead."""
    hosts = values(b"Host") or ()
    if len(hosts) != 1 and (hosts or version == b"HTTP/1.1"):
        raise BadHead(f"there must be one Host header, not {len(hosts)}")
    if hosts and _HOST_FIELD.fullmatch(hosts[0]) is None:
        raise BadHead(f"the Host header must be a name or an address, and a port, not {_shown(hosts[0])}")
    closes = version != b"HTTP/1.1" or b"close" in _members(values(b"Connection") or ())
    lengths, codings = values(b"Content-Length"), values(b"Transfer-Encoding")
    if codings:
        _check_codings(version, _members(codings), also_length=bool(lengths))
        return Framing(None, closes)
    return Framing(_length(lengths) if lengths else 0, closes)


def check(method: bytes, version: bytes, values: Callable[[bytes], Sequence[bytes] | None]) -> bool:
    """Return whether the client waits for 100 Continue; raise a Fault for a method or header that is not supported."""
    if method not in _METHODS:
        raise UnknownMethod(f"the method {_shown(method)} is not known here; methods are in capital letters")
    expectations = _members(values(b"Expect") or ())
    if expectations and expectations != [b"100-continue"]:
        raise UnknownExpectation("the header Expect may be 100-continue and nothing else")
    matches = _members(values(b"If-Match") or ())
    if matches and matches != [b"*"]:
        raise NoSuchTag("the header If-Match names an entity tag, and nothing here has one")
    return bool(expectations) and version == b"HTTP/1.1"


def _check_codings(version: bytes, codings: list[bytes], *, also_length: bool) -> None:
    if version != b"HTTP/1.1":
        raise BadHead("there is no Transfer-Encoding in HTTP/1.0")
    if also_length:
        raise BadHead("there must be a Content-Length or a Transfer-Encoding, not both")
    if codings[-1:] != [b"chunked"] or codings.count(b"chunked") != 1:
        raise BadHead("Transfer-Encoding must end with chunked, and name it once")
    if len(codings) > 1:
        raise UnknownCoding("no Transfer-Encoding except chunked is known here")


def _length(values: Sequence[bytes]) -> int:
    if len(values) != 1 or not values[0].isdigit():
        raise BadHead(f"Content-Length must be one number of bytes, not {_shown(b', '.join(values))}")
    digits = values[0].lstrip(b"0") or b"0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _members(values: Sequence[bytes]) -> list[bytes]:
    """Return the members of a list header, which may have several lines, in lower case."""
    return [member for value in values for part in value.split(b",") if (member := part.strip(b" \t").lower())]


def _shown(data: bytes) -> str:
    """Return what is safe and short enough to be shown back."""
    text = data.decode("latin-1")
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
