"""The front page: whether all is well, in a sentence, and the figures; its other parts are modules of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.web.template import Tag, tags

from orchestratord import __version__
from orchestratord.runtime.text import printable
from orchestratord.web.pages.formatting import counted, lasting, short, under
from orchestratord.web.pages.heatmap_section import most_loaded, picture
from orchestratord.web.pages.layout import message, sparkline
from orchestratord.web.pages.notices import alerts_section, gone_section
from orchestratord.web.pages.query_page import Form, query_form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestratord.nodes.departed import Missing
    from orchestratord.nodes.families import Families, Family
    from orchestratord.promql.alerts import Alert
    from orchestratord.telemetry.self_metrics import UpstreamState
    from orchestratord.web.pages.activity import Activity
    from orchestratord.web.pages.heatmap import Heatmap

#: The share of the table above which it is about to be full.
_NEARLY_FULL = 0.9
#: The shares of the last hour's nodes that are missing from which on this is a warning, and a problem.
_MISSING, _MOST_MISSING = 0.1, 0.5
#: Points that make a line worth looking at.
_LINE = 6


class Health(NamedTuple):
    """How the daemon stands: what is wrong with it, and with Prometheus; None is well.

    `query_fault` is why a query was not answered just now; `asking` is true until one was. `max_nodes` is the size of
    this process' table. `shared` tells that the fleet is what a store knows of all replicas' nodes, `fleet_fault` why
    it did not say so, `delivery_fault` why no report gets there. `missing` is who left in the last hour, `alerts` what
    is firing by the upstream.
    """

    unhealthy: str | None
    unready: str | None
    query_fault: str | None
    asking: bool
    upstreams: list[UpstreamState]
    max_nodes: int
    missing: Missing
    alerts: Sequence[Alert] = ()
    shared: bool = False
    fleet_fault: str | None = None
    delivery_fault: str | None = None


def verdict(fleet: Heatmap, activity: Activity, health: Health) -> tuple[str, str]:
    """Return how all of it is, `ok`, `note`, `warn` or `bad`, and a sentence that says so: the worst comes first."""
    return next(_findings(fleet, activity, health))


def _findings(fleet: Heatmap, activity: Activity, health: Health) -> Iterator[tuple[str, str]]:
    if health.unhealthy:
        yield "bad", f"The orchestrator is not healthy: {health.unhealthy}."
    if health.unready == "draining":
        yield "warn", "The orchestrator is about to stop; it takes no new reports."
    if health.fleet_fault is not None:
        yield "bad", "The store does not say what it knows of the nodes; reports are still taken."
    if not fleet.nodes:
        yield from _all_gone(health)
    if health.query_fault is not None:
        reports = "reports are still taken" if fleet.nodes or health.shared else "no node has reported yet"
        yield "bad", f"{'The store' if health.shared else 'Prometheus'} does not answer; {reports}."
    if health.delivery_fault is not None:
        yield "bad", "No report gets from this replica to the store."
    if not fleet.nodes:
        yield "note", "The store knows of no node that reports." if health.shared else "No node has reported yet."
    yield from _of_the_nodes(fleet, activity, health)


def _all_gone(health: Health) -> Iterator[tuple[str, str]]:
    """Yield what there is to say where no node is fresh, though there have been some."""
    silent, deleted = _silent(health), len(health.missing.nodes)
    if silent:
        yield "bad", f"No node reports any more; {counted(silent, 'has', 'have')} gone silent in the last hour."
    elif health.missing.heard and not health.shared:
        if not deleted:
            yield "bad", "No node has reported for more than an hour."
        yield "note", f"No node reports; {counted(deleted, 'was', 'were')} deleted in the last hour."


def _of_the_nodes(fleet: Heatmap, activity: Activity, health: Health) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of the fresh nodes, of which there are some, and of those that are missing."""
    fresh, silent = counted(fleet.nodes, "node"), _silent(health)
    held = _held(fleet, activity, health)
    missing = _share(fleet, health)
    if missing >= _MOST_MISSING:
        yield "bad", _gone_silent(fleet, silent)
    if held >= _NEARLY_FULL * health.max_nodes:
        whose = "This replica's table" if health.shared else "The table"
        yield "warn", f"{whose} is nearly full: {counted(held, 'node')} of {health.max_nodes:,}."
    if missing >= _MISSING:
        yield "warn", _gone_silent(fleet, silent)
    if fleet.late:
        yield "warn", f"{fleet.late:,} of {fresh} {'is' if fleet.late == 1 else 'are'} late with a report."
    answering = "" if health.asking else f", and {'the store' if health.shared else 'Prometheus'} answers"
    if silent:
        went = f"{counted(silent, 'node')} went silent in the last hour"
        yield "ok", f"{fresh} report{'s' if fleet.nodes == 1 else ''}{answering}; {went}."
    yield "ok", f"{'The one node reports' if fleet.nodes == 1 else f'All {fresh} report'}{answering}."


def _gone_silent(fleet: Heatmap, silent: int) -> str:
    of = f"{silent:,} of the {fleet.nodes + silent:,} nodes of the last hour"
    return f"{of} {'has' if silent == 1 else 'have'} gone silent."


def _share(fleet: Heatmap, health: Health) -> float:
    """Return the share of the last hour's nodes that has gone silent."""
    silent = _silent(health)
    return silent / (fleet.nodes + silent) if silent else 0.0


def _silent(health: Health) -> int:
    return health.missing.silent if health.fleet_fault is None else 0


def _held(fleet: Heatmap, activity: Activity, health: Health) -> int:
    """Return how many nodes there are in this process' table."""
    return activity.nodes if health.shared else fleet.nodes


def content(
    fleet: Heatmap,
    activity: Activity,
    health: Health,
    *,
    families: Families,
    family: Family,
    now: float,
    unix_now: float,
    stale_after: float,
    address: str,
) -> list[Any]:
    """Return what is on the page; `family` is the one by which the cells are coloured.

    `now` and `unix_now` are one moment, by the table's clock and the calendar's; `address` is where reports are taken.
    """
    level, sentence = verdict(fleet, activity, health)
    parts: list[Any] = [message(level, sentence, heading=True)]
    if health.query_fault is not None:
        parts.append(tags.p(printable(health.query_fault), class_="reason"))
    if health.fleet_fault is not None and health.fleet_fault != health.query_fault:
        parts.append(tags.p(printable(health.fleet_fault), class_="reason"))
    if health.delivery_fault is not None:
        reason = f"The store takes no reports: {health.delivery_fault}"
        parts.append(tags.p(printable(reason), class_="reason"))
    parts.append(alerts_section(health.alerts, unix_now))
    parts.append(_figures(fleet, activity, health))
    gone: Tag | str = ""
    if health.fleet_fault is None:
        gone = gone_section(health.missing, now, unix_now, shared=health.shared)
    if fleet.nodes:
        # A few that are gone do not push the fleet out of sight.
        cells = picture(fleet, families, family, stale_after)
        parts += [gone, cells] if _share(fleet, health) >= _MISSING else [cells, gone]
        parts.append(most_loaded(fleet, family))
    elif gone:
        parts.append(gone)
    elif health.fleet_fault is None and health.delivery_fault is None and not health.missing.heard:
        parts.append(_how_to_begin(stale_after, address))
    parts.append(
        tags.section(
            tags.h2("Query in PromQL", id="ask"),
            query_form(Form(), whole=False),
            class_="card",
            **{"aria-labelledby": "ask"},
        )
    )
    return parts


def _figures(fleet: Heatmap, activity: Activity, health: Health) -> Tag:
    held = _held(fleet, activity, health)
    here = ", this replica" if health.shared else ""
    if health.query_fault is not None:
        prometheus, level = "down", "bad"
    elif health.asking:
        prometheus, level = "not asked yet", "note"
    else:
        prometheus, level = "up", "ok"
    up = sum(upstream.up for upstream in health.upstreams)
    several = f"{up} of {len(health.upstreams)} up" if len(health.upstreams) > 1 else None
    refused = f"{short(activity.refused_rate)} refused" if activity.refused_rate >= 0.05 else "none refused"
    if health.shared:
        known = "unknown" if health.fleet_fault is not None else f"{fleet.nodes:,}"
        nodes = _figure("Nodes", known, f"in the store; {held:,} at this replica")
    else:
        used = held / health.max_nodes
        share = f"{used:.0%}" if used >= 0.01 or not held else "under 1%"
        nodes = _figure("Nodes", f"{held:,}", f"{share} of {health.max_nodes:,}", activity.nodes_line)
    return tags.dl(
        nodes,
        _figure("Gone", f"{health.missing.silent:,}", f"in the last hour{here}"),
        _figure("Reports", f"{short(activity.reports_rate)}/s", f"{refused}{here}", activity.reports_line),
        _figure(
            "Queries",
            f"{short(activity.queries_rate)}/s",
            (f"p99 {under(activity.query_p99)}" if activity.query_p99 else "none in 5 min") + here,
            activity.queries_line,
        ),
        _figure(
            "Store" if health.shared else "Prometheus",
            tags.span(prometheus, class_=f"state {level}"),
            several or _host(health),
        ),
        _figure("Up for", lasting(activity.uptime), f"version {__version__}"),
        class_="figures",
    )


def _figure(name: str, value: Any, more: str, line: list[float] | None = None) -> Tag:
    parts = [tags.dt(name), tags.dd(value, class_="value"), tags.dd(more, class_="more")]
    if line is not None and len(line) >= _LINE:
        parts.append(tags.dd(sparkline(line, low=0.0), class_="trend"))
    return tags.div(*parts, class_="figure")


def _host(health: Health) -> str:
    return health.upstreams[0].base.partition("://")[2] if health.upstreams else ""


def _how_to_begin(stale_after: float, address: str) -> Tag:
    return tags.section(
        tags.h2("How to begin", id="begin"),
        tags.p("Start a profiler on each node, or post a report by hand:"),
        tags.pre(
            tags.code(
                f"curl {address}/update_metrics -H 'Content-Type: application/json' \\\n"
                '     -d \'{"node_id": "node-1", "page_faults": 52103}\'\n\n'
                f"twistd -n profiler --orchestrator {address} --node-id node-1"
            ),
            tabindex="0",
        ),
        tags.p(f"The node is here within seconds, and gone {lasting(stale_after)} after its last report."),
        class_="card",
        **{"aria-labelledby": "begin"},
    )
