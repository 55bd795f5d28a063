"""What the tests know of Grafana's dashboards: their panels, and their queries with the variables filled in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = sorted((ROOT / "etc/grafana/dashboards").glob("*.json"))

#: What PromQL has in the place of names; functions are told by their parenthesis.
_KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}


class Ask(NamedTuple):
    """A query of a dashboard, ready to be asked; `where` says which panel it is from."""

    where: str
    expr: str
    is_range: bool


def load(path: Path) -> dict[str, Any]:
    """Return a dashboard."""
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something, those of collapsed rows included."""
    found = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", ()))]
    return [panel for panel in found if panel["type"] != "row"]


def asks(board: dict[str, Any], **variables: str) -> list[Ask]:
    """Return the dashboard's queries, with the variables filled in; what is left of a `$` is a mistake."""
    found = [
        Ask(f"{board['title']}: {panel['title']} {target['refId']}", target["expr"], target["range"])
        for panel in panels(board)
        for target in panel["targets"]
    ]
    found += [
        Ask(f"{board['title']}: {note['name']}", note["expr"], is_range=True) for note in board["annotations"]["list"]
    ]
    return [Ask(where, _filled(expr, variables), is_range) for where, expr, is_range in found]


def metric_names(expr: str) -> set[str]:
    """Return the names of the metrics that an expression reads."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    words = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", bare)
    return {word for word in words if word.lower() not in _KEYWORDS}


def _filled(expr: str, variables: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return variables[match[1] or match[2]]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, expr)
