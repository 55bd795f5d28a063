"""Draws the answer to a range query: a self-contained SVG, for light and dark. For a pool thread."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from orchestratord.runtime.text import printable
from orchestratord.web.pages.formatting import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.promql.range_vector import Series

#: Series in a chart at most; nobody could tell more apart.
MAX_LINES = 12
#: Parts of a line. Each is drawn by its lowest and its highest point, so that no peak is lost.
_STRETCHES = 200
WIDTH, MIN_WIDTH, MAX_WIDTH = 960, 320, 1920
#: The width of a chart for a phone, and the width below which the layout is narrow; letters keep their size.
PHONE, _NARROW = 380, 600
_HEIGHT, _LOW, _LEGEND_ROW, _LEGEND_LINE = 340, 280, 24, 20
#: Pixels for a name in the legend, for a letter of the title, and for a label of the time axis.
_LEGEND_WIDTH, _LETTER_WIDTH, _TICK_WIDTH = 180, 9, 105
_LEGEND_LENGTH, _SHORT_LENGTH = 26, 18
_TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)

# A colour for each line, on light and on dark. Each has a contrast of 3:1 or more to the background, and differs from
# the others; the first six, after Okabe and Ito, also for colour-blind people. The other six lines are dashed.
LIGHT = (
    "#0068a8", "#c2410c", "#00795a", "#a03d80", "#8a6100", "#5b5f66",
    "#001580", "#aa6aff", "#55002a", "#004000", "#ff4080", "#6a15bf",
)  # fmt: skip
DARK = (
    "#56b4e9", "#ff9d5c", "#2fd0a0", "#e38fc4", "#f0d24b", "#c3c9d1",
    "#009500", "#ea2a00", "#006aea", "#806a6a", "#6aff6a", "#aa40d4",
)  # fmt: skip
_SOLID = 6


def _colours(colours: Sequence[str]) -> str:
    pairs = [(f".color-{at}", colours[at]) for at in range(MAX_LINES)]
    return "\n".join(f"{name}, {name} text {{ stroke: {colour}; fill: {colour}; }}" for name, colour in pairs)


_CSS = f"""
text, tspan {{ stroke: none !important; }}
svg {{ background: #fff; }}
.background {{ fill: #fff; }}
.nofill {{ fill: none !important; }}
.title {{ text-anchor: middle; fill: #17212b; }}
.legend text, .axis text {{ fill: #4b5a66 !important; }}
.axis.x text {{ text-anchor: middle; }}
.axis.y text {{ text-anchor: end; }}
.axis .guide.line {{ fill: none; stroke: #e1e7ec; }}
.axis.x .guide.line {{ stroke: #eef2f5; }}
.axis .line {{ fill: none; stroke: #aab6c0; }}
text.no_data {{ text-anchor: middle; fill: #4b5a66; }}
.reactive {{ stroke-width: 1.6; stroke-linejoin: round; }}
.legend rect {{ stroke: none; }}
{_colours(LIGHT)}
{"".join(f".serie-{at} .line {{ stroke-dasharray: 6 3; }}" for at in range(_SOLID, MAX_LINES))}
@media (prefers-color-scheme: dark) {{
svg {{ background: #161f27; }}
.background {{ fill: #161f27; }}
.title {{ fill: #e8eef3; }}
.legend text, .axis text, text.no_data {{ fill: #a9b8c4 !important; }}
.axis .guide.line {{ stroke: #2b3843; }}
.axis.x .guide.line {{ stroke: #212c35; }}
.axis .line {{ stroke: #586875; }}
{_colours(DARK)}
}}
"""

_STYLE = {
    "font_family": "system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif",
    "label_font_size": 12,
    "major_label_font_size": 12,
    "legend_font_size": 13,
    "title_font_size": 15,
    "no_data_font_size": 16,
    "background": "transparent",
    "plot_background": "transparent",
}


@cache
def _pygal() -> Any:
    """Import pygal at the first chart: that takes 0.1 s, which would delay the start of the daemon."""
    import pygal  # noqa: PLC0415 - as above
    from pygal.style import Style  # noqa: PLC0415 - as above

    # pygal installs a finder for its plugins that is outdated: each import of a missing module would give a warning.
    # We use no plugins.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "PluginImportFixer"]
    return partial(pygal.XY, style=Style(**_STYLE))


def size(lines: int, width: int = WIDTH) -> tuple[int, int]:
    """Return the width and height in pixels of a chart with so many series."""
    height = _HEIGHT if width >= _NARROW else _LOW
    return width, height + _rows(min(lines, MAX_LINES), width) * _LEGEND_ROW


def _columns(lines: int, width: int) -> int:
    return min(4, max(1, width // _LEGEND_WIDTH), max(1, lines))


def _rows(lines: int, width: int) -> int:
    return -(-lines // _columns(lines, width))


def chart(title: str, series: Sequence[Series], start: float, end: float, step: float, *, width: int = WIDTH) -> bytes:
    """Return the SVG of the first MAX_LINES series, between two Unix times. Times are shown in UTC.

    A line has a gap if two points are more than 1.5 times `step` seconds apart. `width` is in pixels.
    """
    lines = [
        (printable(one.name), _thinned(one.points, (end - start) / _STRETCHES, 1.5 * step))
        for one in series[:MAX_LINES]
    ]
    values = [value for _, points in lines for _, value in points if value is not None]
    # pygal's arithmetic overflows, or underflows, for numbers far from 1.
    largest = max(map(abs, values), default=0.0)
    unit = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else largest
    rows = _rows(len(lines), width)
    tick, ticks = _ticks(start, end, max(2, width // _TICK_WIDTH))
    xy_chart: Any = _pygal()(
        width=width,
        height=size(len(lines), width)[1],
        title=_cut(printable(title), width // _LETTER_WIDTH),
        css=[f"inline:{_CSS}"],
        js=[],
        classes=["chart"],
        no_prefix=True,
        disable_xml_declaration=True,
        show_dots=False,
        allow_interruptions=True,
        show_legend=bool(values),
        show_y_labels=bool(values),
        legend_at_bottom=True,
        legend_at_bottom_columns=_columns(len(lines), width),
        legend_box_size=10,
        truncate_legend=_LEGEND_LENGTH if width >= _NARROW else _SHORT_LENGTH,
        xrange=(start, end if end > start else start + 1),
        x_labels=ticks,
        x_value_formatter=lambda at: _moment(at, tick),
        value_formatter=lambda value: short(value * unit),
        margin=14,
        # pygal reserves as many legend rows as columns, and nothing for the labels of the time axis above them.
        margin_bottom=14 + _LEGEND_ROW + _LEGEND_LINE * max(0, rows - round(math.sqrt(len(lines)))),
        spacing=8,
    )
    low, high = (min(values) / unit, max(values) / unit) if values else (0.0, 1.0)
    if low == high:  # for a flat line pygal would make an empty range
        xy_chart.range = (min(0.0, 2 * low), max(0.0, 2 * high) or 1.0)
    elif low >= 0:
        xy_chart.range = (0, high * 1.02)
    for name, points in lines if values else []:
        xy_chart.add(_cut(name, 60), [(at, None if value is None else value / unit) for at, value in points])
    if not values:
        # Without a line pygal draws its own time axis; with an invisible line it draws the requested one.
        xy_chart.add("", [(start, 0.0), (end, 1.0)], stroke=False)
        xy_chart.add_xml_filter(partial(_with_text, text="No data in this time range"))
    xy_chart.add_xml_filter(_without_scripts)
    xy_chart.add_xml_filter(lambda root: _with_places(root, xy_chart, start, end))
    text: str = xy_chart.render(is_unicode=True)
    return text.encode()


def _without_scripts(root: Any) -> Any:
    """Remove the configuration of pygal's script, which is not used."""
    for parent in list(root.iter()):
        for child in list(parent):
            if str(child.tag).rpartition("}")[2] == "script":
                parent.remove(child)
    root.set("role", "img")
    return root


def _with_places(root: Any, xy_chart: Any, start: float, end: float) -> Any:
    """Add the positions that page.js needs, in pixels: of the two times, and of the top and bottom of the plot."""
    for name, at in (("start", start), ("end", end)):
        root.set(f"data-{name}", f"{xy_chart.margin_box.left + xy_chart.view.x(at):.1f}")
    root.set("data-top", f"{xy_chart.margin_box.top:.1f}")
    root.set("data-bottom", f"{xy_chart.margin_box.top + xy_chart.view.height:.1f}")
    return root


def _with_text(root: Any, text: str) -> Any:
    """Add a text in the middle of the chart."""
    place = {"class": "no_data", "x": str(float(root.get("viewBox").split()[2]) / 2), "y": "45%", "font-size": "16"}
    element = root.makeelement("text", place)
    element.text = text
    root.append(element)
    return root


def _thinned(points: Sequence[tuple[float, float]], width: float, gap: float) -> list[tuple[float, float | None]]:
    """Return the points to draw: the extremes of each `width` seconds. None makes a gap."""
    kept: list[tuple[float, float | None]] = []
    part: list[tuple[float, float]] = []
    before: float | None = None
    for at, value in points:
        if not math.isfinite(value):
            continue
        broken = before is not None and at - before > gap
        if part and (broken or at - part[0][0] >= width):
            kept += _extremes(part)
            part = []
        if broken:
            kept.append((at, None))
        part.append((at, value))
        before = at
    return kept + _extremes(part)


def _extremes(part: Sequence[tuple[float, float]]) -> list[tuple[float, float | None]]:
    if not part:
        return []
    low, high = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
    return list(dict.fromkeys(sorted([low, high])))


def _ticks(start: float, end: float, most: int) -> tuple[float, list[float]]:
    """Return the seconds between two ticks of the time axis, and their Unix times; there are about `most`."""
    length = max(end - start, 1.0)
    step = next((float(size) for size in _TICK_STEPS if length / size <= most), 86400.0 * -(-length // (86400 * most)))
    first = math.ceil(start / step) * step
    return step, [first + index * step for index in range(int((end - first) // step) + 1)] or [start]


def _moment(at: float, tick: float) -> str:
    form = "%H:%M:%S" if tick < 60 else "%H:%M" if tick < 43200 else "%b %d"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
