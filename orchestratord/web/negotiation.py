"""What a client would rather have: HTML, or what the API answers. Pure."""

from __future__ import annotations

import re

_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\Z")


def prefers_html(accept: str, other: str) -> bool:
    """Return whether an Accept header asks for text/html rather than for a media type such as application/json.

    A tie, and `*/*`, is the other's: programs say no more than that, browsers name text/html.
    """
    return _quality(accept, "text/html") > _quality(accept, other)


def _quality(accept: str, media_type: str) -> float:
    """Return the quality of the most specific range that matches; 1 without a header."""
    if not accept.strip():
        return 1.0
    ranges = (f"{media_type.partition('/')[0]}/*", media_type)
    best, quality = -1, 0.0
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        rank = 0 if name == "*/*" else ranges.index(name) + 1 if name in ranges else -1
        if rank > best:
            best, quality = rank, _stated(parameters)
    return quality


def _stated(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.match(value.strip()) else 0.0
    return 1.0
