"""The page with all nodes in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.runtime.gil_yield import breathing
from orchestratord.runtime.text import printable
from orchestratord.web.pages.formatting import bare, counted, lasting, noun
from orchestratord.web.pages.layout import message, node_link
from orchestratord.web.pages.node_list import AGE, ID, MAX_FIND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestratord.nodes.families import Families
    from orchestratord.web.pages.node_list import Listed, SampleRow, Wanted

#: Rows written without a pause.
_AT_ONCE = 10


def content(wanted: Wanted, listed: Listed | None, families: Families, error: str | None = None) -> list[Any]:
    """Return what is on the page; `listed` is None where the parameters are wrong, and `error` says how."""
    parts: list[Any] = [
        tags.h1("Nodes", class_="title"),
        tags.section(_form(wanted, families), class_="card", **{"aria-label": "Find"}),
    ]
    if error is not None:
        parts.append(message("bad", printable(error)))
    if listed is None:
        return parts
    if not listed.matching:
        text = "No node matches." if listed.nodes else "No node reports."
        return [*parts, message("note", text)]
    all_of_them = listed.matching == listed.nodes
    heading = (
        counted(listed.nodes, "node") if all_of_them else f"{listed.matching:,} of {counted(listed.nodes, 'node')}"
    )
    parts.append(
        tags.section(
            tags.h2(heading, id="nodes"),
            tags.div(
                tags.table(
                    tags.thead(tags.tr(*_heads(wanted, families))),
                    tags.tbody(_row(row, families) for row in breathing(listed.rows, _AT_ONCE)),
                    class_="roster",
                ),
                class_="wide",
                role="region",
                tabindex="0",
                **{"aria-labelledby": "nodes"},
            ),
            _pages(wanted, listed),
            class_="card",
        )
    )
    return parts


def _form(wanted: Wanted, families: Families) -> Tag:
    options = [tags.option("any", value="")]
    for name in (AGE, *families.names):
        option = tags.option("age in seconds" if name == AGE else name, value=name)
        if name == wanted.by:
            option(selected="selected")
        options.append(option)
    hidden = [
        tags.input(type="hidden", name=name, value=value) for name, value in _order(wanted.sort, wanted.descending)
    ]
    return tags.form(
        tags.label("Name has", **{"for": "find"}),
        tags.input(
            type="search",
            name="find",
            id="find",
            value=wanted.find,
            maxlength=str(MAX_FIND),
            spellcheck="false",
            autocomplete="off",
            autocapitalize="off",
        ),
        tags.label("Value", **{"for": "by"}),
        tags.select(*options, name="by", id="by"),
        *_bound("min", "from", wanted.low),
        *_bound("max", "to", wanted.high),
        *hidden,
        tags.button("Show", type="submit"),
        action="/fleet",
        method="get",
        class_="ask",
        role="search",
    )


def _bound(name: str, label: str, value: float | None) -> list[Tag]:
    text = "" if value is None else f"{value:.15g}"
    box = tags.input(type="number", step="any", name=name, id=name, value=text, class_="bound")
    return [tags.label(label, **{"for": name}), box]


def _order(sort: str, descending: bool) -> list[tuple[str, str]]:
    return [("sort", sort), ("order", "desc" if descending else "asc")]


def _link(wanted: Wanted, sort: str, *, descending: bool, page: int = 1) -> str:
    parts = [("find", wanted.find), ("by", wanted.by)]
    parts += [
        (name, f"{value:.15g}") for name, value in (("min", wanted.low), ("max", wanted.high)) if value is not None
    ]
    parts += _order(sort, descending)
    if page > 1:
        parts.append(("page", str(page)))
    return f"/fleet?{urlencode([(name, value) for name, value in parts if value])}"


def _heads(wanted: Wanted, families: Families) -> list[Tag]:
    columns = [(ID, "Node", ""), (AGE, "Last report", ""), *((one.name, one.name, noun(one)) for one in families)]
    heads = []
    for sort, name, unit in columns:
        current = sort == wanted.sort
        # A second click turns the order round; the first on a metric shows the largest.
        descending = not wanted.descending if current else sort not in {ID, AGE}
        mark = ("▼" if wanted.descending else "▲") if current else ""
        head = tags.th(
            tags.a(*_breakable(name), href=_link(wanted, sort, descending=descending)),
            tags.span(f" {mark}", **{"aria-hidden": "true"}) if mark else "",
            tags.span(unit, class_="unit") if unit else "",
            scope="col",
        )
        if sort != ID:
            head(class_="number")
        if current:
            head(**{"aria-sort": "descending" if wanted.descending else "ascending"})
        heads.append(head)
    return heads


def _breakable(name: str) -> Iterator[Any]:
    """Yield a name that may be broken after each underscore."""
    *parts, last = name.split("_")
    for part in parts:
        yield f"{part}_"
        yield Tag("wbr")
    yield last


def _row(row: SampleRow, families: Families) -> Tag:
    cells = [
        tags.td("-" if value is None else bare(value, family), class_="number")
        for family, value in zip(families, row.values, strict=True)
    ]
    return tags.tr(
        tags.th(node_link(row.node_id), scope="row"),
        tags.td(f"{lasting(row.age)} ago", class_="number"),
        *cells,
    )


def _pages(wanted: Wanted, listed: Listed) -> Tag | str:
    if listed.pages == 1:
        return ""
    links: list[Any] = []
    for name, page in (("First", 1), ("Previous", listed.page - 1), ("Next", listed.page + 1), ("Last", listed.pages)):
        inside = 1 <= page <= listed.pages and page != listed.page
        href = _link(wanted, wanted.sort, descending=wanted.descending, page=page)
        links.append(tags.li(tags.a(name, href=href) if inside else tags.span(name)))
    return tags.nav(
        tags.ul(tags.li(f"Page {listed.page:,} of {listed.pages:,}"), *links, class_="links"),
        **{"aria-label": "Pages of nodes"},
    )
