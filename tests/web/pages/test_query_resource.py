"""The query page: instant queries, custom time ranges, links to nodes, a chart for a phone."""

from __future__ import annotations

import json
import math
import re
from itertools import combinations
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestratord.errors import BadQuery, UpstreamUnavailable
from orchestratord.promql.client import Answer as Fetched
from orchestratord.promql.range_vector import Series, present
from orchestratord.web.pages.assets import Assets
from orchestratord.web.pages.query.chart import DARK, LIGHT, MAX_LINES, PHONE, chart
from orchestratord.web.pages.query.graph_params import form_time, parse_graph_params, parse_instant_params
from tests.fakes import NOW
from tests.web.pages.browser_view import JSON, look, matrix, text, wired


def vector(*values: tuple[dict[str, str], str], kind: str = "vector") -> Fetched:
    """Return Prometheus' answer to an instant query."""
    result = [{"metric": labels, "value": [NOW, value]} for labels, value in values]
    return Fetched(
        200, JSON, json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
    )


def test_the_values_of_one_moment() -> None:
    """In Prometheus' order, from an instant query: topk has just the current ones."""
    wire = wired()
    wire.upstreams.answer = vector(
        ({"__name__": "page_faults", "node_id": "b"}, "1234567"),
        ({"__name__": "page_faults", "node_id": "a"}, "0.125"),
    )
    answer = look(wire, "/graph?q=topk(2,page_faults)&view=table&range=6h")
    said = text(answer)
    assert "2 series Series value b 1,234,567 a 0.125" in said
    assert re.findall(rb'href="(/nodes/[^"?]*)"', answer.body)[:2] == [b"/nodes/b", b"/nodes/a"]
    (query,) = wire.upstreams.asked
    assert (query.path, query.params) == ("/api/v1/query", (("query", "topk(2,page_faults)"),))
    markup = answer.body.decode().replace("&amp;", "&")
    assert 'href="/graph?q=topk%282%2Cpage_faults%29&range=6h"' in markup
    assert '<input type="hidden" name="view" value="table"' in markup
    assert "<img" not in markup


def test_a_moment_of_ones_choice() -> None:
    """The table is for the end of the time range."""
    wire = wired()
    wire.upstreams.answer = vector()
    answer = look(wire, "/graph?q=up&view=table&end=2026-11-23T08:30")
    assert "No series matches at this moment." in text(answer)
    assert ("time", "2026-11-23T08:30:00Z") in wire.upstreams.asked[0].params


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Fetched(200, JSON, b'{"data": {"resultType": "scalar", "result": [1, "x"]}}'), UpstreamUnavailable),
        (Fetched(200, JSON, b'{"data": {"resultType": "vector", "result": [{}]}}'), UpstreamUnavailable),
        (Fetched(200, JSON, b'{"data": {"resultType": "poem", "result": []}}'), UpstreamUnavailable),
        (vector(kind="matrix"), BadQuery),
        (vector(kind="string"), BadQuery),
    ],
)
def test_what_a_table_does_not_show(answer: Fetched, fault: type[Exception]) -> None:
    """An error with its status, not an empty table."""
    with pytest.raises(fault):
        present(answer.body)
    wire = wired()
    wire.upstreams.answer = answer
    assert look(wire, "/graph?q=up&view=table").status == (400 if fault is BadQuery else 502)


def test_a_scalar() -> None:
    """It is one value without a series."""
    (only,) = present(b'{"data": {"resultType": "scalar", "result": [1, "42"]}}').values
    assert (only.name, only.value) == ("value", 42.0)


def test_the_latest_is_of_the_end() -> None:
    """A series that ended before the end of the time range has no latest value."""
    wire = wired()
    end = NOW
    wire.upstreams.answer = matrix(
        ({"node_id": "there"}, [(end - 30, "1"), (end - 15, "2"), (end, "3")]),
        ({"node_id": "left"}, [(end - 60, "7"), (end - 45, "9")]),
    )
    said = text(look(wire, f"/graph?q=up&start={end - 3600}&end={end}&step=15"))
    assert "there 3 1 2 3" in said
    assert "left - 7 8 9" in said
    assert "A series without a latest value has no sample at the end of this time range." in said


def test_names_of_series_lead_to_their_node() -> None:
    """If they have a node id; an id that is not valid makes no link."""
    wire = wired()
    labels: list[dict[str, str]] = [{"node_id": "n 1"}, {"node_id": "n-1"}, {"node_id": "../x"}, {"node_id": ".."}]
    wire.upstreams.answer = matrix(*[(one, [(NOW, "1")]) for one in labels])
    links = re.findall(rb'<th scope="row">.*?</th>', look(wire, "/graph?q=up").body)
    assert [re.findall(rb'href="([^"]*)"', link) for link in links] == [[], [b"/nodes/n-1"], [], []]


def test_a_time_from_a_browsers_form() -> None:
    """A time without a zone is UTC; empty fields are ignored."""
    args = {"q": ["up"], "range": ["6h"], "start": ["2026-11-23T08:30"], "end": ["2026-11-23 09:00:30"], "step": [""]}
    wanted = parse_graph_params(args, NOW, max_length=100)
    assert (wanted.start, wanted.end) == ("2026-11-23T08:30:00Z", "2026-11-23T09:00:30Z")
    assert wanted.relative is None
    empty = parse_graph_params({"q": ["up"], "range": ["6h"], "start": [""], "end": [""]}, NOW, max_length=100)
    assert empty.relative == "6h"
    assert parse_instant_params({"q": ["up"], "end": [""]}, max_length=100).query.params == (("query", "up"),)
    assert (form_time("1795424400"), form_time("2026-11-23T09:00"), form_time("soon")) == (
        "2026-11-23T09:00:00",
        "2026-11-23T09:00:00",
        "",
    )


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/graph?q=up&view=poem", "'view'"),
        ("/graph?q=up&start=2026-13-23T08:30", "'start'"),
        ("/graph?q=up&view=table&end=soon", "'end'"),
        ("/graph.svg?q=up&width=319", "'width'"),
        ("/graph.svg?q=up&width=1921", "'width'"),
        ("/graph.svg?q=up&width=-400", "'width'"),
    ],
)
def test_what_cannot_be_asked(path: str, named: str) -> None:
    """Status 400, and the text names the parameter."""
    wire = wired()
    answer = wire.ask("GET", path)
    assert answer.status == 400
    assert named in answer.body.decode().replace("&#39;", "'")
    assert wire.upstreams.asked == []


def test_the_form_keeps_the_time_that_was_chosen() -> None:
    """The fields are open, in the format of a browser."""
    markup = look(wired(), "/graph?q=up&start=1795420800").body.decode()
    assert '<details open="open">' in markup
    assert 'value="2026-11-23T08:00:00"' in markup
    assert "<details>" in look(wired(), "/graph?q=up").body.decode()


def test_a_phone_gets_a_chart_of_its_own() -> None:
    """It is as wide as the screen, with letters of the same size and fewer times."""
    wire = wired()
    wire.upstreams.answer = matrix(({"node_id": "a"}, [(NOW - 60, "7"), (NOW, "9")]))
    markup = look(wire, "/graph?q=up").body.decode().replace("&amp;", "&")
    (path,) = re.findall(r'<source media="\(max-width: 40rem\)" srcset="([^"]*)"', markup)
    root = ET.fromstring(wire.ask("GET", path).body)  # noqa: S314 - our own
    assert float(root.attrib["viewBox"].split()[2]) == PHONE
    wide = ET.fromstring(wire.ask("GET", path.partition("&width")[0]).body)  # noqa: S314 - our own
    assert float(wide.attrib["viewBox"].split()[2]) == 960
    assert 2 <= len(times(root)) < len(times(wide))


def times(root: ET.Element) -> list[str]:
    """Return the texts of a chart that are times of a day."""
    texts = [element.text or "" for element in root.iter() if str(element.tag).endswith("text")]
    return [text for text in texts if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text)]


def test_the_time_axis_of_an_empty_chart() -> None:
    """It covers the requested time range, each label once."""
    root = ET.fromstring(chart("up", [], NOW - 3600, NOW, 15))  # noqa: S314 - our own
    assert times(root) == ["08:00", "08:10", "08:20", "08:30", "08:40", "08:50", "09:00"]


def test_where_the_times_are_in_a_picture() -> None:
    """page.js needs them to show the values under the pointer."""
    line = Series("a", {}, [(NOW - 3600 + 15 * index, float(index)) for index in range(241)])
    root = ET.fromstring(chart("up", [line], NOW - 3600, NOW, 15))  # noqa: S314 - our own
    start, end, top, bottom = (float(root.attrib[f"data-{name}"]) for name in ("start", "end", "top", "bottom"))
    assert 0 < start < 200
    assert 800 < end < 960
    assert 0 < top < 100 < bottom < 340


def linear(part: float) -> float:
    """Return a part of an sRGB colour in light."""
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def parts(colour: str) -> list[float]:
    """Return red, green and blue, in light."""
    return [linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5)]


def contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG."""
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (parts(one), parts(other)))
    return (high + 0.05) / (low + 0.05)


def seen(colour: str) -> tuple[float, ...]:
    """Return a colour in Oklab, where equal distances look equally different."""
    r, g, b = parts(colour)
    l, m, s = (  # noqa: E741 - the names of the field
        (x * r + y * g + z * b) ** (1 / 3)
        for x, y, z in (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        )
    )
    return (
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    )


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, "#ffffff"), (DARK, "#161f27")])
def test_no_two_lines_share_a_colour(colours: tuple[str, ...], ground: str) -> None:
    """One colour per line: contrast 3:1 or more (WCAG 1.4.11), and five times a just noticeable difference apart."""
    assert len(colours) == MAX_LINES
    assert min(contrast(colour, ground) for colour in colours) >= 3
    assert min(math.dist(seen(one), seen(other)) for one, other in combinations(colours, 2)) >= 0.1


def test_the_table_has_the_charts_colours() -> None:
    """In the style sheet, for light and dark, with a key for each line."""
    asset: Any = Assets().get("page.css")
    sheet = asset.body.decode()
    for index, (light, dark) in enumerate(zip(LIGHT, DARK, strict=True)):
        assert re.findall(rf"--k{index}: (#\w+);", sheet) == [light, dark]
        assert f".k{index} {{" in sheet
    script: Any = Assets().get("page.js")
    assert f"mostLines = {MAX_LINES};" in script.body.decode()
