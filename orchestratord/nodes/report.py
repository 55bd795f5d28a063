"""What a report is, and what a node may call itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.provenance import Provenance

#: The most seconds by which a report's timestamp may be ahead of this server's clock.
MAX_AHEAD = 600

_LONGEST_ID = 253
#: No character that has a meaning in a URL, a log line, a label, or markup.
_ID_CHARACTERS = "A-Za-z0-9._:-"
_NO_ID_CHARACTER = re.compile(f"[^{_ID_CHARACTERS}]")

#: The id of a node, as a type for msgspec.
NodeId = Annotated[str, Meta(min_length=1, max_length=_LONGEST_ID, pattern=rf"^[{_ID_CHARACTERS}]+\Z")]
#: The id of a node, for `fullmatch`.
NODE_ID = re.compile(rf"[{_ID_CHARACTERS}]{{1,{_LONGEST_ID}}}")


def as_node_id(text: str) -> str:
    """Return the text with `-` for each character that an id must not have, cut to the longest id."""
    return _NO_ID_CHARACTER.sub("-", text)[:_LONGEST_ID]


class NodeReport(msgspec.Struct, frozen=True, gc=False):
    """What one node did in one bucket. Valid and immutable.

    `values` are in the order of the families, None for a family that the node did not report. `timestamp` is the end of
    the bucket by the node's clock, `received_at` the arrival by ours, both in Unix seconds. `lines` are the samples in
    the text exposition, one item for each family (empty if the value is None), rendered when the report arrives; the
    tuple is empty if nodes are not exposed. `row` is the report as the write-ahead log takes it, empty where there is
    no such log (see `orchestratord.remote_write.sample_row`); it is packed while a body is decoded, since decoding is
    done in slices and storing is not. `provenance` is how it was measured, None if the report does not say.
    """

    node_id: str
    values: tuple[float | None, ...]
    timestamp: float | None
    received_at: float
    lines: tuple[bytes, ...]
    row: bytes = b""
    provenance: Provenance | None = None


class Renderer(Protocol):
    """Renders a report's samples: `exposition.SampleRenderer`, or `unrendered` if nodes are not exposed."""

    def __call__(
        self,
        node_id: str,
        values: tuple[float | None, ...],
        received_at: float,
        timestamp: float | None = None,
        provenance: Provenance | None = None,
    ) -> tuple[bytes, ...]:
        """Return one item for each family, in order, and three more: time of arrival, delay, provenance.

        Return an empty tuple if nodes are not exposed.
        """
        ...


class Packer(Protocol):
    """Packs a report's row: `orchestratord.remote_write.sample_row.SampleRowFormat.sample`."""

    def __call__(self, node_id: str, values: Sequence[float | None], at: float) -> bytes:
        """Return the row of a node's values (None: no sample) at a time in Unix seconds."""
        ...
