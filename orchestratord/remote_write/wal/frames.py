"""The bytes of a segment of the write-ahead log: rows to frames and back, also from damaged bytes. Pure.

magic, version       tell it from other files
names                4 bytes of length, JSON, CRC-32: the names of the values of a row
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

#: Bytes of rows in a frame; a longer row gets a frame of its own.
FRAME_BYTES = 65_536
#: The longest head of a file, in bytes.
MAX_HEAD = 1 << 20

_MAGIC = b"orchestratord spool "
_HEAD = _MAGIC + b"%d\n" % VERSION
_LENGTH = struct.Struct("<I")
_FRAME_MAGIC = b"\xf5row"
_FRAME = struct.Struct("<4sIIIq")
#: The part of a frame's head that its checksum covers.
_CHECKED = struct.Struct("<IIq")
_BEFORE_CHECKED = _FRAME.size - _CHECKED.size
#: The longest frame that is accepted, in bytes.
_MAX_FRAME = 1 << 24
#: After damage, at most so many places that look like the beginning of a frame are tried, and so many bytes in all: the
#: values of rows come from clients, and the reactor waits for the reader.
_TRIES, _TRIED_BYTES = 1000, 1 << 22


class BadSegment(Exception):
    """A file is not a readable segment; the text says why."""


class Scan(NamedTuple):
    """Consecutive frames.

    `payload` is their rows, `rows` the number of rows that their heads state, `written` the time of the first frame in
    milliseconds since 1970, and `size` their length in bytes. `missing` is 0, or how many bytes from the end of these
    frames a reader needs to get the next frame whole.
    """

    payload: bytes
    rows: int
    written: int
    size: int
    missing: int


class Content:
    """Reads rows that were written with the names `written` as rows with the names `names`.

    The value of a name that was not written is ABSENT. The value of a name that is not among `names` is left out.
    """

    def __init__(self, written: Sequence[str], names: Sequence[str]) -> None:
        self._format = SampleRowFormat(written)
        self._order: list[int | None] | None = None
        if tuple(written) != tuple(names):
            where = {name: 8 * index for index, name in enumerate(written)}
            self._order = [where.get(name) for name in names]

    def rows(self, payload: bytes) -> list[SampleRow]:
        """Return the rows of a payload; raise ValueError if it does not consist of rows."""
        rows = self._format.rows(payload)
        order = self._order
        if order is None:
            return rows
        return [
            row._replace(values=b"".join(ABSENT if at is None else row.values[at : at + 8] for at in order))
            for row in rows
        ]


def head(names: Sequence[str]) -> bytes:
    """Return the head of a segment."""
    described = msgspec.json.encode(names)
    checked = _LENGTH.pack(len(described)) + described
    return _HEAD + checked + _LENGTH.pack(crc32(checked))


def read_head(data: bytes) -> tuple[tuple[str, ...], int]:
    """Return the names that a segment was written with, and the offset of its first frame; raise BadSegment.

    `data` is the first MAX_HEAD bytes of the segment, or all of it.
    """
    if not data.startswith(_MAGIC):
        raise BadSegment("it is empty" if not data else "it is not a segment of orchestratord")
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
        raise BadSegment(f"its head is not valid ({error})") from None


def frames(rows: Sequence[bytes], milliseconds: int, most: int = FRAME_BYTES) -> list[tuple[bytes, int]]:
    """Return frames with their numbers of rows; a frame has at most `most` bytes of rows, or a single row."""
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
    """Return the frames at the beginning of `data`, up to `most` rows, or up to a damaged or incomplete frame."""
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
    """Return the offset of the next good frame in `data`, which begins with a damaged one; None if there is none."""
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
