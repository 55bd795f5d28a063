"""What the front page names: the nodes that are gone, and the alerts that are firing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.web.template import Tag, tags

from orchestratord.nodes.departed import DELETED
from orchestratord.promql.alerts import level
from orchestratord.web.pages.formatting import clock, counted, lasting, printable, stamp
from orchestratord.web.pages.layout import node_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.departed import Gone, Missing
    from orchestratord.promql.alerts import Alert

#: Nodes, and alerts, that are named.
_NAMED = 20


def gone_section(missing: Missing, now: float, unix_now: float, *, shared: bool) -> Tag | str:
    """Return who left in the last hour, the last to leave first; `now` and `unix_now` are one moment, as elsewhere."""
    nodes = sorted(missing.nodes, key=lambda gone: (-gone.left, gone.node_id))
    if not nodes:
        return ""
    total = len(nodes) + missing.unnamed
    more: list[Any] = []
    if total > _NAMED:
        more.append(tags.a("all as JSON", href="/nodes?gone=true"))
        more.insert(0, f"And {total - _NAMED:,} more: ")
    if shared:
        more.append(" These reported to this replica, and the store has no newer report of them.")
    return tags.section(
        tags.h2(_heading(missing.silent, total - missing.silent), id="gone"),
        tags.ul(*[_gone(gone, now, unix_now) for gone in nodes[:_NAMED]], class_="gone"),
        tags.p(*more, class_="notes") if more else "",
        class_="card",
        **{"aria-labelledby": "gone"},
    )


def _heading(silent: int, deleted: int) -> str:
    if not silent:
        return f"Deleted in the last hour: {counted(deleted, 'node')}"
    return f"Gone in the last hour: {counted(silent, 'node')}{f', and {deleted:,} deleted' if deleted else ''}"


def _gone(gone: Gone, now: float, unix_now: float) -> Tag:
    age = now - gone.seen
    last = tags.time(clock(unix_now - age), datetime=stamp(unix_now - age))
    why = "deleted; " if gone.reason == DELETED else ""
    return tags.li(
        node_link(gone.node_id),
        tags.span(f"{why}last report {lasting(age)} ago, ", last, class_="more"),
    )


def alerts_section(alerts: Sequence[Alert], unix_now: float) -> Tag | str:
    """Return the alerts that are firing, by the upstream; nothing if none is, or if it does not say."""
    if not alerts:
        return ""
    shown = alerts[:_NAMED]
    left_out = len(alerts) - len(shown)
    return tags.section(
        tags.h2(f"Firing: {counted(len(alerts), 'alert')}", id="alerts"),
        tags.ul(*[_alert(alert, unix_now) for alert in shown], class_="alerts"),
        tags.p(f"And {left_out:,} more: ", tags.a("all as JSON", href="/api/v1/alerts"), class_="notes")
        if left_out
        else "",
        class_="card",
        **{"aria-labelledby": "alerts"},
    )


def _alert(alert: Alert, unix_now: float) -> Tag:
    parts: list[Any] = [
        tags.b(printable(alert.name)),
        tags.span(printable(alert.severity), class_="severity") if alert.severity else "",
    ]
    if alert.node_id:
        parts += [" ", node_link(alert.node_id)]
    if alert.since is not None:
        parts.append(tags.span(f" for {lasting(unix_now - alert.since)}", class_="more"))
    if alert.summary:
        parts.append(tags.p(printable(alert.summary), class_="more"))
    return tags.li(*parts, class_=level(alert.severity))
