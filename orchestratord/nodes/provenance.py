"""How a node was measured, as its profiler reports it: source, interval, and version of the profiler. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The longest source or version, in characters, and the longest interval, in seconds.
MAX_WORD, MAX_INTERVAL = 64, 86_400

#: The name of a source, such as `ebpf-kprobe` or `procfs`. No character has a meaning in a label or in markup.
Source = Annotated[str, Meta(min_length=1, max_length=MAX_WORD, pattern=r"^[A-Za-z0-9._+/:-]+\Z")]
Interval = Annotated[float, Meta(gt=0, le=MAX_INTERVAL)]
Version = Annotated[str, Meta(min_length=1, max_length=MAX_WORD, pattern=r"^[A-Za-z0-9._+~:-]+\Z")]

#: The fields of a report that say how it was measured, in the order of `Said`.
FIELDS: dict[str, Any] = {"source": Source, "interval_seconds": Interval, "profiler_version": Version}

#: Source, interval in seconds, and version, as in a report; UNSET for a field that it does not have.
Said = tuple[str | UnsetType, float | UnsetType, str | UnsetType]
#: The same as it is stored; None for a field that was not in the report.
Stored = tuple[Source | None, Interval | None, Version | None]

#: The most provenances that are remembered, then all are forgotten. A fleet has a few of them.
MAX_KNOWN = 1000


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """How a node was measured. Immutable, and shared by all nodes that are measured in the same way.

    `labels` are the labels of `orchestrator_node_info` except `node_id`, as text for the exposition. A field that was
    not in the report is None, and an empty label.
    """

    source: str | None
    interval: float | None
    version: str | None
    labels: str

    @property
    def stored(self) -> Stored:
        """The fields, from which `Provenances.of` makes an equal object."""
        return self.source, self.interval, self.version

    @property
    def label_values(self) -> tuple[str, str, str]:
        """The values of the labels `source`, `interval` and `version`."""
        interval = "" if self.interval is None else f"{self.interval:g}"
        return self.source or "", interval, self.version or ""

    @property
    def fields(self) -> dict[str, str | float]:
        """The fields that were in the report, by their names there."""
        return {name: value for name, value in zip(FIELDS, self.stored, strict=True) if value is not None}


class Provenances:
    """Returns one shared Provenance for equal fields. For any thread: two equal objects do no harm."""

    def __init__(self) -> None:
        self._nothing: dict[Said | Stored, Provenance | None] = {
            (UNSET, UNSET, UNSET): None,
            (None, None, None): None,
        }
        self._known = dict(self._nothing)

    def of(self, said: Said | Stored) -> Provenance | None:
        """Return the provenance for valid fields, None if there are none."""
        try:
            return self._known[said]
        except KeyError:
            return self._learn(said)

    def _learn(self, said: Said | Stored) -> Provenance:
        source, interval, version = said
        source = None if isinstance(source, UnsetType) else source
        interval = None if isinstance(interval, UnsetType) else interval
        version = None if isinstance(version, UnsetType) else version
        made = Provenance(source, interval, version, "")
        shown = zip(("source", "interval", "version"), made.label_values, strict=True)
        made = msgspec.structs.replace(made, labels=",".join(f'{name}="{value}"' for name, value in shown))
        if len(self._known) >= MAX_KNOWN:
            self._known = dict(self._nothing)
        self._known[said] = made
        return made


def stale_warning(provenance: Provenance, stale_after: float) -> str | None:
    """Return a warning if the interval is too long for a node to stay fresh, else None; `stale_after` is in seconds."""
    interval = provenance.interval
    if interval is None or 2 * interval <= stale_after:
        return None
    limits = f"interval_seconds {interval:g}, and a node is stale {stale_after:g} s after its last report"
    if interval >= stale_after:
        return f"{limits}: the node is absent between two reports"
    return f"{limits}: one lost report makes the node absent"


def sources(provenances: Iterable[Provenance | None]) -> dict[str, int]:
    """Return how many nodes each source measures, the most frequent first, without nodes that name no source."""
    counts: dict[str, int] = {}
    for provenance in provenances:
        if provenance is not None and provenance.source is not None:
            counts[provenance.source] = counts.get(provenance.source, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
