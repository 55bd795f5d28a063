"""An instant query's answer, read in steps so short that a pool thread never holds the interpreter for long. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of an answer that are decoded in one call: about half a millisecond.
BLOCK = 65_536

#: What lies between two elements as Prometheus writes them. No string in JSON has such quotes: it is inside of none.
_BETWEEN = b'},{"metric":'
_FIRST = b'{"metric":'


class Labels(msgspec.Struct, gc=False):
    """The labels of an element that are looked at; empty where there is none of that name."""

    name: str = msgspec.field(name="__name__", default="")
    node_id: str = ""


class Element(msgspec.Struct, gc=False):
    """One element of a vector: its labels, and its value, beside the time at which the query was evaluated."""

    metric: Labels
    value: tuple[float, str]


class _Elements(msgspec.Struct):
    resultType: str
    result: list[Element]


class _VectorAnswer(msgspec.Struct):
    status: str
    data: _Elements
    isPartial: bool = False


class Problem(msgspec.Struct):
    """What an API says of a query that it did not answer."""

    error: str = ""
    errorType: str = ""


_envelope = msgspec.json.Decoder(_VectorAnswer)
_elements = msgspec.json.Decoder(list[Element])
_problem = msgspec.json.Decoder(Problem)


def blocks(body: bytes, size: int = BLOCK) -> Iterator[list[Element]]:
    """Return the elements of a vector, in blocks of about so many bytes, each decoded when it is asked for.

    Raises ValueError if the body is not an instant query's whole answer; it may do so after some blocks. A layout that
    is not Prometheus' own is read in one go.
    """
    cuts = _cuts(body, size)
    if not cuts:
        yield _whole(body)
        return
    # The first bytes and the last block are an answer by themselves, which tells what this is.
    last = _whole(body[: cuts[0]] + body[cuts[-1] :])
    for at, end in pairwise(cuts):
        yield _decoded(body[at : end - 1])
    yield last


def problem(body: bytes) -> Problem:
    """Return what an answer of another status says."""
    try:
        return _problem.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem()


def _cuts(body: bytes, size: int) -> list[int]:
    """Return where the blocks begin, the first element and the last block included; nothing if there is but one."""
    at = body.find(_FIRST, 0, size)
    cuts = [at]
    while at >= 0:
        at = body.find(_BETWEEN, at + size)
        if at >= 0:
            at += 2
            cuts.append(at)
    return cuts if len(cuts) > 1 else []


def _decoded(part: bytes) -> list[Element]:
    try:
        return _elements.decode(b"[%b]" % part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _whole(body: bytes) -> list[Element]:
    try:
        envelope = _envelope.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if envelope.status != "success" or envelope.data.resultType != "vector":
        raise ValueError(f"status {envelope.status[:20]!a}, result type {envelope.data.resultType[:20]!a}")
    if envelope.isPartial:
        raise ValueError("it is partial")
    return envelope.data.result
