"""Tells an answer of Prometheus, which is passed on, from any other answer of an upstream, which is an error."""

from __future__ import annotations

import re

import msgspec

#: The statuses of Prometheus' own answers, which are passed on. Any other comes from a proxy, or is about the daemon's
#: credentials. Such a 401 is not passed on: the client would think of its own token.
_OWN_STATUSES = frozenset({200, 400, 404, 406, 422, 499, 500, 503})
#: How every answer of Prometheus' API begins.
_ENVELOPE = re.compile(rb'\s*\{\s*"status"\s*:\s*"(?:success|error)"')
#: The Content-Types of Prometheus' answers. It is passed on to clients, so that it has printable characters only.
_JSON = re.compile(rb"application/json(?: *;[ -~]{0,100})?", re.IGNORECASE)
#: Bytes of the largest JSON error that is decoded, and characters of an error's text that are passed on.
_MAX_ERROR, _MAX_WORDS = 65_536, 200


class Broken(Exception):
    """An upstream's answer is not one of Prometheus. `retry_after` is what the answer asks for, in seconds, or None."""

    def __init__(self, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def may_be_own(status: int, content_type: bytes) -> bool:
    """Return whether the head of an answer is one of Prometheus' own."""
    return status in _OWN_STATUSES and _JSON.fullmatch(content_type) is not None


def is_own(status: int, content_type: bytes, body: bytes) -> bool:
    """Return whether a whole answer is one of Prometheus' own: an error has its envelope."""
    return may_be_own(status, content_type) and (status == 200 or _ENVELOPE.match(body) is not None)


def broken(status: int, content_type: bytes, body: bytes, wait: int | None) -> Broken:
    """Return the error that describes an answer that is not one of Prometheus; `wait` is its Retry-After in seconds."""
    if 300 <= status < 400:
        return Broken(f"answered {status}, a redirect, which is not followed")
    words = _words(content_type, body)
    if words and status != 200:
        return Broken(f"answered {status}: {words}", wait)
    shown = ascii(content_type[:200].decode("latin-1")) if content_type else "no content type"
    return Broken(f"answered {status} with {shown}, which is not an answer of Prometheus' API", wait)


def _words(content_type: bytes, body: bytes) -> str:
    """Return the text of an error as one printable line; empty if it is HTML, or if there is none."""
    kind = content_type.lower()
    text = ""
    if kind.startswith(b"application/json") and len(body) <= _MAX_ERROR:
        try:
            said = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = None
        if isinstance(said, dict):
            text = next((said[key] for key in ("error", "message") if isinstance(said.get(key), str)), "")
    elif kind.startswith(b"text/plain"):
        text = body[: 4 * _MAX_WORDS].decode(errors="replace")
    return ascii(" ".join(text.split())[:_MAX_WORDS])[1:-1]
