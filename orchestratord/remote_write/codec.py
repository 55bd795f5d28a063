"""Encodes rows as the body of a remote-write 1.0 request: a protobuf in snappy's block format. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from cramjam import snappy

from orchestratord.remote_write.sample_row import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestratord.remote_write.sample_row import SampleRow

#: The headers of a request, except those that HTTP itself needs.
HEADERS = (
    ("Content-Type", "application/x-protobuf"),
    ("Content-Encoding", "snappy"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
)

#: The tag before a field: its number and its wire type (2: with its length first; 1: a double; 0: a varint).
_TIMESERIES = b"\x0a"  # WriteRequest.timeseries
_LABELS, _SAMPLES = b"\x0a", b"\x12"  # TimeSeries.labels, .samples
_LABEL_NAME, _LABEL_VALUE = b"\x0a", b"\x12"  # Label.name, .value
_SAMPLE_VALUE, _SAMPLE_TIMESTAMP = b"\x09", b"\x10"  # Sample.value, .timestamp

_DOUBLE = len(ABSENT)
#: The timestamps whose varint has 6 bytes: from 1971 until 2109.
_USUAL = range(2**35, 2**42)
#: Protobuf encodes a negative number in 64 bits. A store refuses a sample with such a timestamp, and no others.
_64_BITS = 2**64 - 1
#: The most templates that are kept; there may be one for each length of an id and each choice of absent values.
_MAX_TEMPLATES = 1024


class Encoded(NamedTuple):
    """The body of a request, and how many samples are in it."""

    body: bytes
    samples: int


class _Times(NamedTuple):
    """The samples of a node: for each time, in order, the values."""

    node_id: bytes
    times: Sequence[tuple[int, bytes]]


class Encoder:
    """Makes requests of rows. `names` are the names of the rows' values, `labels` the external labels of every series.

    Belongs to one thread.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[tuple[str, str]]) -> None:
        before = [label for label in labels if label[0] < "node_id"]
        self._starts = [b"".join(_label(*label) for label in sorted([("__name__", name), *before])) for name in names]
        self._end = b"".join(_label(*label) for label in sorted(labels) if label[0] > "node_id")
        before_timestamp = self._end + _SAMPLES + _varint(2 + 6 + _DOUBLE) + _SAMPLE_TIMESTAMP
        #: From the id up to the value, for a timestamp of 6 bytes; and how long it is without the id.
        self._middle = b"%b" + before_timestamp.replace(b"%", b"%%") + b"%c%c%b" + _SAMPLE_VALUE
        self._middle_length = len(before_timestamp) + 6 + len(_SAMPLE_VALUE)
        self._values = struct.Struct(f"{_DOUBLE}s" * len(names)).unpack
        #: The pieces of a row's series, by what `_template` makes them from.
        self._templates: dict[int, list[bytes]] = {}

    def encode(self, rows: Sequence[SampleRow]) -> Encoded:
        """Return the request for rows in the order of their arrival; of a node's rows with one time, the last counts.

        Each series is in the request once, with its samples in the order of their times.
        """
        parts: list[bytes] = []
        samples = 0
        others: list[_Times] = []
        nodes: Iterable[SampleRow] = rows
        if len({row.node_id for row in rows}) < len(rows):
            nodes, others = _apart(rows)
        templates, middle, high, unpack = self._templates, self._middle, _High(), self._values
        for node_id, at, values in nodes:
            if at not in _USUAL:
                others.append(_Times(node_id, ((at, values),)))
                continue
            key = len(node_id)
            found = unpack(values)
            if ABSENT in found:
                key |= sum(1 << index for index, value in enumerate(found, 8) if value == ABSENT)
                found = tuple([value for value in found if value != ABSENT])
            pieces = templates.get(key) or self._template(key)
            # The timestamp's varint is made by hand; its last four bytes stay the same for 16 seconds.
            own = middle % (node_id, at & 0x7F | 0x80, at >> 7 & 0x7F | 0x80, high[at >> 14])
            pieces[1::3] = (own,) * len(found)
            pieces[2::3] = found
            parts += pieces
            samples += len(found)
        for node in others:
            parts += self._series(node)
            samples += sum(value != ABSENT for _, values in node.times for value in self._values(values))
        return Encoded(bytes(snappy.compress_raw(b"".join(parts))), samples)

    def _series(self, node: _Times) -> list[bytes]:
        """Return the series of a node, for any number of times and any timestamps."""
        label = _node_label(node.node_id) + self._end
        # The timestamp comes first, which protobuf allows: so the part that all series of a row share is in one piece.
        heads = [_SAMPLE_TIMESTAMP + _varint(timestamp & _64_BITS) + _SAMPLE_VALUE for timestamp, _ in node.times]
        heads = [_SAMPLES + _varint(len(head) + _DOUBLE) + head for head in heads]
        found: list[bytes] = []
        columns = zip(*(self._values(values) for _, values in node.times), strict=True)
        for start, column in zip(self._starts, columns, strict=True):
            samples = b"".join([head + value for head, value in zip(heads, column, strict=True) if value != ABSENT])
            if samples:
                found.append(_field(_TIMESERIES, start + label + samples))
        return found

    def _template(self, key: int) -> list[bytes]:
        """Return the pieces of the series of a row, three for each series.

        They are: everything before the id; a place for the id and everything up to the value, which is the same for all
        series of the row; a place for the value.

        The lowest 8 bits of the key are the length of the id; each bit above them tells whether a value is absent.
        """
        length, absent = key & 0xFF, key >> 8
        label = _node_label(bytes(length))[:-length]
        pieces: list[bytes] = []
        for index, start in enumerate(self._starts):
            if not absent >> index & 1:
                before = start + label
                size = len(before) + length + self._middle_length + _DOUBLE
                pieces += (_TIMESERIES + _varint(size) + before, b"", b"")
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        self._templates[key] = pieces
        return pieces


class _High(dict[int, bytes]):
    """The last four bytes of the varint of a usual timestamp, by its bits above the lowest 14."""

    def __missing__(self, key: int) -> bytes:
        self[key] = high = _varint(key)
        return high


def _apart(rows: Iterable[SampleRow]) -> tuple[list[SampleRow], list[_Times]]:
    """Return the rows of nodes with a single row, and the samples of the other nodes."""
    nodes: dict[bytes, dict[int, SampleRow]] = {}
    for row in rows:
        nodes.setdefault(row.node_id, {})[row.timestamp] = row
    alone: list[SampleRow] = []
    others: list[_Times] = []
    for node_id, found in nodes.items():
        if len(found) == 1:
            alone += found.values()
        else:
            others.append(_Times(node_id, [found[timestamp][1:] for timestamp in sorted(found)]))
    return alone, others


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _label(name: str, value: str | bytes) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return _field(_LABELS, _field(_LABEL_NAME, name.encode()) + _field(_LABEL_VALUE, content))


def _node_label(node_id: bytes) -> bytes:
    return _label("node_id", node_id)
