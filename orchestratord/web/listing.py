"""The JSON of /nodes. Pure; made in steps short enough that a pool thread never holds the interpreter for long."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestratord.nodes import Entry

#: Nodes sorted or encoded in one call, which holds the interpreter's lock for about a millisecond.
_BLOCK = 1000

_encode = msgspec.json.encode


def details(entry: Entry, names: Sequence[str], now: float, unix_now: float, stale_after: float) -> dict[str, Any]:
    """Return what is known of a node; `now` is monotonic, `unix_now` the Unix time of the same moment, in seconds."""
    age = max(0.0, now - entry.seen)
    values = zip(names, entry.report.values, strict=True)
    return {
        "node_id": entry.report.node_id,
        "last_report": round(unix_now - age, 3),
        "age_seconds": round(age, 3),
        "expires_in_seconds": round(stale_after - age, 3),
        "metrics": {name: value for name, value in values if value is not None},
    }


def names_json(entries: list[Entry]) -> bytes:
    """Return the answer of `/nodes`: the ids, sorted."""
    return _nodes_json(entry.report.node_id for entry in sorted_by_id(entries))


def details_json(entries: list[Entry], names: Sequence[str], now: float, unix_now: float, stale_after: float) -> bytes:
    """Return the answer of `/nodes?details=true`: an object for each node, sorted by id."""
    return _nodes_json(details(entry, names, now, unix_now, stale_after) for entry in sorted_by_id(entries))


def sorted_by_id(entries: list[Entry]) -> Iterator[Entry]:
    """Return the entries sorted by node id, as plain texts; in steps of about a millisecond."""

    def by_id(entry: Entry) -> str:
        return entry.report.node_id

    blocks = [sorted(entries[start : start + _BLOCK], key=by_id) for start in range(0, len(entries), _BLOCK)]
    return merge(*blocks, key=by_id)


def _nodes_json(items: Iterator[Any]) -> bytes:
    parts: list[bytes] = []
    while block := list(islice(items, _BLOCK)):
        parts.append(_encode(block)[1:-1])
    return b'{"nodes":[%s]}' % b",".join(parts)
