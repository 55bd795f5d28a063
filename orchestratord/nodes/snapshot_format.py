"""The format of a snapshot of the table: entries to the parts of a file and back, all of them or none.

    magic, version       tell it from other files
    frames               4 bytes of length, then MessagePack: first a head, then blocks of records, then length 0
    digest               BLAKE2b of everything before it

Pure: files and times are arguments.
"""

from __future__ import annotations

import math
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from orchestratord.nodes.families import MAX_VALUE
from orchestratord.nodes.provenance import Provenances, Stored
from orchestratord.nodes.report import MAX_AHEAD, NodeId, NodeReport
from orchestratord.nodes.store import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestratord.nodes.families import Families
    from orchestratord.nodes.report import Renderer

VERSION = 1

#: Records in a frame: encoding them holds the interpreter for a quarter of a millisecond.
BLOCK = 250

#: The most seconds by which the wall clock may have gone back since a snapshot was written.
MAX_BACK = 2.0

_MAGIC = b"orchestratord snapshot "
_HEAD = _MAGIC + b"%d\n" % VERSION
_DIGEST_SIZE = 16
_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 20


class BadSnapshot(Exception):
    """A file is not a snapshot that can be restored; the text says why."""


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """One moment by the clocks of a machine, in seconds.

    `boot` identifies the boot of the machine. `monotonic` can be compared only within one boot; not at all if it is
    empty.
    """

    unix: float
    monotonic: float
    boot: str

    def since(self, earlier: Moment) -> float | None:
        """Return the seconds since an earlier moment, perhaps of another process, or None if no clock can tell.

        Within one boot of the machine the wall clock is not used.
        """
        if self.boot and self.boot == earlier.boot and self.monotonic >= earlier.monotonic:
            return self.monotonic - earlier.monotonic
        seconds = self.unix - earlier.unix
        return max(0.0, seconds) if seconds >= -MAX_BACK else None


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry without its rendered lines and row; the fields are those of Entry and NodeReport.

    New fields come last and have a default: an older snapshot lacks them, and an older version of the daemon skips
    them.
    """

    node_id: NodeId
    values: tuple[int | float | None, ...]
    timestamp: float | None
    received_at: float
    seen: float
    provenance: Stored | None = None


class _Description(msgspec.Struct, frozen=True, array_like=True):
    """The first frame: the families of the records' values, and when the table was read."""

    families: tuple[str, ...]
    written: Moment


class Snapshot(msgspec.Struct, frozen=True):
    """A table at one moment. `families` are in the order of the records' values."""

    families: tuple[str, ...]
    written: Moment
    records: list[Record]

    def entries(self, families: Families, render: Renderer, now: Moment, stale_after: float) -> list[Entry]:
        """Return the entries that are fresh at `now`, with the `seen` of its clock, for families that may have changed.

        A family that is not in the snapshot has no values; one that is not in `families` is left out. If no clock can
        tell the age of the snapshot, nothing is fresh.
        """
        silent = now.since(self.written)
        if silent is None:
            return []
        shift = now.monotonic - silent - self.written.monotonic
        limit = now.monotonic - stale_after
        where = {name: index for index, name in enumerate(self.families)}
        order = [where.get(name) for name in families.names]
        same = order == list(range(len(self.families)))
        least = [-math.inf if family.minimum is None else family.minimum for family in families]
        found: list[Entry] = []
        provenances = Provenances()
        for record in self.records:
            seen = min(record.seen + shift, now.monotonic)
            if seen > limit:
                values = record.values
                if not same:
                    values = tuple(None if index is None else values[index] for index in order)
                if any(value is not None and value < low for value, low in zip(values, least, strict=True)):
                    continue  # no report of these families may have such a value
                provenance = None if record.provenance is None else provenances.of(record.provenance)
                lines = render(record.node_id, values, record.received_at, record.timestamp, provenance)
                report = NodeReport(
                    record.node_id, values, record.timestamp, record.received_at, lines, provenance=provenance
                )
                found.append(Entry(seen, report))
        return found

    def silent(self, now: Moment, stale_after: float, within: float) -> list[tuple[str, float]]:
        """Return the nodes that became stale in the last `within` seconds: ids and times of their last reports.

        The times are in seconds of the monotonic clock of `now`, the oldest first. The list is empty if no clock can
        tell the age of the snapshot.
        """
        since = now.since(self.written)
        if since is None:
            return []
        shift = now.monotonic - since - self.written.monotonic
        limit = now.monotonic - stale_after
        seen = ((record.seen + shift, record.node_id) for record in self.records)
        silent = sorted((at, node_id) for at, node_id in seen if limit - within < at <= limit)
        return [(node_id, at) for at, node_id in silent]


def encode(families: Sequence[str], written: Moment, blocks: Iterable[Sequence[Entry]]) -> Iterator[bytes]:
    """Yield a snapshot's bytes in parts, one for each block. For any thread.

    `written` is the moment at which the table was read.
    """
    digest = blake2b(digest_size=_DIGEST_SIZE)

    def counted(part: bytes) -> bytes:
        digest.update(part)
        return part

    yield counted(_HEAD + _frame(_Description(tuple(families), written)))
    for block in blocks:
        if block:
            yield counted(_frame([_record(entry) for entry in block]))
    yield counted(_LENGTH.pack(0))
    yield digest.digest()


def decode(file: BinaryIO) -> Snapshot:
    """Read a snapshot: once to check the digest of its bytes, and again to decode its records.

    Raises BadSnapshot, or OSError from the file.
    """
    end = _verify(file)
    file.seek(len(_HEAD))
    try:
        description = msgspec.msgpack.decode(_payload(file, end), type=_Description)
        decoder = msgspec.msgpack.Decoder(list[Record])
        records: list[Record] = []
        while payload := _payload(file, end):
            records += decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSnapshot(f"its content is not valid ({error})") from None
    if file.tell() != end:
        raise BadSnapshot("there are bytes after its end")
    if any(len(record.values) != len(description.families) for record in records):
        raise BadSnapshot("it has a record whose values do not match its families")
    if not all(map(_is_sound, records)):
        raise BadSnapshot("it has numbers that no report may have")
    return Snapshot(description.families, description.written, records)


def _is_sound(record: Record) -> bool:
    """Return whether every number is one that a report may have: finite, and no time far ahead of the arrival."""
    values = [value for value in record.values if value is not None]
    if not math.isfinite(sum(values)) or not math.isfinite(record.received_at):
        return False
    if values and (max(values) > MAX_VALUE or min(values) < -MAX_VALUE):
        return False
    return record.timestamp is None or 0 <= record.timestamp <= record.received_at + MAX_AHEAD


def _record(entry: Entry) -> Record:
    report = entry.report
    stored = None if report.provenance is None else report.provenance.stored
    return Record(report.node_id, report.values, report.timestamp, report.received_at, entry.seen, stored)


def _frame(value: object) -> bytes:
    payload = msgspec.msgpack.encode(value)
    return _LENGTH.pack(len(payload)) + payload


def _payload(file: BinaryIO, end: int) -> bytes:
    prefix = file.read(_LENGTH.size)
    size = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else end
    if size > end - file.tell():
        raise BadSnapshot("a frame goes past its end")
    return file.read(size)


def _verify(file: BinaryIO) -> int:
    """Return the offset of the digest; raise BadSnapshot if it is not the digest of the bytes before it."""
    head = file.read(len(_HEAD))
    if not head.startswith(_MAGIC):
        raise BadSnapshot("it is empty" if not head else "it is not a snapshot of orchestratord")
    if head != _HEAD:
        raise BadSnapshot(f"it is not of version {VERSION}")
    end = file.seek(0, 2) - _DIGEST_SIZE
    file.seek(0)
    digest = blake2b(digest_size=_DIGEST_SIZE)
    while (left := end - file.tell()) > 0:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            break  # the file was cut off meanwhile
        digest.update(chunk)
    if end < len(_HEAD) or file.read() != digest.digest():
        raise BadSnapshot("it is torn or damaged: its digest is not that of its content")
    return end
