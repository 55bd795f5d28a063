"""Batches are split as a JSON parser splits them, in steps of bounded work."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestratord.errors import BadReport, BodyTooLarge
from orchestratord.nodes.batch import MAX_COMMAS, WINDOW, split


def items(body: bytes, most: int = 1_000_000) -> list[Any]:
    """Return all items, decoded."""
    return [msgspec.json.decode(item) for part in split(body, most) for item in part]


def many(item: bytes, count: int = 3000, between: bytes = b",") -> bytes:
    """Return an array of so many times the same."""
    return b"[" + between.join([item] * count) + b"]"


FULL = json.dumps({"node_id": "n1", "page_faults": 1, "timestamp": 1795424400.5}).encode()


@pytest.mark.parametrize("between", [b",", b", ", b"\n,\r\n\t", b" " * 90 + b","])
def test_reports_come_in_windows(between: bytes) -> None:
    """However an array is spaced."""
    body = many(FULL, between=between)
    parts = list(split(body, 3000))
    assert sum(map(len, parts)) == 3000
    assert len(parts) >= len(body) // WINDOW
    assert max(sum(len(bytes(item)) for item in part) for part in parts) <= WINDOW
    assert items(body) == json.loads(body)


@pytest.mark.parametrize(
    "item",
    [
        b'{"node_id":"n1","x":{"y":[{"z":1},{}]},"w":{}}',
        b'{"node_id":"n1","x":"},{"}',
        b'{"node_id":"n1","x":"\\"},{\\"}"}',
        b'{"node_id":"n1","x":"' + b"},{" * 20_000 + b'"}',
        b"[" + b"1," * 2000 + b"1]",
        b'"}"',
        b"1",
    ],
)
def test_odd_items_are_split_as_well(item: bytes) -> None:
    """With braces in strings, with other values in them, longer than a window."""
    body = many(item, 2 if len(item) > 10_000 else 30 if len(item) > 1000 else 3000)
    assert items(body) == json.loads(body)


@pytest.mark.parametrize("item", [b"1", b"{}", b'""', b"[]"])
def test_too_many_items_are_refused_unsplit(item: bytes) -> None:
    """No more than a window is looked at, or what has few commas: half a million items in a MiB would take 30 ms."""
    body = many(item, 1_048_576 // (len(item) + 1))
    parts = split(body, 10_000)
    with pytest.raises((BadReport, BodyTooLarge), match=r"more reports than the limit of 10000|more than 65536 commas"):
        next(parts)


def test_the_limit() -> None:
    """Counts over all windows."""
    assert len(items(many(FULL), 3000)) == 3000
    with pytest.raises(BodyTooLarge, match="the batch has more reports than the limit of 2999"):
        items(many(FULL), 2999)


@pytest.mark.parametrize("end", [b"", b",]", b"}", b"]]", b",1", b",{]", b"]x", b"\xff]"])
@pytest.mark.parametrize("count", [1, 3000])
def test_what_is_wrong_is_told_as_for_the_whole(end: bytes, count: int) -> None:
    """The error is the one of a parser that reads all of it, and tells its place."""
    body = many(FULL, count)[:-1] + end
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as whole:
        msgspec.json.decode(body, type=list[msgspec.Raw])
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as split_up:
        items(body)
    assert str(split_up.value) == str(whole.value)


def test_what_is_wrong_and_long_is_not_read_twice() -> None:
    """Where there are too many commas for one step, it is refused without the place."""
    body = many(FULL, MAX_COMMAS)[:-1]
    with pytest.raises(BadReport, match=r"not an array of flat reports, .* - at \$"):
        items(body)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=20),
            st.recursive(
                st.none() | st.integers(-(2**53), 2**53) | st.text(alphabet='{}[],:"\\ ab', max_size=30),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        ),
        max_size=20,
    ),
    st.sampled_from([1, 50, 600]),
)
def test_any_array(value: list[Any], times: int) -> None:
    """Python's own parser finds the same items."""
    body = json.dumps(value * times).encode()
    if body.count(b",") <= MAX_COMMAS:
        assert items(body) == json.loads(body)
