"""How nodes are measured, as text: for one node, and a warning if the sources of the nodes differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.template import tags

from orchestratord.nodes.provenance import sources
from orchestratord.runtime.gil_yield import breathing
from orchestratord.web.pages.formatting import duration
from orchestratord.web.pages.layout import message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.web.template import Tag

    from orchestratord.nodes.provenance import Provenance
    from orchestratord.nodes.store import Entry

#: Sources named in the warning.
_NAMED = 5
#: Nodes counted before other threads get a turn: half a millisecond.
_NODES_PER_SLICE = 5000


def measured_by(provenance: Provenance | None) -> list[Tag]:
    """Return a line about how a node is measured, nothing if its report does not say."""
    if provenance is None:
        return []
    by = f"Measured by {provenance.source}" if provenance.source else "Measured"
    over = f" in intervals of {duration(provenance.interval)}" if provenance.interval else ""
    version = f", profiler {provenance.version}" if provenance.version else ""
    return [tags.p(f"{by}{over}{version}.", class_="notes")]


def mixed_sources(entries: Sequence[Entry]) -> list[Tag]:
    """Return a warning if the nodes are measured by different sources, else nothing. For a pool thread."""
    counts: dict[str, int] = {}
    for start in breathing(range(0, len(entries), _NODES_PER_SLICE), 1):
        part = sources(entry.report.provenance for entry in entries[start : start + _NODES_PER_SLICE])
        for source, count in part.items():
            counts[source] = counts.get(source, 0) + count
    if len(counts) < 2:
        return []
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count:,} by {source}" for source, count in most[:_NAMED])
    more = f", and by {len(most) - _NAMED:,} more" if len(most) > _NAMED else ""
    return [
        message("warn", f"Nodes are measured by different sources, whose values cannot be compared: {named}{more}.")
    ]
