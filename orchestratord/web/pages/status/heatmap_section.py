"""Sections of the status page: the heat map, and the table of the most loaded nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.runtime.gil_yield import breathing
from orchestratord.web.pages.formatting import counted, duration, unit_word, with_unit, without_unit
from orchestratord.web.pages.layout import node_link, node_path
from orchestratord.web.pages.status.heatmap import MAX_TILES, STEPS, Cell, Heatmap

if TYPE_CHECKING:
    from orchestratord.nodes.families import Families, Family

#: Up to so many nodes, cells share the whole width.
_FEW = 12
#: Above so many nodes, cells are small.
_MANY = 500
#: Cells rendered before other threads get a turn: 1.5 ms.
_CELLS_PER_SLICE = 20


def heatmap_section(heatmap: Heatmap, families: Families, family: Family, stale_after: float) -> Tag:
    """Return the heat map; `family` colours the cells, `stale_after` is in seconds."""
    tiles = heatmap.nodes <= MAX_TILES
    sizes = ((_FEW, "cells tiles few"), (MAX_TILES, "cells tiles"), (_MANY, "cells large"))
    css_class = next((name for most, name in sizes if heatmap.nodes <= most), "cells")
    notes: list[Any] = []
    if heatmap.group > 1:
        notes.append(f"Each cell is up to {heatmap.group:,} neighbouring nodes, coloured by the highest of them. ")
    if heatmap.without:
        notes.append(f"{counted(heatmap.without, 'node')} did not report this metric. ")
    if heatmap.late:
        notes.append(f"Hatched: no report for {round(2 * stale_after / 3, 1):g} s; removed after {stale_after:g} s. ")
    return tags.section(
        tags.div(
            tags.h2("Fleet", id="fleet"),
            tags.p(family.help, class_="help"),
            class_="heading",
        ),
        _metrics(families, family),
        _legend(heatmap, family),
        tags.a("Skip the heat map", href="#loads", class_="skip"),
        tags.ul(
            (tags.li(_cell(cell, family, named=tiles)) for cell in breathing(heatmap.cells, _CELLS_PER_SLICE)),
            class_=css_class,
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


def _legend(heatmap: Heatmap, family: Family) -> Tag:
    if heatmap.scale is None:
        return tags.p("No node has reported this metric.", class_="notes")
    bounds = heatmap.scale.bounds
    swatches = [
        tags.li(
            tags.span(class_=f"swatch s{step}"),
            tags.span(
                f"< {without_unit(bounds[1], family)}" if step == 0 else f"≥ {without_unit(bounds[step], family)}"
            ),
        )
        for step in range(STEPS)
    ]
    kind = "equal ratios" if heatmap.scale.logarithmic else "equal steps"
    return tags.div(
        tags.ol(*swatches, class_="legend", **{"aria-label": f"Colours, in {kind}"}),
        tags.p(unit_word(family), class_="unit"),
        tags.p(id="pointed", **{"aria-hidden": "true"}),
        class_="scale",
    )


def _cell(cell: Cell, family: Family, *, named: bool) -> Tag:
    value = "no value" if cell.value is None else with_unit(cell.value, family)
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


def most_loaded_section(heatmap: Heatmap, family: Family) -> Tag:
    """Return the table of the nodes with the highest values of `family`."""
    rows = [
        tags.tr(
            tags.th(node_link(load.node_id), scope="row"),
            tags.td(with_unit(load.value, family), class_="number"),
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
            tags.td(f"{duration(load.age)} ago", " (late)" if load.late else "", class_="number"),
        )
        for load in heatmap.top
    ]
    return tags.section(
        tags.h2("Most loaded nodes", id="loads", tabindex="-1"),
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
