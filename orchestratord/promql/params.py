"""Checks the parameters of a request and makes a query of them. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from sys import getsizeof
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

from orchestratord.errors import BadQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: When plain selectors of the latest value are answered from memory.
Mode = Literal["never", "fallback", "always"]

#: Prometheus' own limit of points per series in a range query.
MAX_POINTS = 11_000
DEFAULT_STEP = "15s"
#: The path of instant queries, and the parameter that makes VictoriaMetrics answer as of now: see `newest`.
INSTANT, NO_CACHE = "/api/v1/query", ("nocache", "1")
#: Parameters in one request: `/api/v1/series` takes several matchers.
MAX_FIELDS = 200

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?\Z",
    re.ASCII,
)
_DURATION_UNITS = (365 * 86400.0, 7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0, 0.001)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_MAX_SHOWN = 80
#: Seconds of the longest duration that Prometheus takes, which counts nanoseconds in 63 bits.
_MAX_DURATION = 2**63 / 1e9
#: Bytes that a Query takes, and each of its parameters, besides their texts.
_QUERY_BYTES, _PARAM_BYTES = 400, 80


@dataclass(frozen=True)
class Query:
    """A query to an upstream: a path below its base URL, and the parameters in the order in which they are sent.

    `timeout` is the deadline that the client set, in seconds; None if it set none.
    """

    path: str
    params: tuple[tuple[str, str], ...]
    timeout: float | None = None


def arguments(*encoded: bytes) -> dict[str, list[str]]:
    """Return the parameters of URL-encoded texts, in the order of the texts: the form, then the URL.

    Only `&` separates parameters, as in Prometheus; a `;` is a character. Raises BadQuery.
    """
    args: dict[str, list[str]] = {}
    for part in filter(None, encoded):
        try:
            pairs = parse_qsl(part.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except UnicodeDecodeError:
            raise BadQuery("a parameter is not UTF-8") from None
        except ValueError:
            raise BadQuery(f"more than {MAX_FIELDS} parameters") from None
        for name, value in pairs:
            args.setdefault(name, []).append(value)
    return args


def parse(args: Mapping[str, Sequence[str]], *, max_length: int) -> Query:
    """Return the instant or range query that the arguments of `/query` ask for.

    Raises BadQuery, with a text that names the parameter and what is wrong with it.
    """
    query = _one(args, "q")
    if not query:
        raise BadQuery("Missing query parameter 'q'")
    _check_length(query, max_length, "q")
    timeout = _timeout(args)
    forwarded = (("timeout", _one(args, "timeout")),) if timeout is not None else ()
    start, end = _one(args, "start"), _one(args, "end")
    if not start and not end:
        time = _one(args, "time")
        if time:
            _time("time", time)
        when = (("time", time),) if time else ()
        return Query(INSTANT, (("query", query), *when, *forwarded), timeout)
    if not start or not end:
        given, missing = ("start", "end") if start else ("end", "start")
        raise BadQuery(f"Missing query parameter '{missing}': a range query needs both, only '{given}' was given")
    step = _one(args, "step") or DEFAULT_STEP
    _check_range(start, end, step)
    params = (("query", query), ("start", start), ("end", end), ("step", step), *forwarded)
    return Query("/api/v1/query_range", params, timeout)


def passed_through(path: str, args: Mapping[str, Sequence[str]], *, max_length: int) -> Query:
    """Return a query of Prometheus' API with the client's parameters unchanged; Prometheus checks their meaning.

    Raises BadQuery if they are longer than the limit.
    """
    params = tuple((name, value) for name, values in args.items() for value in values)
    for name, value in params:
        _check_length(value, max_length, name)
    if sum(len(name) + len(value) for name, value in params) > 2 * max_length:
        raise BadQuery(f"the parameters are longer than {2 * max_length} characters")
    try:
        timeout = _timeout(args)
    except BadQuery:
        timeout = None  # Prometheus reports the error
    return Query(path, params, timeout)


def newest(query: Query) -> Query:
    """Return an instant query such that a store that takes remote write answers as of now; other queries unchanged.

    VictoriaMetrics otherwise answers as of 30 s ago (its least setting is 1 s), or from its cache. Other stores ignore
    the parameter.
    """
    if query.path != INSTANT or any(name == NO_CACHE[0] for name, _ in query.params):
        return query
    return replace(query, params=(*query.params, NO_CACHE))


def memory(query: Query) -> int:
    """Return the bytes of memory that a query takes."""
    texts = (query.path, *(text for param in query.params for text in param))
    return _QUERY_BYTES + _PARAM_BYTES * len(query.params) + sum(map(getsizeof, texts))


def parse_time(text: str) -> float:
    """Return a time as Prometheus' API takes it, Unix seconds or RFC 3339, in Unix seconds; raises ValueError."""
    if _NUMBER.match(text):
        seconds = float(text)
        if math.isfinite(seconds):
            return seconds
    if _RFC3339.match(text):
        return datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp()
    raise ValueError(text)


def parse_duration(text: str) -> float:
    """Return a duration as Prometheus' API takes it, seconds or `1m30s`, in seconds; raises ValueError."""
    if _NUMBER.match(text):
        seconds = float(text)
    elif text and (match := _DURATION.match(text)):
        counts = zip(match.groups(), _DURATION_UNITS, strict=True)
        seconds = sum(float(count) * unit for count, unit in counts if count)
    else:
        raise ValueError(text)
    if not -_MAX_DURATION < seconds < _MAX_DURATION:
        raise ValueError(text)
    return seconds


def _check_range(start: str, end: str, step: str) -> None:
    first, last = _time("start", start), _time("end", end)
    seconds = _duration("step", step)
    if seconds <= 0:
        raise BadQuery(f"invalid parameter 'step': zero or negative steps are not accepted: {_shown(step)}")
    if last < first:
        raise BadQuery(f"invalid parameter 'end': it is before 'start': {_shown(end)}")
    if (last - first) / seconds >= MAX_POINTS + 1:
        raise BadQuery(f"invalid parameter 'step': more than {MAX_POINTS:,} points a series; use a longer step")


def _one(args: Mapping[str, Sequence[str]], name: str) -> str:
    """Return the parameter's first value, which is the one that Prometheus uses; empty if there is none."""
    values = args.get(name)
    return values[0] if values else ""


def _check_length(value: str, max_length: int, name: str) -> None:
    if len(value) > max_length:
        raise BadQuery(f"invalid parameter {_shown(name)}: longer than {max_length} characters")


def _timeout(args: Mapping[str, Sequence[str]]) -> float | None:
    text = _one(args, "timeout")
    if not text:
        return None
    seconds = _duration("timeout", text)
    if seconds <= 0:
        raise BadQuery(f"invalid parameter 'timeout': must be more than 0: {_shown(text)}")
    return seconds


def _time(name: str, text: str) -> float:
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise BadQuery(f"invalid parameter '{name}': neither Unix seconds nor RFC 3339: {_shown(text)}") from None


def _duration(name: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise BadQuery(f"invalid parameter '{name}': neither seconds nor a duration like 30s: {_shown(text)}") from None


def _shown(text: str) -> str:
    """Return a text from the client, escaped and shortened for an error."""
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
