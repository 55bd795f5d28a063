"""Reads Prometheus' answers to range and instant queries for the pages. Pure; runs on a pool thread."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from orchestratord.errors import BadQuery, UpstreamUnavailable
from orchestratord.runtime.text import printable

#: The most series that are returned.
MAX_SERIES = 500
_MAX_NAME = 200
#: The beginning of the error about an answer that cannot be read.
_NO_ANSWER = "Prometheus' answer is not what its API promises"


class Series(NamedTuple):
    """One series: a name that tells it from the others, its labels, and its points as (Unix seconds, value)."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]

    @property
    def finite(self) -> list[float]:
        """The values that are neither infinite nor NaN."""
        return [value for _, value in self.points if math.isfinite(value)]


class RangeAnswer(NamedTuple):
    """The first series of an answer, and how many series it has in all."""

    series: list[Series]
    total: int


class _Matrix(msgspec.Struct):
    metric: dict[str, str] = {}
    values: list[tuple[float, str]] = []


class Value(NamedTuple):
    """One value of an instant query's answer: a name that tells its series from the others, and its labels."""

    name: str
    labels: dict[str, str]
    value: float


class Present(NamedTuple):
    """The first values of an instant query's answer, in its order, and how many values it has in all."""

    values: list[Value]
    total: int


class _Vector(msgspec.Struct):
    value: tuple[float, str]
    metric: dict[str, str] = {}


class _Result(msgspec.Struct):
    result: list[msgspec.Raw]
    resultType: str


class _ResultAnswer(msgspec.Struct):
    data: _Result


class _ErrorAnswer(msgspec.Struct):
    error: str = ""


# The envelope first, then each series by itself: one call for all of it would hold the GIL too long.
_answer = msgspec.json.Decoder(_ResultAnswer)
_matrix = msgspec.json.Decoder(_Matrix)
_vector = msgspec.json.Decoder(_Vector)
_number = msgspec.json.Decoder(str)


def found(body: bytes, most: int = MAX_SERIES) -> RangeAnswer:
    """Return the series of a range query's answer with status 200; raises UpstreamUnavailable if it is not one."""
    try:
        data = _answer.decode(body).data
        if data.resultType != "matrix":
            raise UpstreamUnavailable(f"{_NO_ANSWER}: resultType is {data.resultType[:40]!a}")
        raw = [_matrix.decode(part) for part in data.result[:most]]
        points = [[(at, float(value)) for at, value in one.values] for one in raw]
    except (msgspec.DecodeError, ValueError) as error:
        raise UpstreamUnavailable(f"{_NO_ANSWER}: {printable(str(error))[:200]}") from None
    names = _names([one.metric for one in raw])
    series = [Series(name, one.metric, here) for name, one, here in zip(names, raw, points, strict=True)]
    return RangeAnswer(series, len(data.result))


def present(body: bytes, most: int = MAX_SERIES) -> Present:
    """Return the values of an instant query's answer with status 200.

    Raises UpstreamUnavailable if it is not one, and BadQuery if it is a string or a matrix.
    """
    try:
        data = _answer.decode(body).data
        if data.resultType in {"matrix", "string"}:
            raise BadQuery(f"the answer is a {data.resultType}, which a table does not show: see the chart")
        if data.resultType == "scalar":
            return Present([Value("value", {}, float(_number.decode(data.result[1])))], 1)
        if data.resultType != "vector":
            raise UpstreamUnavailable(f"{_NO_ANSWER}: resultType is {data.resultType[:40]!a}")
        raw = [_vector.decode(part) for part in data.result[:most]]
        values = [float(one.value[1]) for one in raw]
    except (msgspec.DecodeError, ValueError, IndexError) as error:
        raise UpstreamUnavailable(f"{_NO_ANSWER}: {printable(str(error))[:200]}") from None
    names = _names([one.metric for one in raw])
    rows = [Value(name, one.metric, value) for name, one, value in zip(names, raw, values, strict=True)]
    return Present(rows, len(data.result))


def error_text(status: int, body: bytes) -> str:
    """Return the error text of Prometheus' answer to a query that failed."""
    try:
        text = msgspec.json.decode(body, type=_ErrorAnswer).error
    except msgspec.DecodeError:
        text = ""
    return printable(text)[:1000] or f"Prometheus answered {status}"


def _names(labels: list[dict[str, str]]) -> list[str]:
    """Return a name for each series, made of the labels that not all of them share."""
    shared = set(labels[0].items()).intersection(*(one.items() for one in labels[1:])) if labels else set()
    names = []
    for one in labels:
        own = [(key, value) for key, value in sorted(one.items()) if (key, value) not in shared]
        if len(labels) == 1:
            own = [(key, value) for key, value in sorted(one.items()) if key not in {"job", "instance"}]
        name = one.get("__name__", "") if ("__name__", one.get("__name__")) in own else ""
        rest = [(key, value) for key, value in own if key != "__name__"]
        if len(rest) == 1:
            text = f"{name} {rest[0][1]}".strip()
        else:
            text = " ".join(filter(None, [name, ", ".join(f"{key}={value}" for key, value in rest)]))
        names.append(printable(text)[:_MAX_NAME] or "value")
    return names
