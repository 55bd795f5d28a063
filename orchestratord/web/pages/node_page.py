"""The page of one node: how fresh it is, and each of its metrics with its last hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from orchestratord.nodes.departed import DELETED
from orchestratord.promql.params import Query
from orchestratord.web.pages.formatting import bare, clock, counted, lasting, measured, short, stamp
from orchestratord.web.pages.graph_params import soon
from orchestratord.web.pages.heatmap import LATE
from orchestratord.web.pages.layout import message, sparkline
from orchestratord.web.pages.mixed_sources import measured_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestratord.nodes.departed import Gone
    from orchestratord.nodes.families import Families, Family
    from orchestratord.nodes.store import Entry
    from orchestratord.promql.range_vector import RangeAnswer
    from orchestratord.web.pages.medians import FleetMedians

#: Seconds that the lines go back, and between their points.
HOUR = 3600
STEP = 30
#: Seconds after which the page stands without the lines.
PATIENCE = "2s"


class Past(NamedTuple):
    """The last hour of each family, oldest point first and None where there is none; or why there is no past."""

    lines: Mapping[str, list[float | None]]
    fault: str | None


def past_query(node_id: str, families: Families, unix_now: float, matchers: str) -> Query:
    """Return the one query for all lines of a node; its id is one that a node can have, and so needs no escape.

    `matchers` is a Fleet's.
    """
    end = int(soon(unix_now))
    promql = f'max by (__name__) ({{__name__=~"{"|".join(families.names)}",node_id="{node_id}"{matchers}}})'
    params = (
        ("query", promql),
        ("start", str(end - HOUR)),
        ("end", str(end)),
        ("step", str(STEP)),
        ("timeout", PATIENCE),
    )
    return Query("/api/v1/query_range", params, 2.0)


def past(found: RangeAnswer, query: Query) -> Past:
    """Return the lines in the answer to a past_query."""
    start = float(dict(query.params)["start"])
    lines: dict[str, list[float | None]] = {}
    for series in found.series:
        line: list[float | None] = [None] * (HOUR // STEP + 1)
        for at, value in series.points:
            index = round((at - start) / STEP)
            if 0 <= index < len(line):
                line[index] = value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124 - NaN
        lines[series.labels.get("__name__", "")] = line
    return Past(lines, None)


def content(
    entry: Entry,
    families: Families,
    past: Past,
    medians: FleetMedians,
    *,
    now: float,
    unix_now: float,
    stale_after: float,
    matchers: str,
) -> list[Any]:
    """Return what is on the page; `now` and `unix_now` are one moment, by the table's clock and the calendar's.

    `medians` are those of the fleet, or of no node if they are not known; `matchers` is a Fleet's.
    """
    node_id = entry.report.node_id
    age = max(0.0, now - entry.seen)
    last = unix_now - age
    late = age >= LATE * stale_after
    when = tags.time(clock(last), datetime=stamp(last))
    parts: list[Any] = [
        tags.p(tags.a("Fleet", href="/"), " / ", tags.span("node"), class_="path"),
        tags.h1(node_id, class_="title id"),
        message(
            "warn" if late else "ok",
            f"Last report {lasting(age)} ago, at ",
            when,
            f". Gone in {lasting(stale_after - age)} without another.",
        ),
    ]
    parts += measured_by(entry.report.provenance)
    if past.fault is not None:
        parts.append(message("bad", "The last hour is not to be had: ", past.fault))
    selected = f'{{node_id="{node_id}"{matchers}}}'
    middle = medians.values or [None] * len(entry.report.values)
    cards = [
        _card(family, value, past.lines.get(family.name), selected, known=past.fault is None, median=median)
        for family, value, median in zip(families, entry.report.values, middle, strict=True)
    ]
    parts.append(tags.ul(*cards, class_="metriccards"))
    if medians.nodes:
        parts.append(
            tags.p(
                "A median is that of the nodes that report the metric, out of"
                f" {counted(medians.nodes, 'node')}, this one included.",
                class_="notes",
            )
        )
    return parts


def unknown(node_id: str, gone: Gone | None, now: float, unix_now: float) -> list[Any]:
    """Return the page of a node of which there is no fresh report; `gone` is what is known of it since the last hour.

    `now` and `unix_now` are one moment, as elsewhere.
    """
    said: list[Any] = []
    if gone is not None:
        last = unix_now - (now - gone.seen)
        why = "it was deleted" if gone.reason == DELETED else "it has been silent since"
        when = tags.time(clock(last), datetime=stamp(last))
        said.append(tags.p(f"Its last report came {lasting(now - gone.seen)} ago, at ", when, f"; {why}."))
    return [
        tags.p(tags.a("Fleet", href="/"), " / ", tags.span("node"), class_="path"),
        tags.h1(node_id[:253], class_="title id"),
        message("bad", "No fresh report of this node. It is gone, or its name is another."),
        *said,
        tags.p(tags.a("Back to the fleet", href="/")),
    ]


def _beside(value: float | None, median: float, family: Family) -> str:
    """Return the fleet's median, and how many times that this value is."""
    if value is None or median == 0 or (value < 0) != (median < 0):
        return f"the fleet's median: {measured(median, family)}"
    return f"{short(value / median)} times the fleet's median of {measured(median, family)}"


def _card(
    family: Family,
    value: float | None,
    line: list[float | None] | None,
    selected: str,
    *,
    known: bool,
    median: float | None,
) -> Tag:
    drawn = [point for point in line or () if point is not None]
    parts: list[Any] = [
        tags.h2(tags.a(family.name, href=f"/graph?{urlencode({'q': family.name + selected})}")),
        tags.p("not reported" if value is None else measured(value, family), class_="value"),
    ]
    if median is not None:
        parts.append(tags.p(_beside(value, median, family), class_="more"))
    if drawn:
        parts += [
            sparkline(line or [], low=min(0.0, *drawn)),
            tags.p(f"last hour: {bare(min(drawn), family)} to {measured(max(drawn), family)}", class_="more"),
        ]
    elif known:
        parts.append(tags.p("nothing in Prometheus in the last hour", class_="more"))
    parts.append(tags.p(family.help, class_="help"))
    return tags.li(*parts, class_="card")
