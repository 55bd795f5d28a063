"""Content negotiation by Accept headers and their weights: HTML, gzip, the exposition format. Pure."""

from __future__ import annotations

import re

_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\Z")
_OLD_VERSION = re.compile(r"version=\s*\"?0")
#: Items of a header that are read; browsers send ten.
_MOST = 50

#: What `/metrics` and the pages are chosen by, for `Vary`.
VARY = b"Accept, Accept-Encoding"


def prefers_html(accept: str, other: str) -> bool:
    """Return whether an Accept header prefers text/html to the media type `other`, such as application/json.

    At equal weights, and for `*/*`, `other` wins: programs send `*/*`, browsers name text/html.
    """
    return _quality(accept, "text/html") > _quality(accept, other)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header accepts gzip, also called x-gzip, and does not prefer a plain answer."""
    weights = {"gzip": -1.0, "identity": -1.0, "*": -1.0}
    for name, _, quality in _items(accept_encoding):
        coding = "gzip" if name == "x-gzip" else name
        if coding in weights:
            weights[coding] = max(weights[coding], quality)
    gzip = weights["gzip"] if weights["gzip"] >= 0 else weights["*"]
    return gzip > 0 and gzip >= weights["identity"]


def exposition_accept(accept: str) -> str:
    """Return an Accept header for prometheus_client, which ignores weights: the best first, without those of weight 0.

    Formats after the plain text format, the default, are left out. At equal weights a newer format comes first.
    """
    wanted = []
    for place, (name, parameters, quality) in enumerate(_items(accept)):
        if quality > 0:
            stated = [parameter for parameter in parameters if not parameter.startswith("q=")]
            versions = [parameter for parameter in stated if parameter.startswith("version")]
            default = name in {"*/*", "text/*"} or (
                name == "text/plain" and all(_OLD_VERSION.match(version) for version in versions)
            )
            wanted.append((-quality, default, place, ";".join([name, *stated])))
    best = []
    for _, default, _, media_range in sorted(wanted):
        if default:
            break
        best.append(media_range)
    return ",".join(best)


def _quality(accept: str, media_type: str) -> float:
    """Return the quality of the most specific range that matches; 1 without a header."""
    if not accept.strip():
        return 1.0
    ranges = (f"{media_type.partition('/')[0]}/*", media_type)
    best, quality = -1, 0.0
    for name, _, stated in _items(accept):
        rank = 0 if name == "*/*" else ranges.index(name) + 1 if name in ranges else -1
        if rank > best:
            best, quality = rank, stated
    return quality


def _items(header: str) -> list[tuple[str, list[str], float]]:
    """Return the names of a header's items, their parameters and their weights, in lower case."""
    items = []
    for item in header.split(",", _MOST)[:_MOST]:
        name, *parameters = (part.strip().lower() for part in item.split(";", _MOST)[:_MOST])
        items.append((name, parameters, _stated(parameters)))
    return items


def _stated(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.match(value.strip()) else 0.0
    return 1.0
