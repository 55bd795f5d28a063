"""The markup of the query page: the form, a chart with a table, or the table of an instant query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.promql.alerts import node_id
from orchestratord.promql.params import parse_duration, parse_time
from orchestratord.web.pages.formatting import counted, table_number
from orchestratord.web.pages.layout import message, node_path
from orchestratord.web.pages.query.chart import MAX_LINES, PHONE, size
from orchestratord.web.pages.query.graph_params import DEFAULT_RANGE, RANGES, form_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestratord.promql.range_vector import Present, RangeAnswer
    from orchestratord.web.pages.query.graph_params import GraphParams, InstantParams

_EXAMPLES = (
    ("topk(5, page_faults)", "the five nodes with the most page faults"),
    ("avg_over_time(mem_bytes_allocated[5m]) and mem_bytes_allocated", "kernel memory, averaged over five minutes"),
    ("sum(fs_read_size_kb + fs_write_size_kb)", "VFS reads and writes of all nodes"),
    ("ctx_switches_forced / ctx_switches_graceful > 0.5", "nodes where tasks compete for the CPU"),
)


class Form(NamedTuple):
    """The fields of the form as text: the query, a range up to now, or a start and an end; `table`: no chart."""

    q: str = ""
    range: str = ""
    start: str = ""
    end: str = ""
    table: bool = False

    @staticmethod
    def of(args: Mapping[str, Sequence[str]]) -> Form:
        """Return the fields as they were sent, valid or not."""
        q, relative, start, end, view = ((args.get(name) or [""])[0] for name in ("q", "range", "start", "end", "view"))
        return Form(q, relative, start, end, view == "table")

    def link(self, *, table: bool) -> str:
        """Return the URL of the same query, as a table or as a chart."""
        parts = {"q": self.q, "range": self.range, "start": self.start, "end": self.end}
        if table:
            parts["view"] = "table"
        return f"/graph?{urlencode({name: value for name, value in parts.items() if value})}"


def query_form(form: Form, error: str | None = None, *, time_fields: bool = True) -> Tag:
    """Return the form. `error` is what is wrong with the query; `time_fields`: with fields for start and end."""
    chosen = form.range or DEFAULT_RANGE
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
        value=form.q,
        spellcheck="false",
        autocomplete="off",
        autocapitalize="off",
        placeholder="topk(5, page_faults)",
        required="required",
    )
    if error is not None:
        box(**{"aria-invalid": "true", "aria-describedby": "fault"})
    parts: list[Any] = [
        tags.label("PromQL", **{"for": "q"}),
        box,
        tags.label("Time", **{"for": "range"}),
        tags.select(*options, name="range", id="range"),
        tags.button("Run", type="submit"),
    ]
    if time_fields:
        parts.append(_time_fields(form))
    if form.table:
        parts.append(tags.input(type="hidden", name="view", value="table"))
    markup = tags.form(*parts, action="/graph", method="get", class_="ask", role="search")
    return markup if error is None else tags.div(markup, message("bad", error)(id="fault"))


def _time_fields(form: Form) -> Tag:
    fields: list[Any] = []
    for name, label, value in (("start", "From (UTC)", form.start), ("end", "Until (UTC)", form.end)):
        field = tags.input(type="datetime-local", name=name, id=name, step="1", value=form_time(value))
        fields += [tags.label(label, **{"for": name}), field]
    details = tags.details(
        tags.summary("Custom time"),
        tags.div(*fields, class_="time"),
        tags.p(
            "If “From” is empty, the range above ends at “Until”. If “Until” is empty, it ends now.", class_="notes"
        ),
    )
    if form.start or form.end:
        details(open="open")
    return details


def content(form: Form, *answer: Tag | str, error: str | None = None) -> list[Any]:
    """Return the content of the page: the answer, or the error, or examples."""
    parts: list[Any] = [
        tags.h1("Query", class_="title"),
        tags.section(query_form(form, error), class_="card", **{"aria-label": "Question"}),
    ]
    if form.q.strip():
        parts.append(_views(form))
    if answer:
        parts += answer
    elif error is None:
        parts.append(_examples())
    return parts


def _views(form: Form) -> Tag:
    links = []
    for name, table in (("Chart", False), ("Table", True)):
        link = tags.a(name, href=form.link(table=table))
        if table == form.table:
            link(**{"aria-current": "true"})
        links.append(tags.li(link))
    return tags.nav(tags.ul(*links), class_="metrics", **{"aria-label": "View"})


def chart_section(params: GraphParams, found: RangeAnswer) -> Tag:
    """Return the chart as an image, with links to the SVG, the data, and this time range."""
    fixed = {"q": params.q, "start": params.start, "end": params.end, "step": params.step}
    relative = fixed if params.relative is None else {"q": params.q, "range": params.relative}
    shown = min(len(found.series), MAX_LINES)
    data = f"/query?{urlencode(fixed)}"
    links = [
        ("Picture (SVG)", f"/graph.svg?{urlencode(relative)}"),
        ("Data (JSON)", data),
        ("Permanent link", f"/graph?{urlencode(fixed)}"),
    ]
    width, height = size(shown)
    what = f"Chart of {params.q[:200]}: {counted(shown, 'series', 'series')}; the table below has the values"
    source = f"/graph.svg?{urlencode(fixed)}"
    return tags.figure(
        tags.div(
            Tag("picture")(
                tags.source(media="(max-width: 40rem)", srcset=f"/graph.svg?{urlencode(fixed | {'width': PHONE})}"),
                tags.img(src=source, alt=what, width=str(width), height=str(height), class_="chart"),
            ),
            id="chart",
            **{"data-values": data, "data-start": _seconds(params.start), "data-end": _seconds(params.end)},
        ),
        tags.figcaption(tags.ul(*[tags.li(tags.a(name, href=href)) for name, href in links], class_="links")),
        class_="card",
    )


def _seconds(text: str) -> str:
    return f"{parse_time(text):.3f}"


def range_table(params: GraphParams, found: RangeAnswer) -> Tag:
    """Return a table of latest, min, mean and max. A series that ended before the end has no latest value."""
    if not found.total:
        return _nothing("No series matches in this time range.")
    start, end, step = parse_time(params.start), parse_time(params.end), parse_duration(params.step)
    last = start + (end - start) // step * step
    rows, ended = [], False
    for index, one in enumerate(found.series):
        finite = one.finite
        here = bool(one.points) and one.points[-1][0] > last - step / 2
        ended |= not here
        numbers: list[float | None] = [one.points[-1][1] if here else None, None, None, None]
        if finite:
            numbers[1:] = [min(finite), sum(finite) / len(finite), max(finite)]
        mark = tags.span(class_=f"key k{index}") if index < MAX_LINES else ""
        rows.append(
            tags.tr(
                tags.th(mark, _series(one.name, one.labels), scope="row"),
                *[tags.td("-" if number is None else table_number(number), class_="number") for number in numbers],
            )
        )
    notes = []
    if ended:
        notes.append("A series without a latest value has no sample at the end of this time range. ")
    if found.total > MAX_LINES:
        notes.append(f"The chart shows the first {MAX_LINES} series. ")
    return _table(("latest", "min", "mean", "max"), rows, found.total, notes)


def instant_table(params: InstantParams, present: Present) -> Tag:
    """Return a table of the values of an instant query, in the order of the answer."""
    if not present.total:
        return _nothing("No series matches at this moment.")
    rows = [
        tags.tr(
            tags.th(_series(one.name, one.labels), scope="row"),
            tags.td(table_number(one.value), class_="number"),
        )
        for one in present.values
    ]
    moment = {"q": params.q, "time": params.end} if params.end else {"q": params.q}
    return _table(("value",), rows, present.total, [], tags.a("Data (JSON)", href=f"/query?{urlencode(moment)}"))


def _series(name: str, labels: Mapping[str, str]) -> Tag | str:
    """Return the name of a series, as a link to the page of its node if it has a node id."""
    node = node_id(labels)
    path = node_path(node) if node else None
    return name if path is None else tags.a(name, href=path)


def _nothing(text: str) -> Tag:
    return tags.section(message("note", text), class_="card", **{"aria-label": "Answer"})


def _table(columns: Sequence[str], rows: Sequence[Tag], total: int, notes: list[str], *links: Tag) -> Tag:
    if total > len(rows):
        notes.append(f"The first {len(rows):,} of {counted(total, 'series', 'series')} are listed. ")
    return tags.section(
        tags.h2(counted(total, "series", "series"), id="answer"),
        tags.div(
            tags.table(
                tags.thead(
                    tags.tr(
                        tags.th("Series", scope="col"),
                        *[tags.th(name, scope="col", class_="number") for name in columns],
                    )
                ),
                tags.tbody(*rows),
                id="series",
            ),
            class_="wide",
            role="region",
            tabindex="0",
            **{"aria-labelledby": "answer"},
        ),
        tags.p(*notes, *links, class_="notes") if notes or links else "",
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
