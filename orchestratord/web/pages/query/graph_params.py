"""Parses the parameters of `/graph` and `/graph.svg` into a query. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.errors import BadQuery
from orchestratord.promql.params import parse, parse_duration, parse_time
from orchestratord.web.pages.query.chart import MAX_WIDTH, MIN_WIDTH, WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestratord.promql.params import Query

#: Points at most if no step is given.
_POINTS = 240
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 604800, 2592000)
_SHARED = 5.0
DEFAULT_RANGE = "1h"
#: The ranges that the page offers.
RANGES = ("5m", "15m", "1h", "6h", "1d", "7d")
#: A time as a browser's form sends it, without a zone: it counts as UTC.
_LOCAL = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?\Z", re.ASCII)
#: Ten years, in seconds.
_MAX_RANGE = 315_360_000


class GraphParams(NamedTuple):
    """A range query. Times are text, as given or in Unix seconds; `relative` is the range up to now, or None."""

    q: str
    query: Query
    start: str
    end: str
    step: str
    relative: str | None
    width: int = WIDTH


class InstantParams(NamedTuple):
    """An instant query; `end` is its time as it was given, empty for now."""

    q: str
    query: Query
    end: str


def parse_instant_params(args: Mapping[str, Sequence[str]], *, max_length: int) -> InstantParams:
    """Return the instant query for `q` and `end`; raises BadQuery."""
    q, end = _first(args, "q"), with_zone(_first(args, "end"))
    if end:
        _unix_time("end", end)
    return InstantParams(q, parse({"q": [q], "time": [end]}, max_length=max_length), end)


def wants_table(args: Mapping[str, Sequence[str]]) -> bool:
    """Return whether `view` is table; raises BadQuery if it is neither chart nor table."""
    view = _first(args, "view") or "chart"
    if view not in {"chart", "table"}:
        raise BadQuery(f"invalid parameter 'view': must be chart or table, not {view[:20]!a}")
    return view == "table"


def with_zone(text: str) -> str:
    """Return a time with a zone: UTC if it has none."""
    local = _LOCAL.match(text)
    return f"{local[1]}T{local[2]}{local[3] or ':00'}Z" if local else text


def form_time(text: str) -> str:
    """Return a time for a browser's form, in UTC; empty if the text is not a time."""
    try:
        return datetime.fromtimestamp(_unix_time("start", with_zone(text)), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except BadQuery:
        return ""


def parse_graph_params(args: Mapping[str, Sequence[str]], now: float, *, max_length: int) -> GraphParams:
    """Return the range query for `q`, `start`, `end`, `step` and `range`; raises BadQuery.

    If `start` is missing, it is `range` (default 1h) before `end`. If `end` is missing, it is now.
    """
    q = _first(args, "q")
    relative = _first(args, "range") or DEFAULT_RANGE
    start, end, step = with_zone(_first(args, "start")), with_zone(_first(args, "end")), _first(args, "step")
    given = bool(start or end)
    length = _range_seconds(relative)
    last = _unix_time("end", end) if end else now
    first = _unix_time("start", start) if start else last - length
    if not step:
        step = str(next((size for size in _STEPS if last - first <= size * _POINTS), _STEPS[-1]))
    if not end:
        last = rounded_up(now)
        first = first if start else last - length
    start, end = start or f"{first:.3f}".rstrip("0").rstrip("."), end or f"{last:.3f}".rstrip("0").rstrip(".")
    query = parse({"q": [q], "start": [start], "end": [end], "step": [step]}, max_length=max_length)
    return GraphParams(q, query, start, end, step, None if given else relative, _width(_first(args, "width")))


def rounded_up(now: float) -> float:
    """Round a Unix time up to 5 s: requests within that time share one query, which includes the newest samples."""
    return math.ceil(now / _SHARED) * _SHARED


def _first(args: Mapping[str, Sequence[str]], name: str) -> str:
    return (args.get(name) or [""])[0].strip()


def _width(text: str) -> int:
    width = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if text and not MIN_WIDTH <= width <= MAX_WIDTH:
        raise BadQuery(f"invalid parameter 'width': must be {MIN_WIDTH} to {MAX_WIDTH} pixels, not {text[:20]!a}")
    return width or WIDTH


def _range_seconds(text: str) -> float:
    try:
        length = parse_duration(text)
    except (ValueError, OverflowError):
        length = 0
    if not 1 <= length <= _MAX_RANGE:
        raise BadQuery(f"invalid parameter 'range': not a duration like 30m, of 1s to 10y: {text[:80]!a}")
    return length


def _unix_time(name: str, text: str) -> float:
    try:
        moment = parse_time(text)
    except (ValueError, OverflowError):
        raise BadQuery(f"invalid parameter '{name}': neither Unix seconds nor RFC 3339: {text[:80]!a}") from None
    if not 0 <= moment <= 253_370_764_800:  # the year 9999, where calendars end
        raise BadQuery(f"invalid parameter '{name}': out of range: {text[:80]!a}")
    return moment
