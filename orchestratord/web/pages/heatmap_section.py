"""The fleet as a picture, and its most loaded nodes as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.runtime.gil_yield import breathing
from orchestratord.web.pages.formatting import bare, counted, lasting, measured, noun
from orchestratord.web.pages.heatmap import MAX_TILES, STEPS, Cell, Heatmap
from orchestratord.web.pages.layout import node_link, node_path

if TYPE_CHECKING:
    from orchestratord.nodes.families import Families, Family

#: Nodes that share the whole width.
_FEW = 12
#: Nodes above which cells are small.
_MANY = 500
#: Cells written without a pause: a millisecond and a half.
_AT_ONCE = 20


def picture(fleet: Heatmap, families: Families, family: Family, stale_after: float) -> Tag:
    """Return the card with a cell for each node, or for several, coloured by `family`."""
    tiles = fleet.nodes <= MAX_TILES
    sizes = ((_FEW, "cells tiles few"), (MAX_TILES, "cells tiles"), (_MANY, "cells large"))
    kind = next((kind for most, kind in sizes if fleet.nodes <= most), "cells")
    notes: list[Any] = []
    if fleet.group > 1:
        notes.append(f"Each cell is up to {fleet.group:,} neighbouring nodes, coloured by the highest of them. ")
    if fleet.without:
        notes.append(f"{counted(fleet.without, 'node')} did not report this metric. ")
    if fleet.late:
        notes.append(f"Hatched: no report for {round(2 * stale_after / 3, 1):g} s; gone after {stale_after:g} s. ")
    return tags.section(
        tags.div(
            tags.h2("The fleet", id="fleet"),
            tags.p(family.help, class_="help"),
            class_="heading",
        ),
        _metrics(families, family),
        _legend(fleet, family),
        tags.a("Skip the picture", href="#loads", class_="skip"),
        tags.ul(
            (tags.li(_cell(cell, family, named=tiles)) for cell in breathing(fleet.cells, _AT_ONCE)),
            class_=kind,
            id="cells",
            **{"aria-label": f"Nodes by {family.name}"},
        ),
        tags.p(*notes, class_="notes") if notes else "",
        class_="card",
        **{"aria-labelledby": "fleet"},
    )


def _metrics(families: Families, family: Family) -> Tag:
    links = []
    for one in families:
        link = tags.a(one.name, href=f"/?{urlencode({'metric': one.name})}")
        if one is family:
            link(**{"aria-current": "true"})
        links.append(tags.li(link))
    return tags.nav(tags.ul(*links), class_="metrics", **{"aria-label": "Colour by"})


def _legend(fleet: Heatmap, family: Family) -> Tag:
    if fleet.scale is None:
        return tags.p("No node has reported this metric.", class_="notes")
    bounds = fleet.scale.bounds
    swatches = [
        tags.li(
            tags.span(class_=f"swatch s{step}"),
            tags.span(f"< {bare(bounds[1], family)}" if step == 0 else f"≥ {bare(bounds[step], family)}"),
        )
        for step in range(STEPS)
    ]
    kind = "equal ratios" if fleet.scale.logarithmic else "equal steps"
    return tags.div(
        tags.ol(*swatches, class_="legend", **{"aria-label": f"Colours, in {kind}"}),
        tags.p(noun(family), class_="unit"),
        tags.p(id="pointed", **{"aria-hidden": "true"}),
        class_="scale",
    )


def _cell(cell: Cell, family: Family, *, named: bool) -> Tag:
    value = "no value" if cell.value is None else measured(cell.value, family)
    if cell.size > 1:
        title = f"{cell.first} to {cell.last}, {cell.size:,} nodes; highest {cell.node_id}: {value}"
        late = f"; {cell.late:,} late" if cell.late else ""
    else:
        title, late = f"{cell.node_id}: {value}", "; late" if cell.late else ""
    classes = f"{'none' if cell.step is None else f's{cell.step}'}{' late' if cell.late else ''}"
    inside: list[Any] = [tags.b(cell.node_id), tags.span(value + late)] if named else []
    attributes = {"class_": classes, "title": title + late}
    if not named:
        attributes["aria-label"] = title + late
    path = node_path(cell.node_id)
    if path is None:
        if not named:
            attributes["role"] = "img"
        return tags.span(*inside, **attributes)
    return tags.a(*inside, href=path, **attributes)


def most_loaded(fleet: Heatmap, family: Family) -> Tag:
    """Return the card with the nodes of the highest values of `family`."""
    rows = [
        tags.tr(
            tags.th(node_link(load.node_id), scope="row"),
            tags.td(measured(load.value, family), class_="number"),
            tags.td(
                Tag(
                    "svg",
                    attributes={
                        "class": "bar",
                        "viewBox": "0 0 100 8",
                        "preserveAspectRatio": "none",
                        "aria-hidden": "true",
                    },
                )(Tag("rect", attributes={"width": f"{100 * load.share:.1f}", "height": "8"})),
                class_="share",
            ),
            tags.td(f"{lasting(load.age)} ago", " (late)" if load.late else "", class_="number"),
        )
        for load in fleet.top
    ]
    return tags.section(
        tags.h2("The most loaded", id="loads", tabindex="-1"),
        tags.table(
            tags.thead(
                tags.tr(
                    tags.th("Node", scope="col"),
                    tags.th(family.name, scope="col", class_="number"),
                    tags.td(class_="share"),
                    tags.th("Last report", scope="col", class_="number"),
                )
            ),
            tags.tbody(*rows),
        ),
        class_="card",
        **{"aria-labelledby": "loads"},
    )
