"""An instant query's answer, read in blocks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.promql.instant_vector import blocks, problem


def answer(elements: list[Any], separators: tuple[str, str] = (",", ":"), **more: Any) -> bytes:
    """Return a vector as Prometheus writes it, or with other separators, or with more around it."""
    envelope = {"status": "success", "data": {"resultType": "vector", "result": elements}, **more}
    return json.dumps(envelope, separators=separators, ensure_ascii=False).encode()


def element(node_id: str, value: str = "1", name: str = "x") -> dict[str, Any]:
    """Return one element."""
    return {"metric": {"__name__": name, "node_id": node_id}, "value": [1795424400.123, value]}


def read(body: bytes, size: int) -> list[tuple[str, str, str]]:
    """Return all elements."""
    return [(one.metric.name, one.metric.node_id, one.value[1]) for block in blocks(body, size) for one in block]


@given(st.lists(st.tuples(st.text(), st.text(), st.text())), st.integers(1, 300), st.booleans(), st.booleans())
def test_every_element_comes_once_and_in_order(
    elements: list[tuple[str, str, str]], size: int, spaced: bool, warned: bool
) -> None:
    """Whatever stands in the texts, however it is cut, in another layout too, and warnings are passed over."""
    made = [element(node_id, value, name) for name, node_id, value in elements]
    more = {"warnings": ['},{"metric":{"node_id":"no"}', "]}"]} if warned else {}
    assert read(answer(made, (", ", ": ") if spaced else (",", ":"), **more), size) == elements


def test_blocks_are_small() -> None:
    """Each is about as many bytes as it should be."""
    body = answer([element(f"n{index}") for index in range(1000)])
    sizes = [len(block) for block in blocks(body, 1000)]
    assert sum(sizes) == 1000
    assert max(sizes) <= 20


def test_labels_and_fields_that_are_not_looked_at() -> None:
    """They are passed over, and an element may have none that is."""
    made = {"metric": {"tenant": "a"}, "value": [1, "2"], "extra": [{"metric": 1}]}
    assert read(answer([made], isPartial=False, stats={"seriesFetched": "2"}), 10) == [("", "", "2")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b"\xff",
        b'{"status":"success"}',
        b'{"status":"error","data":{"resultType":"vector","result":[]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[]}}',
        b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,2]}]}}',
        b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"node_id":3},"value":[1,"2"]}]}}',
        answer([element("a")], isPartial=True),
        answer([element("a"), element("b"), element("c")], isPartial=True),
        answer([element("a"), element("b"), element("c")])[:-1],
        answer([element("a"), element("b"), element("c")])[:-60],
        answer([element("a"), {"metric": {"node_id": 3}, "value": [1, "1"]}, element("c")]),
        answer([element("a"), {**element("b"), "deep": 0}, element("c")]).replace(
            b'"deep":0', b'"deep":%b0%b' % (b"[" * 100_000, b"]" * 100_000)
        ),
    ],
)
def test_what_is_no_whole_vector_is_refused(body: bytes) -> None:
    """Errors, other types, what is cut short, and what a store says is but a part."""
    for size in (10, 65_536):
        with pytest.raises(ValueError, match="."):
            read(body, size)


def test_a_problem_is_told_in_its_own_words() -> None:
    """Or in none."""
    told = problem(b'{"status":"error","errorType":"timeout","error":"too late"}')
    assert (told.errorType, told.error) == ("timeout", "too late")
    assert problem(b"<html>").error == ""
