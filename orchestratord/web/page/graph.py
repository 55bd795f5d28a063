"""The query page: PromQL in, a chart and a table out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.web.page.asked import DEFAULT_RANGE, RANGES
from orchestratord.web.page.drawing import MAX_LINES, size
from orchestratord.web.page.figures import counted, plain
from orchestratord.web.page.layout import message

if TYPE_CHECKING:
    from orchestratord.web.page.asked import Asked
    from orchestratord.web.page.series import Found

_EXAMPLES = (
    ("topk(5, page_faults)", "the five nodes with the most page faults"),
    ("avg_over_time(mem_bytes_allocated[5m]) and mem_bytes_allocated", "kernel memory, averaged over five minutes"),
    ("sum(fs_read_size_kb + fs_write_size_kb)", "file I/O of the whole fleet"),
    ("ctx_switches_forced / ctx_switches_graceful > 0.5", "nodes where tasks fight for the processor"),
)


def query_form(q: str, relative: str | None, error: str | None = None) -> Tag:
    """Return the query box; `relative` is the range that is chosen, None: the default; `error` what is wrong with q."""
    chosen = relative or DEFAULT_RANGE
    options = []
    for one in RANGES if chosen in RANGES else (*RANGES, chosen):
        option = tags.option(f"last {one}", value=one)
        if one == chosen:
            option(selected="selected")
        options.append(option)
    box = tags.input(
        type="text",
        name="q",
        id="q",
        value=q,
        spellcheck="false",
        autocomplete="off",
        autocapitalize="off",
        placeholder="topk(5, page_faults)",
        required="required",
    )
    if error is not None:
        box(**{"aria-invalid": "true", "aria-describedby": "fault"})
    form = tags.form(
        tags.label("PromQL", **{"for": "q"}),
        box,
        tags.label("Time", **{"for": "range"}),
        tags.select(*options, name="range", id="range"),
        tags.button("Ask", type="submit"),
        action="/graph",
        method="get",
        class_="ask",
        role="search",
    )
    return form if error is None else tags.div(form, message("bad", error)(id="fault"))


def content(q: str, asked: Asked | None, found: Found | None, error: str | None, relative: str | None) -> list[Any]:
    """Return what is on the page: the answer, or what is wrong with the question, or how to ask one."""
    parts: list[Any] = [
        tags.h1("Query", class_="title"),
        tags.section(query_form(q, relative, error), class_="card", **{"aria-label": "Question"}),
    ]
    if found is not None and asked is not None:
        parts += [_chart(asked, found), _table(found)]
    elif error is None:
        parts.append(_examples())
    return parts


def _chart(asked: Asked, found: Found) -> Tag:
    fixed = {"q": asked.q, "start": asked.start, "end": asked.end, "step": asked.step}
    relative = fixed if asked.relative is None else {"q": asked.q, "range": asked.relative}
    drawn = min(len(found.series), MAX_LINES)
    links = [
        ("Picture (SVG)", f"/graph.svg?{urlencode(relative)}"),
        ("Data (JSON)", f"/query?{urlencode(fixed)}"),
        ("Link to this very moment", f"/graph?{urlencode(fixed)}"),
    ]
    width, height = size(drawn)
    what = f"Chart of {asked.q[:200]}: {counted(drawn, 'series', 'series')}; the table below has the figures"
    return tags.figure(
        tags.img(src=f"/graph.svg?{urlencode(fixed)}", alt=what, width=str(width), height=str(height), class_="chart"),
        tags.figcaption(tags.ul(*[tags.li(tags.a(name, href=href)) for name, href in links], class_="links")),
        class_="card",
    )


def _table(found: Found) -> Tag:
    rows = []
    for index, one in enumerate(found.series):
        finite = one.finite
        numbers = (
            [one.points[-1][1] if one.points else None, min(finite), sum(finite) / len(finite), max(finite)]
            if finite
            else [None] * 4
        )
        mark = tags.span(class_=f"key k{index}") if index < MAX_LINES else ""
        rows.append(
            tags.tr(
                tags.th(mark, one.name, scope="row"),
                *[tags.td("-" if number is None else plain(number), class_="number") for number in numbers],
            )
        )
    notes = []
    if found.total > MAX_LINES:
        notes.append(f"The chart shows the first {MAX_LINES} series. ")
    if found.total > len(found.series):
        notes.append(f"The first {len(found.series):,} of {counted(found.total, 'series', 'series')} are listed. ")
    if not found.total:
        return tags.section(
            message("note", "No series matches in this time."), class_="card", **{"aria-label": "Answer"}
        )
    return tags.section(
        tags.h2(counted(found.total, "series", "series"), id="answer"),
        tags.div(
            tags.table(
                tags.thead(
                    tags.tr(
                        tags.th("Series", scope="col"),
                        *[
                            tags.th(name, scope="col", class_="number")
                            for name in ("latest", "lowest", "mean", "highest")
                        ],
                    )
                ),
                tags.tbody(*rows),
            ),
            class_="wide",
            role="region",
            tabindex="0",
            **{"aria-labelledby": "answer"},
        ),
        tags.p(*notes, class_="notes") if notes else "",
        class_="card",
    )


def _examples() -> Tag:
    return tags.section(
        tags.h2("For example", id="examples"),
        tags.ul(
            *[
                tags.li(tags.a(tags.code(q), href=f"/graph?{urlencode({'q': q})}"), tags.span(f" {what}"))
                for q, what in _EXAMPLES
            ],
            class_="examples",
        ),
        class_="card",
        **{"aria-labelledby": "examples"},
    )
