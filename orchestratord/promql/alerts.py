"""The firing alerts, from Prometheus' API. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestratord.nodes.report import NodeId
from orchestratord.promql.params import Query, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The query of the status page; it may take 3 s.
ALERTS = Query("/api/v1/alerts", (), 3.0)
#: Bytes of the largest answer that is decoded, which takes 2 ms.
MAX_BYTES = 262_144
_MAX_TEXT = 300


class Alert(NamedTuple):
    """One firing alert. `node_id` is empty if it is about no node; `since` is in Unix seconds, None if unknown."""

    name: str
    severity: str
    node_id: str
    summary: str
    since: float | None


class _Alert(msgspec.Struct):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    state: str = ""
    activeAt: str = ""


class _AlertList(msgspec.Struct):
    alerts: list[_Alert]


class _AlertsAnswer(msgspec.Struct):
    data: _AlertList


_decode = msgspec.json.Decoder(_AlertsAnswer).decode
_is_node = msgspec.json.Decoder(NodeId).decode


def level(severity: str) -> str:
    """Return the level of a message on a page, `bad`, `warn` or `note`, for the label `severity`."""
    if severity in {"critical", "page", "error"}:
        return "bad"
    return "warn" if severity in {"warning", "warn"} else "note"


def firing(body: bytes) -> list[Alert] | None:
    """Return the firing alerts of an answer with status 200, the most severe first.

    None if it is longer than MAX_BYTES, or not in the format of the API.
    """
    if len(body) > MAX_BYTES:
        return None
    try:
        alerts = _decode(body).data.alerts
    except msgspec.DecodeError:
        return None
    found = [
        Alert(
            alert.labels.get("alertname", "")[:_MAX_TEXT],
            alert.labels.get("severity", "")[:40],
            node_id(alert.labels),
            (alert.annotations.get("summary") or alert.annotations.get("description", ""))[:_MAX_TEXT],
            _moment(alert.activeAt),
        )
        for alert in alerts
        if alert.state == "firing"
    ]
    return sorted(found, key=lambda alert: (("bad", "warn", "note").index(level(alert.severity)), alert.name))


def node_id(labels: Mapping[str, str]) -> str:
    """Return the label node_id of a series or an alert; empty if there is none, or if it is not a valid node id."""
    try:
        return _is_node(msgspec.json.encode(labels.get("node_id", "")))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return ""


def _moment(text: str) -> float | None:
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        return None
