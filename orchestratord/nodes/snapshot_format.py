"""The bytes that the table is kept in across restarts: entries in, a file's parts out, and back, whole or not at all.

    magic, version       what tells it from a foreign file
    frames               4 bytes of length, then MessagePack: first a head, then blocks of records, then length 0
    digest               BLAKE2b of everything before it

Pure: it is given files and clocks' readings, and opens and asks none itself.
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

#: Records of a frame: encoding them holds the interpreter for a quarter of a millisecond.
BLOCK = 250

#: How far the wall clock may seem to have gone back since a snapshot was written, in seconds.
MAX_BACK = 2.0

_MAGIC = b"orchestratord snapshot "
_HEAD = _MAGIC + b"%d\n" % VERSION
_DIGEST_SIZE = 16
_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 20


class BadSnapshot(Exception):
    """A file is no snapshot that could be taken back; the text says why."""


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """One moment by the clocks of a machine, in seconds.

    `boot` names the time for which the machine has been up, in which alone `monotonic` can be compared; empty, in none.
    """

    unix: float
    monotonic: float
    boot: str

    def since(self, earlier: Moment) -> float | None:
        """Return the seconds since an earlier moment, perhaps of another run, or None if no clock can tell.

        Within one uptime of the machine the wall clock may do what it likes.
        """
        if self.boot and self.boot == earlier.boot and self.monotonic >= earlier.monotonic:
            return self.monotonic - earlier.monotonic
        seconds = self.unix - earlier.unix
        return max(0.0, seconds) if seconds >= -MAX_BACK else None


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry without the samples' text, which is rendered again; the fields are those of Entry and NodeReport.

    New fields come last and have a default: a snapshot of an older version lacks them, and an older version passes
    them over.
    """

    node_id: NodeId
    values: tuple[int | float | None, ...]
    timestamp: float | None
    received_at: float
    seen: float
    provenance: Stored | None = None


class _Description(msgspec.Struct, frozen=True, array_like=True):
    """The first frame: the families that the records' values stand for, and when the table was looked at."""

    families: tuple[str, ...]
    written: Moment


class Snapshot(msgspec.Struct, frozen=True):
    """A table as it was at one moment. `families` are in the order of the records' values."""

    families: tuple[str, ...]
    written: Moment
    records: list[Record]

    def entries(self, families: Families, render: Renderer, now: Moment, stale_after: float) -> list[Entry]:
        """Return the entries that are fresh at `now`, `seen` by its clock, for a catalogue that may be another one.

        A family that the snapshot does not know is absent; one that the catalogue does not know is left out. Where no
        clock can tell the age of the snapshot, nothing of it is fresh.
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
        """Return the nodes that are not fresh, and have not been for up to `within` seconds: ids and times of reports.

        The times are by the clock of `now`, the oldest first. Nothing where no clock can tell the snapshot's age.
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
    """Return a snapshot's bytes in parts, one for each block; a block is asked for when its part is.

    Any thread may do so. `written` is the moment at which the table was looked at.
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
    """Read a snapshot, which is looked at twice: as bytes, whose digest must be right, and then as records.

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
        raise BadSnapshot(f"it holds what no snapshot does ({error})") from None
    if file.tell() != end:
        raise BadSnapshot("there is more after its end")
    if any(len(record.values) != len(description.families) for record in records):
        raise BadSnapshot("it has records of other families than it says")
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
    """Return where the digest begins; raise BadSnapshot if it is not that of the bytes before it."""
    head = file.read(len(_HEAD))
    if not head.startswith(_MAGIC):
        raise BadSnapshot("it is empty" if not head else "it is no snapshot of orchestratord")
    if head != _HEAD:
        raise BadSnapshot(f"it is not of version {VERSION}")
    end = file.seek(0, 2) - _DIGEST_SIZE
    file.seek(0)
    digest = blake2b(digest_size=_DIGEST_SIZE)
    while (left := end - file.tell()) > 0:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            break  # cut off under our eyes
        digest.update(chunk)
    if end < len(_HEAD) or file.read() != digest.digest():
        raise BadSnapshot("it is torn or damaged: its digest is not that of its content")
    return end
