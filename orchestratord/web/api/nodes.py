"""The JSON of /nodes, in parts: made on a pool thread, with a pause after each millisecond.

A join of all parts would need the memory twice, and hold the interpreter lock for tens of milliseconds.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from orchestratord.runtime.gil_yield import breathing, pause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestratord.nodes.departed import Gone
    from orchestratord.nodes.store import Entry

#: Nodes whose ids are sorted in one call.
_SORTED = 1000
#: Nodes in one part of an answer, with details or with ids alone: 1 ms. So few objects for a part do not start the
#: garbage collector either, which would go through lists of all nodes for 15 ms.
_TOLD, _NAMED = 100, 500

_OPENING, _CLOSING = b'{"nodes":[', b"]}"
_GONE = b'{"gone":['

_encode = msgspec.json.encode


def details(entry: Entry, names: Sequence[str], now: float, unix_now: float, stale_after: float) -> dict[str, Any]:
    """Return the JSON object of a node. `now` is monotonic, `unix_now` the Unix time of the same moment, in seconds."""
    age = max(0.0, now - entry.seen)
    values = zip(names, entry.report.values, strict=True)
    provenance = entry.report.provenance
    return {
        "node_id": entry.report.node_id,
        "last_report": round(unix_now - age, 3),
        "age_seconds": round(age, 3),
        "expires_in_seconds": round(stale_after - age, 3),
        **({} if provenance is None else provenance.fields),
        "metrics": {name: value for name, value in values if value is not None},
    }


def names_json(entries: list[Entry]) -> list[bytes]:
    """Return the answer of `/nodes`: the ids, sorted."""
    return _nodes_json((entry.report.node_id for entry in sorted_by_id(entries)), _NAMED)


def details_json(
    entries: list[Entry], names: Sequence[str], now: float, unix_now: float, stale_after: float
) -> list[bytes]:
    """Return the answer of `/nodes?details=true`: an object for each node, sorted by id."""
    told = (details(entry, names, now, unix_now, stale_after) for entry in sorted_by_id(entries))
    return _nodes_json(told, _TOLD)


def gone_json(gone: Sequence[Gone], now: float, unix_now: float) -> list[bytes]:
    """Return the answer of `/nodes?gone=true`: an object for each node that left, sorted by id."""
    told = (
        {
            "node_id": one.node_id,
            "last_report": round(unix_now - (now - one.seen), 3),
            "age_seconds": round(now - one.seen, 3),
            "gone_since": round(unix_now - (now - one.left), 3),
            "reason": one.reason,
        }
        for one in sorted(gone)
    )
    return _nodes_json(told, _TOLD, _GONE)


def sorted_by_id(entries: list[Entry]) -> Iterator[Entry]:
    """Return the entries sorted by node id. Call it on a pool thread if there are many."""

    def by_id(entry: Entry) -> str:
        return entry.report.node_id

    if len(entries) <= _SORTED:
        return iter(sorted(entries, key=by_id))
    starts = breathing(range(0, len(entries), _SORTED), 2)
    blocks = [sorted(entries[start : start + _SORTED], key=by_id) for start in starts]
    return merge(*blocks, key=by_id)


def _nodes_json(items: Iterator[Any], size: int, opening: bytes = _OPENING) -> list[bytes]:
    parts: list[bytes] = []
    while block := list(islice(items, size)):
        if parts:
            pause()
        parts.append((b"," if parts else opening) + _encode(block)[1:-1])
    if not parts:
        return [opening + _CLOSING]
    parts[-1] += _CLOSING
    return parts
