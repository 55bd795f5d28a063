"""The parameters of a query, its parsed answer, and the chart."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestratord.errors import BadQuery, UpstreamUnavailable
from orchestratord.promql.range_vector import MAX_SERIES, Series, error_text, found
from orchestratord.web.pages.query.chart import MAX_LINES, chart
from orchestratord.web.pages.query.graph_params import parse_graph_params
from tests.fakes import NOW

EVIL = '</style><script>alert("1")</script>&\x00\x1b\u202e'


def answer(*series: dict[str, Any], kind: str = "matrix") -> bytes:
    """Return an answer of Prometheus."""
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": series}}).encode()


def one(values: list[tuple[float, str]], **labels: str) -> dict[str, Any]:
    """Return a series."""
    return {"metric": labels, "values": values}


def test_the_last_hour_unless_told_otherwise() -> None:
    """The end is rounded up to 5 s, so that requests share a query and see the newest samples."""
    wanted = parse_graph_params({"q": ["up"]}, NOW + 7, max_length=100)
    assert (wanted.start, wanted.end, wanted.step) == (f"{NOW - 3590:.0f}", f"{NOW + 10:.0f}", "15")
    assert wanted.relative == "1h"
    assert parse_graph_params({"q": ["up"], "range": ["6h"]}, NOW, max_length=100).step == "120"


def test_a_time_may_be_named() -> None:
    """Both ends, or one end and the range."""
    args = {"q": ["up"], "start": ["2026-11-23T09:00:00Z"], "end": ["1795428000"], "step": ["1m"]}
    wanted = parse_graph_params(args, NOW, max_length=100)
    assert (wanted.start, wanted.end, wanted.step) == ("2026-11-23T09:00:00Z", "1795428000", "1m")
    assert wanted.relative is None
    assert (
        parse_graph_params({"q": ["up"], "end": ["1795428000"], "range": ["5m"]}, NOW, max_length=100).start
        == "1795427700"
    )


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({}, "'q'"),
        ({"q": ["x" * 101]}, "'q'"),
        ({"q": ["up"], "range": ["0s"]}, "'range'"),
        ({"q": ["up"], "range": ["11y"]}, "'range'"),
        ({"q": ["up"], "range": ["<b>"]}, "'range'"),
        ({"q": ["up"], "range": ["9" * 400]}, "'range'"),
        ({"q": ["up"], "start": ["soon"]}, "'start'"),
        ({"q": ["up"], "end": ["1e300"]}, "'end'"),
        ({"q": ["up"], "start": [str(NOW)], "end": [str(NOW - 1)]}, "'end'"),
        ({"q": ["up"], "step": ["0"]}, "'step'"),
        ({"q": ["up"], "step": ["1ms"]}, "'step'"),
    ],
)
def test_what_cannot_be_asked(args: dict[str, list[str]], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises(BadQuery, match=named):
        parse_graph_params(args, NOW, max_length=100)


def test_series_are_named_by_what_tells_them_apart() -> None:
    """Labels that all series share are left out."""
    shared = {"__name__": "page_faults", "job": "orchestrator"}
    read = found(answer(one([], **shared, node_id="a"), one([], **shared, node_id="b")))
    assert [series.name for series in read.series] == ["a", "b"]
    assert found(answer(one([], **shared, node_id="a"))).series[0].name == "page_faults a"
    assert found(answer(one([]))).series[0].name == "value"
    two = found(answer(one([], __name__="x", node_id="a", zone="1"), one([], __name__="y", node_id="b", zone="1")))
    assert [series.name for series in two.series] == ["x a", "y b"]


def test_only_so_many_series_are_read() -> None:
    """The page says how many there were."""
    read = found(answer(*[one([(NOW, "1")], n=str(index)) for index in range(MAX_SERIES + 5)]))
    assert (len(read.series), read.total) == (MAX_SERIES, MAX_SERIES + 5)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", answer(kind="scalar"), answer(one([(NOW, "many")])), b'{"data":{"result":[1]}}', b"\xff"],
)
def test_what_is_no_answer(body: bytes) -> None:
    """It raises UpstreamUnavailable."""
    with pytest.raises(UpstreamUnavailable):
        found(body)


def test_prometheus_own_words() -> None:
    """If there is an error text, at most 1,000 characters of it."""
    assert error_text(400, b'{"error": "parse error: unexpected <end>"}') == "parse error: unexpected <end>"
    assert error_text(500, b"<html>") == "Prometheus answered 500"
    assert len(error_text(400, json.dumps({"error": "x" * 5000}).encode())) == 1000


def drawn(*series: Series, title: str = "up") -> ET.Element:
    """Return a chart, read as XML."""
    return ET.fromstring(chart(title, series, NOW - 3600, NOW, 15))  # noqa: S314 - our own


def points(count: int = 240) -> list[tuple[float, float]]:
    """Return the points of a line."""
    return [(NOW - 3600 + 15 * index, float(index % 17)) for index in range(count)]


def test_a_chart_has_no_script_and_nothing_from_elsewhere() -> None:
    """And no reference to another document, for any label."""
    root = drawn(Series(EVIL, {}, points()), title=EVIL)
    names = {str(element.tag).rpartition("}")[2] for element in root.iter()}
    assert "script" not in names
    assert "foreignObject" not in names
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.rpartition("}")[2].startswith("on")
            assert "://" not in value
    styles = "".join(element.text or "" for element in root.iter() if str(element.tag).endswith("style"))
    assert "@import" not in styles
    assert "url(" not in styles


def test_a_chart_of_nothing_says_so() -> None:
    """Also for series without points or without a finite value."""
    for series in ([], [Series("a", {}, [])], [Series("a", {}, [(NOW, float("nan")), (NOW, float("inf"))])]):
        assert b"No data in this time range" in chart("up", series, NOW - 60, NOW, 15)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e300, 1e-300])
def test_a_flat_line_can_be_drawn(value: float) -> None:
    """Also for very large and small values, and for a single point."""
    for count in (1, 5):
        drawn(Series("a", {}, [(NOW - 60 + 15 * index, value) for index in range(count)]))


def test_a_chart_is_small_whatever_is_asked() -> None:
    """Even for 100 series of 11,000 points."""
    line = [(NOW - 3600 + index * 0.32, float(index % 97)) for index in range(11_000)]
    picture = chart("up", [Series(f"n{index}", {}, line) for index in range(100)], NOW - 3600, NOW, 0.32)
    assert len(picture) < 400_000
    assert picture.count(b"legend reactive") <= MAX_LINES


def test_a_peak_is_not_lost() -> None:
    """A line of many points is drawn by the extremes of each part."""
    line = [(NOW - 3600 + index * 0.5, 1000.0 if index == 5001 else 1.0) for index in range(7200)]
    plain = chart("up", [Series("a", {}, [(at, 1.0) for at, _ in line])], NOW - 3600, NOW, 0.5)
    assert b"1 k" in chart("up", [Series("a", {}, line)], NOW - 3600, NOW, 0.5).replace(
        "\N{NO-BREAK SPACE}".encode(), b" "
    )
    assert b">1000<" not in plain
