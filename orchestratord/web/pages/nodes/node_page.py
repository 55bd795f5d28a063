"""The page of one node: the age of its last report, and each metric with its last hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.nodes.departed import DELETED
from orchestratord.promql.params import Query
from orchestratord.web.pages.formatting import counted, duration, iso_time, short, utc_time, with_unit, without_unit
from orchestratord.web.pages.layout import message, sparkline
from orchestratord.web.pages.nodes.sources import measured_by
from orchestratord.web.pages.query.graph_params import rounded_up
from orchestratord.web.pages.status.heatmap import LATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestratord.nodes.departed import Gone
    from orchestratord.nodes.families import Families, Family
    from orchestratord.nodes.store import Entry
    from orchestratord.promql.range_vector import RangeAnswer
    from orchestratord.web.pages.nodes.medians import FleetMedians

#: The length of a line in seconds, and the seconds between two points.
HOUR = 3600
STEP = 30
#: The timeout of the query for the lines; the page is then shown without them.
PATIENCE = "2s"


class NodeHistory(NamedTuple):
    """The last hour of each family, oldest point first, None for a gap. `fault` is why the query failed, or None."""

    lines: Mapping[str, list[float | None]]
    fault: str | None


def history_query(node_id: str, families: Families, unix_now: float, matchers: str) -> Query:
    """Return one range query for all lines of a node. A valid node id needs no escape in PromQL.

    `matchers` is that of the NodeDirectory: nothing, or `,name="value"` to add to the matchers.
    """
    end = int(rounded_up(unix_now))
    promql = f'max by (__name__) ({{__name__=~"{"|".join(families.names)}",node_id="{node_id}"{matchers}}})'
    params = (
        ("query", promql),
        ("start", str(end - HOUR)),
        ("end", str(end)),
        ("step", str(STEP)),
        ("timeout", PATIENCE),
    )
    return Query("/api/v1/query_range", params, 2.0)


def parse_history(found: RangeAnswer, query: Query) -> NodeHistory:
    """Return the lines in the answer to a `history_query`."""
    start = float(dict(query.params)["start"])
    lines: dict[str, list[float | None]] = {}
    for series in found.series:
        line: list[float | None] = [None] * (HOUR // STEP + 1)
        for at, value in series.points:
            index = round((at - start) / STEP)
            if 0 <= index < len(line):
                line[index] = value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124 - NaN
        lines[series.labels.get("__name__", "")] = line
    return NodeHistory(lines, None)


def content(
    entry: Entry,
    families: Families,
    history: NodeHistory,
    medians: FleetMedians,
    *,
    now: float,
    unix_now: float,
    stale_after: float,
    matchers: str,
) -> list[Any]:
    """Return the content of the page. `now` and `unix_now` are the same moment: the store's clock, and Unix time.

    `medians` are over all nodes, or over 0 nodes if they are not known; `matchers` as for `history_query`.
    """
    node_id = entry.report.node_id
    age = max(0.0, now - entry.seen)
    last = unix_now - age
    late = age >= LATE * stale_after
    when = tags.time(utc_time(last), datetime=iso_time(last))
    parts: list[Any] = [
        tags.p(tags.a("Status", href="/"), " / ", tags.span("node"), class_="path"),
        tags.h1(node_id, class_="title id"),
        message(
            "warn" if late else "ok",
            f"Last report {duration(age)} ago, at ",
            when,
            f". The node is removed in {duration(stale_after - age)} if no other report arrives.",
        ),
    ]
    parts += measured_by(entry.report.provenance)
    if history.fault is not None:
        parts.append(message("bad", "The last hour is not available: ", history.fault))
    selected = f'{{node_id="{node_id}"{matchers}}}'
    medians_or_none = medians.values or [None] * len(entry.report.values)
    cards = [
        _card(family, value, history.lines.get(family.name), selected, known=history.fault is None, median=median)
        for family, value, median in zip(families, entry.report.values, medians_or_none, strict=True)
    ]
    parts.append(tags.ul(*cards, class_="metriccards"))
    if medians.nodes:
        parts.append(
            tags.p(
                "Each median is over the nodes that report the metric, out of"
                f" {counted(medians.nodes, 'node')} including this one.",
                class_="notes",
            )
        )
    return parts


def unknown_node_content(node_id: str, gone: Gone | None, now: float, unix_now: float) -> list[Any]:
    """Return the content for a node without a fresh report; `gone` is its entry if it left in the last hour.

    `now` and `unix_now` as for `content`.
    """
    last_report: list[Any] = []
    if gone is not None:
        last = unix_now - (now - gone.seen)
        why = "it was deleted" if gone.reason == DELETED else "it has been silent since"
        when = tags.time(utc_time(last), datetime=iso_time(last))
        last_report.append(tags.p(f"Its last report came {duration(now - gone.seen)} ago, at ", when, f"; {why}."))
    return [
        tags.p(tags.a("Status", href="/"), " / ", tags.span("node"), class_="path"),
        tags.h1(node_id[:253], class_="title id"),
        message("bad", "No fresh report from this node. It is gone, or the name is wrong."),
        *last_report,
        tags.p(tags.a("Back to the status page", href="/")),
    ]


def _compared_to_median(value: float | None, median: float, family: Family) -> str:
    """Return the median of all nodes, and the value as a multiple of it."""
    if value is None or median == 0 or (value < 0) != (median < 0):
        return f"the fleet's median: {with_unit(median, family)}"
    return f"{short(value / median)} times the fleet's median of {with_unit(median, family)}"


def _card(
    family: Family,
    value: float | None,
    line: list[float | None] | None,
    selected: str,
    *,
    known: bool,
    median: float | None,
) -> Tag:
    reported = [point for point in line or () if point is not None]
    parts: list[Any] = [
        tags.h2(tags.a(family.name, href=f"/graph?{urlencode({'q': family.name + selected})}")),
        tags.p("not reported" if value is None else with_unit(value, family), class_="value"),
    ]
    if median is not None:
        parts.append(tags.p(_compared_to_median(value, median, family), class_="more"))
    if reported:
        parts += [
            sparkline(line or [], low=min(0.0, *reported)),
            tags.p(
                f"last hour: {without_unit(min(reported), family)} to {with_unit(max(reported), family)}", class_="more"
            ),
        ]
    elif known:
        parts.append(tags.p("no data in Prometheus in the last hour", class_="more"))
    parts.append(tags.p(family.help, class_="help"))
    return tags.li(*parts, class_="card")
