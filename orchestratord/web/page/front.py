"""The front page: whether all is well, in a sentence; the figures; the fleet as a picture; the most loaded nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord import __version__
from orchestratord.breath import breathing
from orchestratord.web.page.figures import bare, counted, lasting, measured, noun, printable, short, under
from orchestratord.web.page.fleet import MAX_TILES, STEPS, Cell, Fleet
from orchestratord.web.page.graph import query_form
from orchestratord.web.page.layout import message, node_link, node_path, sparkline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestratord.catalogue import Catalogue, Family
    from orchestratord.history import Activity
    from orchestratord.telemetry import UpstreamState

#: The share of the table above which it is about to be full.
_NEARLY_FULL = 0.9
#: Nodes that share the whole width.
_FEW = 12
#: Nodes above which cells are small.
_MANY = 500
#: Cells written without a pause: a millisecond and a half.
_AT_ONCE = 20
#: Points that make a line worth looking at.
_LINE = 6


class Standing(NamedTuple):
    """How the daemon stands: what is wrong with it, and with Prometheus; None is well.

    `query_fault` is why a query was not answered just now; `asking` is true until one was. `max_nodes` is the size of
    this process' table. `shared` tells that the fleet is what a store knows of all replicas' nodes, `fleet_fault` why
    it did not say so, `delivery_fault` why no report gets there.
    """

    unhealthy: str | None
    unready: str | None
    query_fault: str | None
    asking: bool
    upstreams: list[UpstreamState]
    max_nodes: int
    shared: bool = False
    fleet_fault: str | None = None
    delivery_fault: str | None = None


def verdict(fleet: Fleet, activity: Activity, standing: Standing) -> tuple[str, str]:
    """Return how all of it is, `ok`, `note`, `warn` or `bad`, and a sentence that says so: the worst comes first."""
    return next(_findings(fleet, activity, standing))


def _findings(fleet: Fleet, activity: Activity, standing: Standing) -> Iterator[tuple[str, str]]:
    fresh = counted(fleet.nodes, "node")
    held = _held(fleet, activity, standing)
    if standing.unhealthy:
        yield "bad", f"The orchestrator is not healthy: {standing.unhealthy}."
    if standing.unready == "draining":
        yield "warn", "The orchestrator is about to stop; it takes no new reports."
    if standing.fleet_fault is not None:
        yield "bad", "The store does not say what it knows of the nodes; reports are still taken."
    if not fleet.nodes and activity.expired and not standing.shared:
        yield (
            "bad",
            f"No node reports any more; {counted(activity.expired, 'has', 'have')} gone silent in the last hour.",
        )
    if standing.query_fault is not None:
        reports = "reports are still taken" if fleet.nodes or standing.shared else "no node has reported yet"
        yield "bad", f"{'The store' if standing.shared else 'Prometheus'} does not answer; {reports}."
    if standing.delivery_fault is not None:
        yield "bad", "No report gets from this replica to the store."
    if not fleet.nodes:
        yield "note", "The store knows of no node that reports." if standing.shared else "No node has reported yet."
    if held >= _NEARLY_FULL * standing.max_nodes:
        whose = "This replica's table" if standing.shared else "The table"
        yield "warn", f"{whose} is nearly full: {counted(held, 'node')} of {standing.max_nodes:,}."
    if fleet.late:
        yield "warn", f"{fleet.late:,} of {fresh} {'is' if fleet.late == 1 else 'are'} late with a report."
    answering = "" if standing.asking else f", and {'the store' if standing.shared else 'Prometheus'} answers"
    yield "ok", f"{'The one node reports' if fleet.nodes == 1 else f'All {fresh} report'}{answering}."


def _held(fleet: Fleet, activity: Activity, standing: Standing) -> int:
    """Return how many nodes there are in this process' table."""
    return activity.nodes if standing.shared else fleet.nodes


def content(
    fleet: Fleet, activity: Activity, standing: Standing, *, catalogue: Catalogue, family: Family, stale_after: float
) -> list[Any]:
    """Return what is on the page; `family` is the one by which the cells are coloured."""
    level, sentence = verdict(fleet, activity, standing)
    parts: list[Any] = [message(level, sentence, heading=True)]
    if standing.query_fault is not None:
        parts.append(tags.p(printable(standing.query_fault), class_="reason"))
    if standing.fleet_fault is not None and standing.fleet_fault != standing.query_fault:
        parts.append(tags.p(printable(standing.fleet_fault), class_="reason"))
    if standing.delivery_fault is not None:
        reason = f"The store takes no reports: {standing.delivery_fault}"
        parts.append(tags.p(printable(reason), class_="reason"))
    parts.append(_figures(fleet, activity, standing))
    if fleet.nodes:
        parts += [_picture(fleet, catalogue, family, stale_after), _most_loaded(fleet, family)]
    elif standing.fleet_fault is None and standing.delivery_fault is None:
        parts.append(_how_to_begin(stale_after))
    parts.append(
        tags.section(
            tags.h2("Ask in PromQL", id="ask"),
            query_form("", None),
            class_="card",
            **{"aria-labelledby": "ask"},
        )
    )
    return parts


def _figures(fleet: Fleet, activity: Activity, standing: Standing) -> Tag:
    held = _held(fleet, activity, standing)
    here = ", this replica" if standing.shared else ""
    if standing.query_fault is not None:
        prometheus, level = "down", "bad"
    elif standing.asking:
        prometheus, level = "not asked yet", "note"
    else:
        prometheus, level = "answers", "ok"
    up = sum(upstream.up for upstream in standing.upstreams)
    several = f"{up} of {len(standing.upstreams)} up" if len(standing.upstreams) > 1 else None
    refused = f"{short(activity.refused_rate)} refused" if activity.refused_rate >= 0.05 else "none refused"
    if standing.shared:
        known = "unknown" if standing.fleet_fault is not None else f"{fleet.nodes:,}"
        nodes = _figure("Nodes", known, f"in the store; {held:,} at this replica")
    else:
        used = held / standing.max_nodes
        share = f"{used:.0%}" if used >= 0.01 or not held else "under 1%"
        nodes = _figure("Nodes", f"{held:,}", f"{share} of {standing.max_nodes:,}", activity.nodes_line)
    return tags.dl(
        nodes,
        _figure("Gone", f"{activity.expired:,}", f"in the last hour{here}"),
        _figure("Reports", f"{short(activity.reports_rate)}/s", f"{refused}{here}", activity.reports_line),
        _figure(
            "Queries",
            f"{short(activity.queries_rate)}/s",
            (f"p99 {under(activity.query_p99)}" if activity.query_p99 else "none in 5 min") + here,
            activity.queries_line,
        ),
        _figure(
            "Store" if standing.shared else "Prometheus",
            tags.span(prometheus, class_=f"state {level}"),
            several or _host(standing),
        ),
        _figure("Up for", lasting(activity.uptime), f"version {__version__}"),
        class_="figures",
    )


def _figure(name: str, value: Any, more: str, line: list[float] | None = None) -> Tag:
    parts = [tags.dt(name), tags.dd(value, class_="value"), tags.dd(more, class_="more")]
    if line is not None and len(line) >= _LINE:
        parts.append(tags.dd(sparkline(line, low=0.0), class_="trend"))
    return tags.div(*parts, class_="figure")


def _host(standing: Standing) -> str:
    return standing.upstreams[0].base.partition("://")[2] if standing.upstreams else ""


def _picture(fleet: Fleet, catalogue: Catalogue, family: Family, stale_after: float) -> Tag:
    tiles = fleet.nodes <= MAX_TILES
    sizes = ((_FEW, "cells tiles few"), (MAX_TILES, "cells tiles"), (_MANY, "cells large"))
    kind = next((kind for most, kind in sizes if fleet.nodes <= most), "cells")
    notes: list[Any] = []
    if fleet.group > 1:
        notes.append(f"Each cell is up to {fleet.group:,} neighbouring nodes, coloured by the highest of them. ")
    if fleet.without:
        notes.append(f"{counted(fleet.without, 'node')} did not report this metric. ")
    if fleet.late:
        notes.append(f"Hatched: no report for {2 * stale_after / 3:g} s; gone after {stale_after:g} s. ")
    return tags.section(
        tags.div(
            tags.h2("The fleet", id="fleet"),
            tags.p(family.help, class_="help"),
            class_="heading",
        ),
        _metrics(catalogue, family),
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


def _metrics(catalogue: Catalogue, family: Family) -> Tag:
    links = []
    for one in catalogue:
        link = tags.a(one.name, href=f"/?{urlencode({'metric': one.name})}")
        if one is family:
            link(**{"aria-current": "true"})
        links.append(tags.li(link))
    return tags.nav(tags.ul(*links), class_="metrics", **{"aria-label": "Colour by"})


def _legend(fleet: Fleet, family: Family) -> Tag:
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


def _most_loaded(fleet: Fleet, family: Family) -> Tag:
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


def _how_to_begin(stale_after: float) -> Tag:
    return tags.section(
        tags.h2("How to begin", id="begin"),
        tags.p("Start a profiler on each node, or post a report by hand:"),
        tags.pre(
            tags.code(
                "curl http://THIS-HOST:5000/update_metrics -H 'Content-Type: application/json' \\\n"
                '     -d \'{"node_id": "node-1", "page_faults": 52103}\'\n\n'
                "twistd -n profiler --orchestrator http://THIS-HOST:5000 --node-id node-1"
            ),
            tabindex="0",
        ),
        tags.p(f"The node is here within seconds, and gone {lasting(stale_after)} after its last report."),
        class_="card",
        **{"aria-labelledby": "begin"},
    )
