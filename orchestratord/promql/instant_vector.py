"""Reads an instant query's answer in short steps, so that a pool thread never holds the GIL for long. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of an answer that are decoded in one call: about half a millisecond.
BLOCK = 65_536

#: What Prometheus writes between two elements. It cannot be a part of a JSON string, whose quotes are escaped.
_BETWEEN = b'},{"metric":'
_FIRST = b'{"metric":'


class Labels(msgspec.Struct, gc=False):
    """The labels of an element that are read; empty if the element has no such label."""

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
    """The error in an answer of Prometheus' API."""

    error: str = ""
    errorType: str = ""


_envelope = msgspec.json.Decoder(_VectorAnswer)
_elements = msgspec.json.Decoder(list[Element])
_problem = msgspec.json.Decoder(Problem)


def blocks(body: bytes, size: int = BLOCK) -> Iterator[list[Element]]:
    """Yield the elements of a vector, in blocks of about `size` bytes, each decoded when it is asked for.

    Raises ValueError if the body is not the whole answer to an instant query, perhaps after some blocks. A body that is
    not laid out as Prometheus does it is decoded as one block.
    """
    cuts = _cuts(body, size)
    if not cuts:
        yield _whole(body)
        return
    # The first bytes and the last block together are a valid answer, which has the status and the result type.
    last = _whole(body[: cuts[0]] + body[cuts[-1] :])
    for at, end in pairwise(cuts):
        yield _decoded(body[at : end - 1])
    yield last


def problem(body: bytes) -> Problem:
    """Return the error of an answer whose status is not 200; empty texts if it has none."""
    try:
        return _problem.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem()


def _cuts(body: bytes, size: int) -> list[int]:
    """Return the offsets of the blocks, from the first element to the last block; empty if there is only one block."""
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
