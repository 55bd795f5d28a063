"""The markup of the list of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.runtime.gil_yield import breathing
from orchestratord.runtime.text import printable
from orchestratord.web.pages.formatting import counted, duration, unit_word, without_unit
from orchestratord.web.pages.layout import message, node_link
from orchestratord.web.pages.nodes.node_list import AGE, ID, MAX_FIND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestratord.nodes.families import Families
    from orchestratord.web.pages.nodes.node_list import NodeListPage, NodeQuery, NodeRow

#: Rows rendered before other threads get a turn.
_ROWS_PER_SLICE = 10


def content(query: NodeQuery, listing: NodeListPage | None, families: Families, error: str | None = None) -> list[Any]:
    """Return the content of the page; if the parameters are wrong, `listing` is None and `error` says why."""
    parts: list[Any] = [
        tags.h1("Nodes", class_="title"),
        tags.section(_form(query, families), class_="card", **{"aria-label": "Find"}),
    ]
    if error is not None:
        parts.append(message("bad", printable(error)))
    if listing is None:
        return parts
    if not listing.matching:
        text = "No node matches." if listing.nodes else "No node reports."
        return [*parts, message("note", text)]
    all_of_them = listing.matching == listing.nodes
    heading = (
        counted(listing.nodes, "node") if all_of_them else f"{listing.matching:,} of {counted(listing.nodes, 'node')}"
    )
    parts.append(
        tags.section(
            tags.h2(heading, id="nodes"),
            tags.div(
                tags.table(
                    tags.thead(tags.tr(*_column_heads(query, families))),
                    tags.tbody(_row(row, families) for row in breathing(listing.rows, _ROWS_PER_SLICE)),
                    class_="nodes-table",
                ),
                class_="wide",
                role="region",
                tabindex="0",
                **{"aria-labelledby": "nodes"},
            ),
            _page_links(query, listing),
            class_="card",
        )
    )
    return parts


def _form(query: NodeQuery, families: Families) -> Tag:
    options = [tags.option("any", value="")]
    for name in (AGE, *families.names):
        option = tags.option("age in seconds" if name == AGE else name, value=name)
        if name == query.by:
            option(selected="selected")
        options.append(option)
    hidden = [tags.input(type="hidden", name=name, value=value) for name, value in _order(query.sort, query.descending)]
    return tags.form(
        tags.label("Name contains", **{"for": "find"}),
        tags.input(
            type="search",
            name="find",
            id="find",
            value=query.find,
            maxlength=str(MAX_FIND),
            spellcheck="false",
            autocomplete="off",
            autocapitalize="off",
        ),
        tags.label("Value", **{"for": "by"}),
        tags.select(*options, name="by", id="by"),
        *_bound("min", "from", query.low),
        *_bound("max", "to", query.high),
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


def _link(query: NodeQuery, sort: str, *, descending: bool, page: int = 1) -> str:
    parts = [("find", query.find), ("by", query.by)]
    parts += [(name, f"{value:.15g}") for name, value in (("min", query.low), ("max", query.high)) if value is not None]
    parts += _order(sort, descending)
    if page > 1:
        parts.append(("page", str(page)))
    return f"/fleet?{urlencode([(name, value) for name, value in parts if value])}"


def _column_heads(query: NodeQuery, families: Families) -> list[Tag]:
    columns = [(ID, "Node", ""), (AGE, "Last report", ""), *((one.name, one.name, unit_word(one)) for one in families)]
    heads = []
    for sort, name, unit in columns:
        current = sort == query.sort
        # A second click reverses the order; the first click on a metric shows the largest first.
        descending = not query.descending if current else sort not in {ID, AGE}
        mark = ("▼" if query.descending else "▲") if current else ""
        head = tags.th(
            tags.a(*_breakable(name), href=_link(query, sort, descending=descending)),
            tags.span(f" {mark}", **{"aria-hidden": "true"}) if mark else "",
            tags.span(unit, class_="unit") if unit else "",
            scope="col",
        )
        if sort != ID:
            head(class_="number")
        if current:
            head(**{"aria-sort": "descending" if query.descending else "ascending"})
        heads.append(head)
    return heads


def _breakable(name: str) -> Iterator[Any]:
    """Yield a name with a place for a line break after each underscore."""
    *parts, last = name.split("_")
    for part in parts:
        yield f"{part}_"
        yield Tag("wbr")
    yield last


def _row(row: NodeRow, families: Families) -> Tag:
    cells = [
        tags.td("-" if value is None else without_unit(value, family), class_="number")
        for family, value in zip(families, row.values, strict=True)
    ]
    return tags.tr(
        tags.th(node_link(row.node_id), scope="row"),
        tags.td(f"{duration(row.age)} ago", class_="number"),
        *cells,
    )


def _page_links(query: NodeQuery, listing: NodeListPage) -> Tag | str:
    if listing.pages == 1:
        return ""
    links: list[Any] = []
    for name, page in (
        ("First", 1),
        ("Previous", listing.page - 1),
        ("Next", listing.page + 1),
        ("Last", listing.pages),
    ):
        inside = 1 <= page <= listing.pages and page != listing.page
        href = _link(query, query.sort, descending=query.descending, page=page)
        links.append(tags.li(tags.a(name, href=href) if inside else tags.span(name)))
    return tags.nav(
        tags.ul(tags.li(f"Page {listing.page:,} of {listing.pages:,}"), *links, class_="links"),
        **{"aria-label": "Pages of nodes"},
    )
