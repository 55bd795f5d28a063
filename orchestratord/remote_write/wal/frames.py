"""The bytes of a segment, a piece of the spool: rows in, frames out, and back, whatever has become of them. Pure.

magic, version       what tells it from a foreign file
names                4 bytes of length, JSON, CRC-32: what the values of the rows stand for
frames               magic, CRC-32 of all that follows, length, number of rows, milliseconds since 1970, then the rows
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import msgspec

from orchestratord.remote_write.sample_row import ABSENT, SampleRowFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.remote_write.sample_row import SampleRow

VERSION = 1

#: Bytes of rows in a frame; a row that is longer has a frame to itself.
FRAME_BYTES = 65_536
#: Bytes of the longest head of a file.
MAX_HEAD = 1 << 20

_MAGIC = b"orchestratord spool "
_HEAD = _MAGIC + b"%d\n" % VERSION
_LENGTH = struct.Struct("<I")
_FRAME_MAGIC = b"\xf5row"
_FRAME = struct.Struct("<4sIIIq")
#: Where in a frame that begins which its checksum is of.
_CHECKED = struct.Struct("<IIq")
_BEFORE_CHECKED = _FRAME.size - _CHECKED.size
#: Bytes of the longest frame that is believed.
_MAX_FRAME = 1 << 24
#: So many places that look like a frame's beginning are tried behind a damage, and of so many bytes in all: clients
#: choose the values of rows, and the reactor waits for the reader.
_TRIES, _TRIED_BYTES = 1000, 1 << 22


class BadSegment(Exception):
    """A file is no segment that could be read; the text says why."""


class Scan(NamedTuple):
    """Frames that lie one behind the other.

    `rows` is how many they say to hold, `written` when the first was made (milliseconds since 1970), `size` how many
    bytes they take. `missing` is 0, or how many bytes a reader must have to see the frame behind them whole.
    """

    payload: bytes
    rows: int
    written: int
    size: int
    missing: int


class Content:
    """What the rows of a segment that was written with some names are to a reader with others.

    A name that the segment does not have is ABSENT; one that the reader does not have is left out.
    """

    def __init__(self, written: Sequence[str], names: Sequence[str]) -> None:
        self._format = SampleRowFormat(written)
        self._order: list[int | None] | None = None
        if tuple(written) != tuple(names):
            where = {name: 8 * index for index, name in enumerate(written)}
            self._order = [where.get(name) for name in names]

    def rows(self, payload: bytes) -> list[SampleRow]:
        """Return the rows of a payload; ValueError if they are none."""
        rows = self._format.rows(payload)
        order = self._order
        if order is None:
            return rows
        return [
            row._replace(values=b"".join(ABSENT if at is None else row.values[at : at + 8] for at in order))
            for row in rows
        ]


def head(names: Sequence[str]) -> bytes:
    """Return what a segment begins with."""
    described = msgspec.json.encode(names)
    checked = _LENGTH.pack(len(described)) + described
    return _HEAD + checked + _LENGTH.pack(crc32(checked))


def read_head(data: bytes) -> tuple[tuple[str, ...], int]:
    """Return the names that a segment was written with, and where its frames begin; raise BadSegment.

    `data` is the first MAX_HEAD bytes of it, or all.
    """
    if not data.startswith(_MAGIC):
        raise BadSegment("it is empty" if not data else "it is no spool of orchestratord")
    if not data.startswith(_HEAD):
        raise BadSegment(f"it is not of version {VERSION}")
    at = len(_HEAD)
    length = _LENGTH.unpack_from(data, at)[0] if at + 4 <= len(data) else len(data)
    end = at + 4 + length
    if end + 4 > len(data) or crc32(data[at:end]) != _LENGTH.unpack_from(data, end)[0]:
        raise BadSegment("its head is torn or damaged")
    try:
        return msgspec.json.decode(data[at + 4 : end], type=tuple[str, ...]), end + 4
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSegment(f"its head is none ({error})") from None


def frames(rows: Sequence[bytes], milliseconds: int, most: int = FRAME_BYTES) -> list[tuple[bytes, int]]:
    """Return rows in frames of at most `most` bytes of rows, or of one row, each with the number of its rows."""
    payload = b"".join(rows)
    if len(payload) <= most:
        return [(_frame(payload, len(rows), milliseconds), len(rows))]
    found: list[tuple[bytes, int]] = []
    first = size = 0
    for index, row in enumerate(rows):
        if size + len(row) > most and index > first:
            found.append((_frame(b"".join(rows[first:index]), index - first, milliseconds), index - first))
            first, size = index, 0
        size += len(row)
    found.append((_frame(b"".join(rows[first:]), len(rows) - first, milliseconds), len(rows) - first))
    return found


def scan(data: bytes, most: int) -> Scan:
    """Return the frames at the beginning of `data`, until they have `most` rows, or one is damaged or not whole."""
    payloads: list[bytes] = []
    at = rows = written = missing = 0
    end, size = len(data), _FRAME.size
    view = memoryview(data)
    while rows < most and at < end:
        if at + size > end:
            missing = size
            break
        magic, checksum, length, count, milliseconds = _FRAME.unpack_from(data, at)
        if magic != _FRAME_MAGIC or length > _MAX_FRAME:
            break
        after = at + size + length
        if after > end:
            missing = size + length
            break
        if crc32(view[at + _BEFORE_CHECKED : after]) != checksum:
            break
        if not payloads:
            written = milliseconds
        payloads.append(data[at + size : after])
        rows += count
        at = after
    return Scan(b"".join(payloads), rows, written, at, missing)


def resume(data: bytes) -> int | None:
    """Return where in `data`, which begins with a damaged frame, the next good one begins; None if there is none."""
    at, left = 0, _TRIED_BYTES
    for _ in range(_TRIES):
        at = data.find(_FRAME_MAGIC, at + 1)
        if at < 0:
            break
        if at + _FRAME.size <= len(data):
            size = _FRAME.size + _FRAME.unpack_from(data, at)[2]
            if size <= left:
                left -= size
                if scan(data[at : at + size], 1).size:
                    return at
    return None


def _frame(payload: bytes, rows: int, milliseconds: int) -> bytes:
    checked = _CHECKED.pack(len(payload), rows, milliseconds) + payload
    return _FRAME_MAGIC + _LENGTH.pack(crc32(checked)) + checked
