"""From the arguments of a graph to the range query behind it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.errors import BadQuery
from orchestratord.query import parse, parse_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestratord.query import Query

#: Points of a graph whose step nobody asked for.
_POINTS = 240
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 604800, 2592000)
_SHARED = 5.0
DEFAULT_RANGE = "1h"
#: What the page offers.
RANGES = ("5m", "15m", "1h", "6h", "1d", "7d")
#: A decade: no Prometheus keeps more.
_MAX_RANGE = 315_360_000


class Asked(NamedTuple):
    """A range query, and how it was asked for. Times are Unix seconds; `relative` is the range up to now, or None."""

    q: str
    query: Query
    start: str
    end: str
    step: str
    relative: str | None


def asked(args: Mapping[str, Sequence[str]], now: float, *, max_length: int) -> Asked:
    """Return the query that `q`, `start`, `end`, `step` and `range` ask for; raises BadQuery.

    Without `start` it is the time of `range` (default 1h) before `end`; without `end`, up to now.
    """

    def one(name: str) -> str:
        return (args.get(name) or [""])[0].strip()

    q = one("q")
    relative = one("range") or DEFAULT_RANGE
    start, end, step = one("start"), one("end"), one("step")
    length = _length(relative)
    last = _moment("end", end) if end else now
    first = _moment("start", start) if start else last - length
    if not step:
        step = str(next((size for size in _STEPS if last - first <= size * _POINTS), _STEPS[-1]))
    if not end:
        last = soon(now)
        first = first if start else last - length
    start, end = start or f"{first:.3f}".rstrip("0").rstrip("."), end or f"{last:.3f}".rstrip("0").rstrip(".")
    query = parse({"q": [q], "start": [start], "end": [end], "step": [step]}, max_length=max_length)
    given = bool(args.get("start") or args.get("end"))
    return Asked(q, query, start, end, step, None if given else relative)


def soon(now: float) -> float:
    """Return the end of what is up to now: the same for all who look within seconds, and not before what is newest."""
    return math.ceil(now / _SHARED) * _SHARED


def _length(text: str) -> float:
    try:
        length = parse_duration(text)
    except (ValueError, OverflowError):
        length = 0
    if not 1 <= length <= _MAX_RANGE:
        raise BadQuery(f"invalid parameter 'range': not a duration like 30m, of 1s to 10y: {text[:80]!a}")
    return length


def _moment(name: str, text: str) -> float:
    try:
        moment = parse_time(text)
    except (ValueError, OverflowError):
        raise BadQuery(f"invalid parameter '{name}': neither Unix seconds nor RFC 3339: {text[:80]!a}") from None
    if not 0 <= moment <= 253_370_764_800:  # the year 9999, where calendars end
        raise BadQuery(f"invalid parameter '{name}': out of range: {text[:80]!a}")
    return moment
