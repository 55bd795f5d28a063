"""A row: the samples of one report, or the stale markers of a node, as the write-ahead log has them. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from orchestratord.nodes.families import LAST_REPORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.families import Families

#: Prometheus' stale marker, as a double. It is a signalling NaN, so it is never converted to a Python float.
STALE = (0x7FF0000000000002).to_bytes(8, "little")
#: The double for a value without a sample.
ABSENT = (0x7FF8000000000000).to_bytes(8, "little")

_NAN = float("nan")
#: The offset of the values in the bytes of a row.
_VALUES_AT = struct.calcsize("<Bq")
#: 2^47 milliseconds: the year 6429. A later timestamp is replaced by it, one before 1970 by 1970; a store refuses both.
MAX_MILLISECONDS = 2**47


class SampleRow(NamedTuple):
    """The samples of one node at one time: `values` holds a little-endian double for each name, ABSENT for no sample.

    `timestamp` is in milliseconds since 1970.
    """

    node_id: bytes
    timestamp: int
    values: bytes


def row_names(families: Families) -> tuple[str, ...]:
    """Return the names of a row's values, in their order.

    The last value is the row's own timestamp, in seconds, and not the arrival: a report that is posted twice, to two
    replicas, is one and the same sample.
    """
    return (*families.names, LAST_REPORT)


def with_value(row: bytes, index: int, value: bytes) -> bytes:
    """Return the bytes of a row with the value number `index` replaced; `value` has 8 bytes."""
    at = _VALUES_AT + 8 * index
    return row[:at] + value + row[at + 8 :]


class SampleRowFormat:
    """Packs and unpacks rows whose values have these names; the last name is LAST_REPORT.

    A row is `<length of the id: B><timestamp: q><values: 8 bytes each><id>`, little-endian, without padding.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._size = 8 * len(names)
        self._sample = struct.Struct(f"<Bq{len(names)}d")
        self._row = struct.Struct(f"<Bq{self._size}s")

    def sample(self, node_id: str, values: Sequence[float | None], at: float) -> bytes:
        """Return the row of a node's values (None: no sample) at a time in Unix seconds."""
        milliseconds = min(max(round(at * 1000), 0), MAX_MILLISECONDS)
        if None in values:
            values = [_NAN if value is None else value for value in values]
        encoded = node_id.encode()
        return self._sample.pack(len(encoded), milliseconds, *values, milliseconds / 1000) + encoded

    def row(self, row: SampleRow) -> bytes:
        """Return the bytes of a row."""
        return self._row.pack(len(row.node_id), row.timestamp, row.values) + row.node_id

    def rows(self, payload: bytes) -> list[SampleRow]:
        """Return the rows of a payload, in order; raise ValueError if it does not consist of rows."""
        rows: list[SampleRow] = []
        head, unpack = self._row.size, self._row.unpack_from
        at, end = 0, len(payload)
        while at < end:
            if at + head > end:
                raise ValueError("a row is cut short")
            length, timestamp, values = unpack(payload, at)
            at += head + length
            if not length or at > end:
                raise ValueError("a row is cut short")
            rows.append(SampleRow(payload[at - length : at], timestamp, values))
        return rows
