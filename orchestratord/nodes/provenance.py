"""How a node was measured, as its profiler says: by what source, over which interval, by which version. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The longest word, in characters, and the longest interval, in seconds.
MAX_WORD, MAX_INTERVAL = 64, 86_400

#: The word for what counts, such as `ebpf-kprobe` or `procfs`: no character that means anything in a label or markup.
Source = Annotated[str, Meta(min_length=1, max_length=MAX_WORD, pattern=r"^[A-Za-z0-9._+/:-]+\Z")]
Interval = Annotated[float, Meta(gt=0, le=MAX_INTERVAL)]
Version = Annotated[str, Meta(min_length=1, max_length=MAX_WORD, pattern=r"^[A-Za-z0-9._+~:-]+\Z")]

#: The fields of a report that are no family and say how it was measured, in the order of `Said`.
FIELDS: dict[str, Any] = {"source": Source, "interval_seconds": Interval, "profiler_version": Version}

#: What a report said: source, interval in seconds, version; UNSET for a field that it does not have.
Said = tuple[str | UnsetType, float | UnsetType, str | UnsetType]
#: What is stored of it; None for a field that was not said.
Stored = tuple[Source | None, Interval | None, Version | None]

#: Different provenances that are remembered. A fleet has a handful; beyond this number each report has its own object.
MAX_KNOWN = 1000


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """How a node was measured. Shared by all nodes that are measured alike, and never changed.

    `labels` are the labels of `orchestrator_node_info` beside the node's id, as the text exposition has them. A field
    that was not said is None, and empty among the labels.
    """

    source: str | None
    interval: float | None
    version: str | None
    labels: str

    @property
    def stored(self) -> Stored:
        """What makes the same provenance again."""
        return self.source, self.interval, self.version

    @property
    def label_values(self) -> tuple[str, str, str]:
        """The values of the labels `source`, `interval` and `version`."""
        interval = "" if self.interval is None else f"{self.interval:g}"
        return self.source or "", interval, self.version or ""

    @property
    def fields(self) -> dict[str, str | float]:
        """What was said, under the names that a report has for it."""
        return {name: value for name, value in zip(FIELDS, self.stored, strict=True) if value is not None}


class Provenances:
    """Gives the one Provenance for what reports say. Any thread may ask: two objects of one content do no harm."""

    def __init__(self) -> None:
        self._nothing: dict[Said | Stored, Provenance | None] = {
            (UNSET, UNSET, UNSET): None,
            (None, None, None): None,
        }
        self._known = dict(self._nothing)

    def of(self, said: Said | Stored) -> Provenance | None:
        """Return the provenance of valid values, None if nothing was said."""
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
    """Return why reports so far apart do not go with the limit after which a node is stale, None if they do."""
    interval = provenance.interval
    if interval is None or 2 * interval <= stale_after:
        return None
    limits = f"interval_seconds {interval:g}, and a node is stale {stale_after:g} s after its last report"
    if interval >= stale_after:
        return f"{limits}: the node is absent between two reports"
    return f"{limits}: one lost report makes the node absent"


def sources(provenances: Iterable[Provenance | None]) -> dict[str, int]:
    """Return how many nodes each source measures, the most frequent first; nodes that name no source are left out."""
    counts: dict[str, int] = {}
    for provenance in provenances:
        if provenance is not None and provenance.source is not None:
            counts[provenance.source] = counts.get(provenance.source, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
