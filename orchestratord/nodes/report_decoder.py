"""The wire format of a report and all its limits: bytes to valid, immutable reports."""

from __future__ import annotations

import re
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from orchestratord.errors import AheadOfClock, BadReport, BodyTooLarge, NoFamily
from orchestratord.nodes.batch import split
from orchestratord.nodes.families import MAX_VALUE
from orchestratord.nodes.provenance import FIELDS, Provenance, Provenances
from orchestratord.nodes.report import MAX_AHEAD, NodeId, NodeReport
from orchestratord.nodes.unknown_names import explained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestratord.nodes.families import Families, Family
    from orchestratord.nodes.report import Packer, Renderer

#: Reports that are decoded in one go: about a millisecond.
SLICE = 250

_ARRAY, _BLANK = re.compile(rb"[ \t\r\n]*+\["), re.compile(rb"[ \t\r\n]*+")

#: The most bytes of a report with unknown names. Each unknown name takes 0.3 us.
MAX_UNKNOWN = 65_536
#: The most ignored names that an answer lists, and the most characters of each.
MAX_IGNORED, MAX_IGNORED_LENGTH = 10, 64


class Decoded(msgspec.Struct, frozen=True):
    """What a body held: its reports, in order, and how many names in it were ignored.

    `ignored` are these names, in order and once each: at most MAX_IGNORED, cut to MAX_IGNORED_LENGTH characters.
    """

    reports: list[NodeReport]
    unknown_names: int
    ignored: tuple[str, ...] = ()


class ReportDecoder:
    """Decodes the bodies of `POST /update_metrics` with these families. Pure: usable from any thread.

    `max_batch` is the most reports that one body may hold. `pack` packs rows for the write-ahead log, if there is one.
    """

    def __init__(
        self, families: Families, render: Renderer, *, max_batch: int = 10_000, pack: Packer | None = None
    ) -> None:
        self._render = render
        self._pack = pack
        self._max_batch = max_batch
        self._names = families.names
        # The strict decoder refuses unknown names: so they are noticed at no cost. Then the lenient one decodes the
        # report and skips them.
        self._known = {*self._names, "node_id", "timestamp"}
        self._families = frozenset(self._names)
        self._fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._provenances = Provenances()
        self._said: Any = attrgetter(*FIELDS)
        strict = _wire_type(families, FIELDS, forbid_unknown_fields=True)
        lenient = _wire_type(families, {}, forbid_unknown_fields=False)
        self._strict = msgspec.json.Decoder(strict)
        self._lenient = msgspec.json.Decoder(lenient)
        self._values: Any = attrgetter(*self._names) if len(self._names) > 1 else _single(self._names[0])

    def decode(self, body: bytes, received_at: float) -> Decoded:
        """Decode a whole body, which holds one report or an array of reports.

        `received_at` is the time of arrival in Unix seconds.

        Raises BadReport (the text ends with the JSON path of what is wrong), or BodyTooLarge if there are more than
        `max_batch` reports.
        """
        if not is_batch(body):
            return self._one(body, received_at, "$")
        return joined(self.decode_in_slices(body, received_at))

    def decode_in_slices(self, body: bytes, received_at: float) -> Iterator[Decoded]:
        """Do the same as `decode`, in steps of about a millisecond, so that the reactor can turn between them.

        No part of a body is valid until the iterator has ended without an exception.
        """
        if not is_batch(body):
            yield self._one(body, received_at, "$")
            return
        first = 0
        try:
            for items in split(body, self._max_batch):
                for start in range(0, len(items), SLICE):
                    yield joined(
                        self._one(item, received_at, f"$[{first + start + offset}]")
                        for offset, item in enumerate(items[start : start + SLICE])
                    )
                first += len(items)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadReport(f"{_malformed(error, body)} - at $") from None

    def _one(self, item: bytes | msgspec.Raw, received_at: float, path: str) -> Decoded:
        try:
            try:
                wire = self._strict.decode(item)
            except msgspec.ValidationError:
                return self._leniently(item, received_at, path)
            return Decoded([self._report(wire, received_at, self._provenances.of(self._said(wire)))], 0)
        except msgspec.ValidationError as error:
            fault = AheadOfClock if isinstance(error, _Ahead) else BadReport
            raise fault(_located(str(error), path)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadReport(f"{_malformed(error, item)} - at {path}") from None

    def _leniently(self, item: bytes | msgspec.Raw, received_at: float, path: str) -> Decoded:
        """Decode a report with names that are ignored.

        Ignored are unknown names, and provenance fields with invalid values: they are only information, and some
        clients used these names for other things before. A report with unknown names and no family is refused: its
        client thinks that it reports values.
        """
        wire = self._lenient.decode(item)
        bytes(item).decode()  # msgspec skips unknown values without checking that they are UTF-8
        if memoryview(item).nbytes > MAX_UNKNOWN:
            raise BodyTooLarge(f"a report with unknown names is over the limit of {MAX_UNKNOWN} bytes - at {path}")
        fields = self._fields.decode(item)
        names = [name for name in fields if name not in self._known]
        provenance = None
        if not FIELDS.keys().isdisjoint(names):
            said = [_valid(kind, fields.get(name)) for name, kind in FIELDS.items()]
            provenance = self._provenances.of((said[0], said[1], said[2]))
            used = {name for name, value in zip(FIELDS, said, strict=True) if value is not UNSET}
            names = [name for name in names if name not in used]
        if self._families.isdisjoint(fields):
            unknown = {name: fields[name] for name in names if name not in FIELDS}
            if unknown:
                raise NoFamily(f"{explained(unknown, self._names)} - at {path}", names)
        return Decoded([self._report(wire, received_at, provenance)], len(names), shortened(names))

    def _report(self, wire: Any, received_at: float, provenance: Provenance | None) -> NodeReport:
        values = self._values(wire)
        if UNSET in values:
            values = tuple(None if value is UNSET else value for value in values)
            largest = max((value for value in values if value is not None), default=0)
        else:
            largest = max(values)
        if largest > MAX_VALUE:
            name = self._names[values.index(largest)]
            raise msgspec.ValidationError(f"Expected a number up to 2^64-1 - at `$.{name}`")
        timestamp = None if wire.timestamp is UNSET else wire.timestamp
        if timestamp is not None and timestamp > received_at + MAX_AHEAD:
            ahead = timestamp - received_at
            raise _Ahead(
                f"Expected a time at most {MAX_AHEAD} s ahead of this server's clock, got {ahead:.0f} s"
                " - at `$.timestamp`"
            )
        node_id = wire.node_id
        lines = self._render(node_id, values, received_at, timestamp, provenance)
        row = b""
        if self._pack is not None:
            row = self._pack(node_id, values, received_at if timestamp is None else timestamp)
        return NodeReport(node_id, values, timestamp, received_at, lines, row, provenance)


class _Ahead(msgspec.ValidationError):
    """A timestamp is too far ahead of our clock."""


def joined(parts: Iterable[Decoded]) -> Decoded:
    """Join the parts of a body."""
    reports: list[NodeReport] = []
    unknown = 0
    ignored: tuple[str, ...] = ()
    for part in parts:
        reports += part.reports
        if part.unknown_names:
            unknown += part.unknown_names
            ignored = shortened((*ignored, *part.ignored))
    return Decoded(reports, unknown, ignored)


def shortened(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names, once each, cut to the length for answers and log lines."""
    return tuple(dict.fromkeys([name[:MAX_IGNORED_LENGTH] for name in islice(names, MAX_IGNORED * 2)]))[:MAX_IGNORED]


def is_batch(body: bytes) -> bool:
    """Return whether a body begins as an array does."""
    return _ARRAY.match(body) is not None


def _wire_type(families: Families, more: Mapping[str, Any], *, forbid_unknown_fields: bool) -> type[msgspec.Struct]:
    fields: list[Any] = [("node_id", NodeId)]
    fields += [(family.name, _number(family) | UnsetType, UNSET) for family in families]
    fields.append(("timestamp", Annotated[float, Meta(ge=0)] | UnsetType, UNSET))
    fields += [(name, kind | UnsetType, UNSET) for name, kind in more.items()]
    return msgspec.defstruct("Report", fields, frozen=True, gc=False, forbid_unknown_fields=forbid_unknown_fields)


def _number(family: Family) -> Any:
    """Return the type of a value. Integers stay integers, since 2^64-1 and 2^64 are the same float."""
    low = family.minimum
    whole = Meta() if low is None else Meta(ge=max(_ceil(low), -(2**63)))
    real = Meta(gt=-(2.0**64), lt=2.0**64) if low is None else Meta(ge=float(low), lt=2.0**64)
    return Annotated[int, whole] | Annotated[float, real]


def _ceil(value: float) -> int:
    return int(-(-value // 1))


def _valid(kind: Any, value: msgspec.Raw | None) -> Any:
    """Return a field's value, UNSET if there is no value or it is not valid."""
    try:
        return UNSET if value is None else msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError:
        return UNSET


def _single(name: str) -> Any:
    get = attrgetter(name)
    return lambda wire: (get(wire),)


def _located(text: str, path: str) -> str:
    """Return msgspec's error text with the path that the API documents: without quotes, and within the batch."""
    what, found, where = text.rpartition(" - at `$")
    if not found:
        return f"{text} - at {path}"
    return f"{what} - at {path}{where.removesuffix('`')}"


def _malformed(error: Exception, body: bytes | msgspec.Raw) -> str:
    if _BLANK.fullmatch(bytes(body)):
        return "the body is empty: a report is a JSON object"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 ({error.reason})"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    return str(error)
