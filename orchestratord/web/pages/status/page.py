"""The content of the status page: a sentence about the state, the key figures, and the sections below them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.web.template import Tag, tags

from orchestratord import __version__
from orchestratord.runtime.text import printable
from orchestratord.web.pages.formatting import counted, duration, short, upper_bound
from orchestratord.web.pages.layout import message, sparkline
from orchestratord.web.pages.query.page import Form, query_form
from orchestratord.web.pages.status.heatmap_section import heatmap_section, most_loaded_section
from orchestratord.web.pages.status.notices import alerts_section, gone_section

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestratord.nodes.departed import Missing
    from orchestratord.nodes.families import Families, Family
    from orchestratord.promql.alerts import Alert
    from orchestratord.telemetry.self_metrics import UpstreamState
    from orchestratord.web.pages.activity import Activity
    from orchestratord.web.pages.status.heatmap import Heatmap

#: The share of the table from which on it is nearly full.
_NEARLY_FULL = 0.9
#: The shares of silent nodes, of all nodes in the last hour, for a warning and for a problem.
_MISSING, _MOST_MISSING = 0.1, 0.5
#: A line with fewer points is not shown.
_MIN_POINTS = 6


class DaemonStatus(NamedTuple):
    """The state of the daemon and of Prometheus. A fault is a text for people, or None if there is no fault.

    `query_fault` is why the latest query failed; `no_answer_yet` is true until the first query is answered. `max_nodes`
    is the size of this process' table. `missing` has the nodes that left in the last hour, `alerts` what is firing
    according to the upstream. `shared` is true if a store has the nodes of all replicas; then `fleet_fault` is why the
    store did not list them, and `delivery_fault` why it takes no report.
    """

    unhealthy: str | None
    unready: str | None
    query_fault: str | None
    no_answer_yet: bool
    upstreams: list[UpstreamState]
    max_nodes: int
    missing: Missing
    alerts: Sequence[Alert] = ()
    shared: bool = False
    fleet_fault: str | None = None
    delivery_fault: str | None = None


def summary(heatmap: Heatmap, activity: Activity, status: DaemonStatus) -> tuple[str, str]:
    """Return the most severe finding: its level (`ok`, `note`, `warn` or `bad`) and a sentence."""
    return next(_findings(heatmap, activity, status))


def _findings(heatmap: Heatmap, activity: Activity, status: DaemonStatus) -> Iterator[tuple[str, str]]:
    if status.unhealthy:
        yield "bad", f"The orchestrator is not healthy: {status.unhealthy}."
    if status.unready == "draining":
        yield "warn", "The orchestrator is stopping and accepts no new reports."
    if status.fleet_fault is not None:
        yield "bad", "The store does not list the nodes; reports are still accepted."
    if not heatmap.nodes:
        yield from _no_fresh_node(status)
    if status.query_fault is not None:
        reports = "reports are still accepted" if heatmap.nodes or status.shared else "no node has reported yet"
        yield "bad", f"{'The store' if status.shared else 'Prometheus'} does not answer; {reports}."
    if status.delivery_fault is not None:
        yield "bad", "This replica cannot deliver its reports to the store."
    if not heatmap.nodes:
        yield "note", "The store has no node that reports." if status.shared else "No node has reported yet."
    yield from _node_findings(heatmap, activity, status)


def _no_fresh_node(status: DaemonStatus) -> Iterator[tuple[str, str]]:
    """Yield the findings if no node is fresh now, and some were before."""
    silent, deleted = _silent(status), len(status.missing.nodes)
    if silent:
        yield "bad", f"No node reports any more; {counted(silent, 'has', 'have')} gone silent in the last hour."
    elif status.missing.heard and not status.shared:
        if not deleted:
            yield "bad", "No node has reported for more than an hour."
        yield "note", f"No node reports; {counted(deleted, 'was', 'were')} deleted in the last hour."


def _node_findings(heatmap: Heatmap, activity: Activity, status: DaemonStatus) -> Iterator[tuple[str, str]]:
    """Yield the findings about fresh nodes, at least one, and about silent ones."""
    fresh, silent = counted(heatmap.nodes, "node"), _silent(status)
    held = _table_size(heatmap, activity, status)
    missing = _silent_share(heatmap, status)
    if missing >= _MOST_MISSING:
        yield "bad", _silent_sentence(heatmap, silent)
    if held >= _NEARLY_FULL * status.max_nodes:
        whose = "This replica's table" if status.shared else "The table"
        yield "warn", f"{whose} is nearly full: {counted(held, 'node')} of {status.max_nodes:,}."
    if missing >= _MISSING:
        yield "warn", _silent_sentence(heatmap, silent)
    if heatmap.late:
        yield "warn", f"{heatmap.late:,} of {fresh} {'is' if heatmap.late == 1 else 'are'} late with a report."
    answering = "" if status.no_answer_yet else f", and {'the store' if status.shared else 'Prometheus'} answers"
    if silent:
        went = f"{counted(silent, 'node')} went silent in the last hour"
        yield "ok", f"{fresh} report{'s' if heatmap.nodes == 1 else ''}{answering}; {went}."
    yield "ok", f"{'The one node reports' if heatmap.nodes == 1 else f'All {fresh} report'}{answering}."


def _silent_sentence(heatmap: Heatmap, silent: int) -> str:
    of = f"{silent:,} of the {heatmap.nodes + silent:,} nodes of the last hour"
    return f"{of} {'has' if silent == 1 else 'have'} gone silent."


def _silent_share(heatmap: Heatmap, status: DaemonStatus) -> float:
    """Return the share of silent nodes, of all nodes in the last hour: 0 to 1."""
    silent = _silent(status)
    return silent / (heatmap.nodes + silent) if silent else 0.0


def _silent(status: DaemonStatus) -> int:
    return status.missing.silent if status.fleet_fault is None else 0


def _table_size(heatmap: Heatmap, activity: Activity, status: DaemonStatus) -> int:
    """Return the number of nodes in this process' table."""
    return activity.nodes if status.shared else heatmap.nodes


def content(
    heatmap: Heatmap,
    activity: Activity,
    status: DaemonStatus,
    *,
    families: Families,
    family: Family,
    now: float,
    unix_now: float,
    stale_after: float,
    address: str,
) -> list[Any]:
    """Return the content of the page; `family` colours the cells of the heat map.

    `now` and `unix_now` are the same moment: the store's clock, and Unix time. `address` is the base URL for reports.
    """
    level, sentence = summary(heatmap, activity, status)
    parts: list[Any] = [message(level, sentence, heading=True)]
    if status.query_fault is not None:
        parts.append(tags.p(printable(status.query_fault), class_="reason"))
    if status.fleet_fault is not None and status.fleet_fault != status.query_fault:
        parts.append(tags.p(printable(status.fleet_fault), class_="reason"))
    if status.delivery_fault is not None:
        reason = f"The store does not accept reports: {status.delivery_fault}"
        parts.append(tags.p(printable(reason), class_="reason"))
    parts.append(alerts_section(status.alerts, unix_now))
    parts.append(_key_figures(heatmap, activity, status))
    gone: Tag | str = ""
    if status.fleet_fault is None:
        gone = gone_section(status.missing, now, unix_now, shared=status.shared)
    if heatmap.nodes:
        # If only a few nodes are gone, the heat map comes first.
        cells = heatmap_section(heatmap, families, family, stale_after)
        parts += [gone, cells] if _silent_share(heatmap, status) >= _MISSING else [cells, gone]
        parts.append(most_loaded_section(heatmap, family))
    elif gone:
        parts.append(gone)
    elif status.fleet_fault is None and status.delivery_fault is None and not status.missing.heard:
        parts.append(_getting_started(stale_after, address))
    parts.append(
        tags.section(
            tags.h2("Query in PromQL", id="ask"),
            query_form(Form(), time_fields=False),
            class_="card",
            **{"aria-labelledby": "ask"},
        )
    )
    return parts


def _key_figures(heatmap: Heatmap, activity: Activity, status: DaemonStatus) -> Tag:
    held = _table_size(heatmap, activity, status)
    here = ", this replica" if status.shared else ""
    if status.query_fault is not None:
        prometheus, level = "down", "bad"
    elif status.no_answer_yet:
        prometheus, level = "not queried yet", "note"
    else:
        prometheus, level = "up", "ok"
    up = sum(upstream.up for upstream in status.upstreams)
    several = f"{up} of {len(status.upstreams)} up" if len(status.upstreams) > 1 else None
    refused = f"{short(activity.refused_rate)} refused" if activity.refused_rate >= 0.05 else "none refused"
    if status.shared:
        known = "unknown" if status.fleet_fault is not None else f"{heatmap.nodes:,}"
        nodes = _figure("Nodes", known, f"in the store; {held:,} at this replica")
    else:
        used = held / status.max_nodes
        share = f"{used:.0%}" if used >= 0.01 or not held else "under 1%"
        nodes = _figure("Nodes", f"{held:,}", f"{share} of {status.max_nodes:,}", activity.nodes_line)
    return tags.dl(
        nodes,
        _figure("Gone", f"{status.missing.silent:,}", f"in the last hour{here}"),
        _figure("Reports", f"{short(activity.reports_rate)}/s", f"{refused}{here}", activity.reports_line),
        _figure(
            "Queries",
            f"{short(activity.queries_rate)}/s",
            (f"p99 {upper_bound(activity.query_p99)}" if activity.query_p99 else "none in 5 min") + here,
            activity.queries_line,
        ),
        _figure(
            "Store" if status.shared else "Prometheus",
            tags.span(prometheus, class_=f"state {level}"),
            several or _host(status),
        ),
        _figure("Up for", duration(activity.uptime), f"version {__version__}"),
        class_="figures",
    )


def _figure(name: str, value: Any, more: str, line: list[float] | None = None) -> Tag:
    parts = [tags.dt(name), tags.dd(value, class_="value"), tags.dd(more, class_="more")]
    if line is not None and len(line) >= _MIN_POINTS:
        parts.append(tags.dd(sparkline(line, low=0.0), class_="trend"))
    return tags.div(*parts, class_="figure")


def _host(status: DaemonStatus) -> str:
    return status.upstreams[0].base.partition("://")[2] if status.upstreams else ""


def _getting_started(stale_after: float, address: str) -> Tag:
    return tags.section(
        tags.h2("Getting started", id="begin"),
        tags.p("Start a profiler on each node, or post a report by hand:"),
        tags.pre(
            tags.code(
                f"curl {address}/update_metrics -H 'Content-Type: application/json' \\\n"
                '     -d \'{"node_id": "node-1", "page_faults": 52103}\'\n\n'
                f"twistd -n profiler --orchestrator {address} --node-id node-1"
            ),
            tabindex="0",
        ),
        tags.p(f"The node appears here within seconds. It is removed {duration(stale_after)} after its last report."),
        class_="card",
        **{"aria-labelledby": "begin"},
    )
