"""A range query's answer as a chart: SVG that stands by itself, on light and dark. For a pool thread."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from orchestratord.web.page.figures import printable, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.web.page.series import Series

#: Series in one chart; more could not be told apart.
MAX_LINES = 20
#: Stretches of a line: each is drawn by its lowest and its highest point, so that no peak is lost.
_STRETCHES = 200
_WIDTH, _HEIGHT, _LEGEND_ROW = 960, 340, 24
_COLUMNS = 4
_TITLE_LENGTH, _LEGEND_LENGTH = 100, 26
_TICKS = 7
_TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)

# Colours that also the colour-blind tell apart (after Okabe and Ito), darker on light and lighter on dark.
_LIGHT = ("#0068a8", "#c2410c", "#00795a", "#a03d80", "#8a6100", "#3f7fbf", "#5b5f66", "#b3203c")
_DARK = ("#56b4e9", "#ff9d5c", "#2fd0a0", "#e38fc4", "#f0d24b", "#8fb8ff", "#c3c9d1", "#ff8095")


def _colours(colours: Sequence[str]) -> str:
    pairs = [(f".color-{at}", colours[at % len(colours)]) for at in range(MAX_LINES)]
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
{_colours(_LIGHT)}
{"".join(f".serie-{at} .line {{ stroke-dasharray: 7 3; }}" for at in range(len(_LIGHT), 2 * len(_LIGHT)))}
{"".join(f".serie-{at} .line {{ stroke-dasharray: 2 3; }}" for at in range(2 * len(_LIGHT), MAX_LINES))}
@media (prefers-color-scheme: dark) {{
svg {{ background: #161f27; }}
.background {{ fill: #161f27; }}
.title {{ fill: #e8eef3; }}
.legend text, .axis text, text.no_data {{ fill: #a9b8c4 !important; }}
.axis .guide.line {{ stroke: #2b3843; }}
.axis.x .guide.line {{ stroke: #212c35; }}
.axis .line {{ stroke: #586875; }}
{_colours(_DARK)}
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
    """Return pygal: it takes 0.1 s to import, which a daemon does not wait for at whose charts nobody looks."""
    import pygal  # noqa: PLC0415 - as above
    from pygal.style import Style  # noqa: PLC0415 - as above

    # It puts an importer for its plugins before everybody's imports, made for a Python that is gone: each import of a
    # module that is not there would give a warning. There are no plugins here.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "PluginImportFixer"]
    return partial(pygal.XY, style=Style(**_STYLE))


def size(lines: int) -> tuple[int, int]:
    """Return the width and height of a chart of so many series."""
    return _WIDTH, _HEIGHT + _rows(min(lines, MAX_LINES)) * _LEGEND_ROW


def _rows(lines: int) -> int:
    return -(-lines // _COLUMNS)


def chart(title: str, series: Sequence[Series], start: float, end: float, step: float) -> bytes:
    """Return the SVG of the first series, between two Unix times in seconds. Times are shown in UTC.

    A line is broken where more than `step` seconds are without a point.
    """
    lines = [
        (printable(one.name), _thinned(one.points, (end - start) / _STRETCHES, 1.5 * step))
        for one in series[:MAX_LINES]
    ]
    values = [value for _, points in lines for _, value in points if value is not None]
    # pygal counts in steps that overflow, or vanish, far from 1.
    largest = max(map(abs, values), default=0.0)
    unit = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else largest
    columns = min(_COLUMNS, max(1, len(lines)))
    tick, ticks = _ticks(start, end)
    drawn: Any = _pygal()(
        width=size(len(lines))[0],
        height=size(len(lines))[1],
        title=_cut(printable(title), _TITLE_LENGTH),
        css=[f"inline:{_CSS}"],
        js=[],
        classes=["chart"],
        no_prefix=True,
        disable_xml_declaration=True,
        show_dots=False,
        allow_interruptions=True,
        show_legend=bool(lines),
        legend_at_bottom=True,
        legend_at_bottom_columns=columns,
        legend_box_size=10,
        truncate_legend=_LEGEND_LENGTH,
        no_data_text="No data in this time",
        **({"xrange": (start, end), "x_labels": ticks} if values else {}),
        x_value_formatter=lambda at: _moment(at, tick),
        value_formatter=lambda value: short(value * unit),
        margin=14,
        # pygal leaves room for as many rows as columns, and none for the names of the times above them.
        margin_bottom=14 + _LEGEND_ROW * (1 + max(0, _rows(len(lines)) - round(math.sqrt(len(lines))))),
        spacing=8,
    )
    low, high = (min(values) / unit, max(values) / unit) if values else (0.0, 1.0)
    if low == high:  # of a flat line pygal makes a range of nothing
        drawn.range = (min(0.0, 2 * low), max(0.0, 2 * high) or 1.0)
    elif low >= 0:
        drawn.range = (0, high * 1.02)
    for name, points in lines if values else []:
        drawn.add(_cut(name, 60), [(at, None if value is None else value / unit) for at, value in points])
    drawn.add_xml_filter(_without_scripts)
    text: str = drawn.render(is_unicode=True)
    return text.encode()


def _without_scripts(root: Any) -> Any:
    """Take pygal's configuration for its own script out: there is no script."""
    for parent in list(root.iter()):
        for child in list(parent):
            if str(child.tag).rpartition("}")[2] == "script":
                parent.remove(child)
    root.set("role", "img")
    return root


def _thinned(points: Sequence[tuple[float, float]], width: float, gap: float) -> list[tuple[float, float | None]]:
    """Return the points to draw, those of each stretch of `width` seconds by its extremes; None breaks the line."""
    drawn: list[tuple[float, float | None]] = []
    stretch: list[tuple[float, float]] = []
    before: float | None = None
    for at, value in points:
        if not math.isfinite(value):
            continue
        broken = before is not None and at - before > gap
        if stretch and (broken or at - stretch[0][0] >= width):
            drawn += _extremes(stretch)
            stretch = []
        if broken:
            drawn.append((at, None))
        stretch.append((at, value))
        before = at
    return drawn + _extremes(stretch)


def _extremes(stretch: Sequence[tuple[float, float]]) -> list[tuple[float, float | None]]:
    if not stretch:
        return []
    low, high = min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])
    return list(dict.fromkeys(sorted([low, high])))


def _ticks(start: float, end: float) -> tuple[float, list[float]]:
    """Return the distance of the marks of the time axis, and their places."""
    length = max(end - start, 1.0)
    step = next(
        (float(size) for size in _TICK_STEPS if length / size <= _TICKS), 86400.0 * -(-length // (86400 * _TICKS))
    )
    first = math.ceil(start / step) * step
    return step, [first + index * step for index in range(int((end - first) // step) + 1)] or [start]


def _moment(at: float, tick: float) -> str:
    form = "%H:%M:%S" if tick < 60 else "%H:%M" if tick < 43200 else "%b %d"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
