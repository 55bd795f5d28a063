"""What an upstream has sent back: an answer of Prometheus, which is passed on, or something that is none."""

from __future__ import annotations

import re

import msgspec

#: The statuses of Prometheus' own answers, which are passed on. Any other is that of something in between, or is about
#: who we are there, which is none of the client's business: a 401 of ours is about the client's own token.
_OWN_STATUSES = frozenset({200, 400, 404, 406, 422, 499, 500, 503})
#: How every answer of Prometheus' API begins.
_ENVELOPE = re.compile(rb'\s*\{\s*"status"\s*:\s*"(?:success|error)"')
#: Bytes of an error that are looked at, and characters of an upstream's own words that are passed on.
_MAX_ERROR, _MAX_WORDS = 65_536, 200


class Broken(Exception):
    """An upstream answered, but not as Prometheus does. `retry_after`: seconds after which it may, if it says so."""

    def __init__(self, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def may_be_own(status: int, content_type: bytes) -> bool:
    """Return whether the head of an answer is one of Prometheus' own."""
    return status in _OWN_STATUSES and content_type.lower().startswith(b"application/json")


def is_own(status: int, content_type: bytes, body: bytes) -> bool:
    """Return whether a whole answer is one of Prometheus' own: an error has its envelope."""
    return may_be_own(status, content_type) and (status == 200 or _ENVELOPE.match(body) is not None)


def broken(status: int, content_type: bytes, body: bytes, wait: int | None) -> Broken:
    """Return the error that says what an upstream has answered in the place of an answer of Prometheus."""
    if 300 <= status < 400:
        return Broken(f"answered {status}, a redirect, which is not followed")
    words = _words(content_type, body)
    if words and status != 200:
        return Broken(f"answered {status}: {words}", wait)
    shown = ascii(content_type[:200].decode("latin-1")) if content_type else "no content type"
    return Broken(f"answered {status} with {shown}, which is no answer of Prometheus' API", wait)


def _words(content_type: bytes, body: bytes) -> str:
    """Return what an error says, as one printable line; empty where it is a page for people, or nothing."""
    kind = content_type.lower()
    text = ""
    if kind.startswith(b"application/json") and len(body) <= _MAX_ERROR:
        try:
            said = msgspec.json.decode(body)
        except msgspec.DecodeError:
            said = None
        if isinstance(said, dict):
            text = next((said[key] for key in ("error", "message") if isinstance(said.get(key), str)), "")
    elif kind.startswith(b"text/plain"):
        text = body[: 4 * _MAX_WORDS].decode(errors="replace")
    return ascii(" ".join(text.split())[:_MAX_WORDS])[1:-1]
