"""Prometheus' answer to a query, as far as it is shown. Pure; for a pool thread."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from orchestratord.errors import BadQuery, UpstreamUnavailable
from orchestratord.runtime.text import printable

#: Series that are listed at the most.
MAX_SERIES = 500
_MAX_NAME = 200
#: A field's value, in the error of an answer that is not Prometheus'.
_NO_ANSWER = "Prometheus' answer is not what its API promises"


class Series(NamedTuple):
    """One series: its name among the others, and its points as (Unix seconds, value), values finite or not."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]

    @property
    def finite(self) -> list[float]:
        """The values that can be drawn and averaged."""
        return [value for _, value in self.points if math.isfinite(value)]


class RangeAnswer(NamedTuple):
    """The first series of an answer, and how many there were in all."""

    series: list[Series]
    total: int


class _Matrix(msgspec.Struct):
    metric: dict[str, str] = {}
    values: list[tuple[float, str]] = []


class Value(NamedTuple):
    """One value of an instant query's answer: the name of its series among the others, and its labels."""

    name: str
    labels: dict[str, str]
    value: float


class Present(NamedTuple):
    """The first values of an answer to an instant query, in its order, and how many there were in all."""

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


# The outside first and each series by itself: decoding it all in one call would hold the interpreter.
_answer = msgspec.json.Decoder(_ResultAnswer)
_matrix = msgspec.json.Decoder(_Matrix)
_vector = msgspec.json.Decoder(_Vector)
_number = msgspec.json.Decoder(str)


def found(body: bytes, most: int = MAX_SERIES) -> RangeAnswer:
    """Return what an answer of status 200 to a range query holds; raises UpstreamUnavailable if it is none."""
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
    """Return what an answer of status 200 to an instant query holds.

    Raises UpstreamUnavailable if it is none, and BadQuery if it is a text, or has several values a series.
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
    """Return Prometheus' own words of what is wrong with a query."""
    try:
        text = msgspec.json.decode(body, type=_ErrorAnswer).error
    except msgspec.DecodeError:
        text = ""
    return printable(text)[:1000] or f"Prometheus answered {status}"


def _names(labels: list[dict[str, str]]) -> list[str]:
    """Return what tells the series apart: the labels that not all of them share."""
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
