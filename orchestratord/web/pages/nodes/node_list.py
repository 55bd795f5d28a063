"""Selects the nodes of the list: filters, sorts, and cuts into pages. No I/O; for a pool thread."""

from __future__ import annotations

import re
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestratord.errors import BadRequest
from orchestratord.runtime.gil_yield import breathing, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestratord.nodes.families import Families
    from orchestratord.nodes.store import Entry

#: Nodes on a page.
ROWS = 100
#: The longest search text in characters: as long as an id.
MAX_FIND = 253
_MAX_PAGE = 100_000
#: Nodes that are filtered or sorted before other threads get a turn.
_BLOCK = 1000
_NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][+-]?\d{1,2})?\Z", re.ASCII)

ID, AGE = "id", "age"


class NodeQuery(NamedTuple):
    """Filter and order of the list. `by`, `low` and `high` filter by the age in seconds or by a metric."""

    find: str = ""
    sort: str = ID
    descending: bool = False
    by: str = ""
    low: float | None = None
    high: float | None = None
    page: int = 1
    #: The index of the metric among a node's values; -1 if it is not a metric.
    sorted_by: int = -1
    filtered_by: int = -1


class NodeRow(NamedTuple):
    """A row: the id, seconds since the last report, and the values in the order of the families."""

    node_id: str
    age: float
    values: Sequence[float | None]


class NodeListPage(NamedTuple):
    """One page of the matching nodes. Pages count from 1; `matching` and `nodes` are numbers of nodes."""

    rows: list[NodeRow]
    page: int
    pages: int
    matching: int
    nodes: int


def parse_node_query(args: Mapping[str, Sequence[str]], families: Families) -> NodeQuery:
    """Parse the parameters of the page; raises BadRequest with a text that names the wrong parameter."""
    given = {
        name: (args.get(name) or [""])[0].strip() for name in ("find", "sort", "order", "by", "min", "max", "page")
    }
    names = list(families.names)
    if len(given["find"]) > MAX_FIND:
        raise BadRequest(f"invalid parameter 'find': longer than {MAX_FIND} characters")
    sort, by = given["sort"] or ID, given["by"]
    if sort not in {ID, AGE, *names}:
        raise BadRequest(f"invalid parameter 'sort': must be id, age or a metric, not {sort[:80]!a}")
    if by not in {"", AGE, *names}:
        raise BadRequest(f"invalid parameter 'by': must be age or a metric, not {by[:80]!a}")
    if given["order"] not in {"", "asc", "desc"}:
        raise BadRequest(f"invalid parameter 'order': must be asc or desc, not {given['order'][:20]!a}")
    low, high = _number("min", given["min"]), _number("max", given["max"])
    if not by and not (low is high is None):
        raise BadRequest("invalid parameter 'by': 'min' and 'max' need it: age or a metric")
    text = given["page"] or "1"
    page = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if not 1 <= page <= _MAX_PAGE:
        raise BadRequest(f"invalid parameter 'page': must be 1 to {_MAX_PAGE}, not {text[:20]!a}")
    return NodeQuery(
        find=given["find"].lower(),
        sort=sort,
        descending=given["order"] == "desc" or (not given["order"] and sort in names),
        by=by,
        low=low,
        high=high,
        page=page,
        sorted_by=names.index(sort) if sort in names else -1,
        filtered_by=names.index(by) if by in names else -1,
    )


def select_page(entries: list[Entry], query: NodeQuery, now: float) -> NodeListPage:
    """Return a page of the matching entries, the last page if the number is too high. For a pool thread.

    Nodes that did not report the metric come last; a filter by the metric does not match them.
    """
    matches = _matcher(query, now)
    matching = [entry for entry in breathing(entries, _BLOCK) if matches(entry)]
    pages = max(1, -(-len(matching) // ROWS))
    page = min(query.page, pages)
    key = _key(query)
    reverse = query.sort == ID and query.descending
    blocks = []
    for at in range(0, len(matching), _BLOCK):
        blocks.append(sorted(matching[at : at + _BLOCK], key=key, reverse=reverse))
        pause()
    ordered = breathing(merge(*blocks, key=key, reverse=reverse), _BLOCK)
    shown = islice(ordered, (page - 1) * ROWS, page * ROWS)
    rows = [NodeRow(entry.report.node_id, max(0.0, now - entry.seen), entry.report.values) for entry in shown]
    return NodeListPage(rows, page, pages, len(matching), len(entries))


def _matcher(query: NodeQuery, now: float) -> Callable[[Entry], bool]:
    find, at, low, high = query.find, query.filtered_by, query.low, query.high

    def matches(entry: Entry) -> bool:
        if find not in entry.report.node_id.lower():
            return False
        if low is high is None:
            return True
        value = entry.report.values[at] if at >= 0 else max(0.0, now - entry.seen)
        return value is not None and (low is None or value >= low) and (high is None or value <= high)

    return matches


def _key(query: NodeQuery) -> Callable[[Entry], Any]:
    at, sign = query.sorted_by, -1 if query.descending else 1
    if query.sort == ID:
        return lambda entry: entry.report.node_id
    if query.sort == AGE:  # the oldest was seen first
        return lambda entry: (-sign * entry.seen, entry.report.node_id)

    def by_value(entry: Entry) -> tuple[bool, float, str]:
        value = entry.report.values[at]
        return (value is None, 0.0 if value is None else sign * value, entry.report.node_id)

    return by_value


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.match(text):
        raise BadRequest(f"invalid parameter '{name}': not a number: {text[:40]!a}")
    return float(text)
