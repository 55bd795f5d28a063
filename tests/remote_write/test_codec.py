from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.prometheus_remote_write.gen import remote_pb2

from orchestratord.nodes.families import BUILT_IN, LAST_REPORT
from orchestratord.remote_write.codec import HEADERS, Encoded, Encoder
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRow, row_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAMES = row_names(BUILT_IN)
TIME = 1_795_424_400_000

#: The samples of a series by its labels: times and the bits of the values, in the order of the message.
Series = dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]]


def unpacked(body: bytes) -> bytes:
    """Return what snappy's block format stands for, after its format_description.txt."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (body[at] & 0x7F) << shift
            shift += 7
            at += 1
            if body[at - 1] < 0x80:
                return value, at

    size, at = number(0)
    found = bytearray()
    while at < len(body):
        tag = body[at]
        at += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            if length > 60:
                more = length - 60
                length = int.from_bytes(body[at : at + more], "little") + 1
                at += more
            found += body[at : at + length]
            at += length
            continue
        if tag & 3 == 1:
            length, distance = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | body[at]
            at += 1
        else:
            more = 2 if tag & 3 == 2 else 4
            length, distance = (tag >> 2) + 1, int.from_bytes(body[at : at + more], "little")
            at += more
        assert 0 < distance <= len(found)
        for _ in range(length):
            found.append(found[-distance])
    assert len(found) == size
    return bytes(found)


def bits(sample: Any) -> bytes:
    """Return the bytes of a sample's value; as a float a NaN might become another one."""
    # A zero is left out.
    written: bytes = sample.SerializeToString()
    return written[1:9] if written[:1] == b"\x09" else bytes(8)


def read(encoded: Encoded) -> Series:
    """Return what a request says, as OpenTelemetry's classes read it; each series must be there once."""
    # The class is made when the module is imported.
    request = remote_pb2.WriteRequest.FromString(unpacked(encoded.body))  # type: ignore[attr-defined]
    found: Series = {}
    for series in request.timeseries:
        labels = tuple((label.name, label.value) for label in series.labels)
        assert labels not in found
        found[labels] = [(sample.timestamp, bits(sample)) for sample in series.samples]
    return found


def expected(names: Sequence[str], labels: Sequence[tuple[str, str]], rows: Iterable[SampleRow]) -> Series:
    """Return what the request for rows must say."""
    last = {(row.node_id, row.timestamp): row for row in rows}
    found: Series = {}
    for (node_id, timestamp), row in sorted(last.items()):
        for index, name in enumerate(names):
            value = row.values[8 * index : 8 * index + 8]
            if value != ABSENT:
                key = tuple(sorted([("__name__", name), ("node_id", node_id.decode()), *labels]))
                found.setdefault(key, []).append((timestamp, value))
    return found


def row(node_id: str = "n1", timestamp: int = TIME, *values: float | bytes) -> SampleRow:
    """Return a row of as many values as the built-in catalogue has: these, and zeros."""
    packed = [value if isinstance(value, bytes) else struct.pack("<d", value) for value in values]
    return SampleRow(node_id.encode(), timestamp, b"".join(packed).ljust(8 * len(NAMES), b"\0"))


def check(rows: Sequence[SampleRow], names: Sequence[str] = NAMES, labels: Sequence[tuple[str, str]] = ()) -> None:
    """Encode rows, twice with the same encoder, and look whether the request says what it must."""
    encoder = Encoder(names, labels)
    for _ in range(2):
        encoded = encoder.encode(rows)
        found = read(encoded)
        assert found == expected(names, labels, rows)
        assert encoded.samples == sum(map(len, found.values()))


FAMILY_NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,70}", fullmatch=True)
LABELS = st.lists(
    st.tuples(
        st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True).filter(
            lambda name: name != "node_id" and not name.startswith("__")
        ),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    ),
    unique_by=lambda label: label[0],
    max_size=4,
)
IDS = st.text("abcXYZ019._:-", min_size=1, max_size=253)
VALUES = st.one_of(
    st.sampled_from([STALE, ABSENT, bytes(8), b"%b%c%s%d", b"\xff" * 8]),
    st.floats().map(lambda value: struct.pack("<d", value)),
    st.integers(0, 2**64 - 1).map(lambda value: struct.pack("<d", value)),
    st.binary(min_size=8, max_size=8),
)
TIMES = st.one_of(st.integers(0, 2**47), st.integers(TIME, TIME + 60_000))


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]], list[SampleRow]]:
    """Draw names, external labels and rows: some nodes more than once, some times too."""
    names = draw(st.lists(FAMILY_NAMES, min_size=1, max_size=10, unique=True))
    ids = st.one_of(IDS, st.sampled_from(draw(st.lists(IDS, min_size=1, max_size=3))))
    times = st.one_of(TIMES, st.sampled_from(draw(st.lists(TIMES, min_size=1, max_size=3))))
    count = len(names)
    values = st.lists(VALUES, min_size=count, max_size=count).map(b"".join)
    rows = draw(st.lists(st.builds(SampleRow, ids.map(str.encode), times, values), max_size=20))
    return names, draw(LABELS), rows


@given(batches())
@example((["a"], [], []))
def test_a_request_says_what_the_rows_say(batch: tuple[list[str], list[tuple[str, str]], list[SampleRow]]) -> None:
    """After other people's decoder, bit for bit: every sample at its time, labels in order, one series for each."""
    names, labels, rows = batch
    check(rows, names, labels)


def test_what_a_store_is_told_of_one_report() -> None:
    """The samples of its families, and of its time; nothing of the replica that it came to."""
    found = read(Encoder(NAMES, (("zone", "b"), ("Cluster", "blau-\N{SNOWMAN}"))).encode([row("n1", TIME, 4096.0)]))
    labels = (("Cluster", "blau-\N{SNOWMAN}"), ("__name__", NAMES[0]), ("node_id", "n1"), ("zone", "b"))
    assert found[labels] == [(TIME, struct.pack("<d", 4096.0))]
    assert [dict(series)["__name__"] for series in found] == [*BUILT_IN.names, LAST_REPORT]


def test_labels_are_in_the_order_of_their_names() -> None:
    """By bytes: upper case is before `__name__`; what begins as node_id does is on its own side of it."""
    names = ["A", "_A", "_a", "a", "node_i", "node_idx", "z"]
    check([row("n1"), row("n2")], labels=[(name, name) for name in reversed(names)])


def test_a_family_that_is_absent_has_no_sample() -> None:
    """Absent is not zero; a row in which all are absent is nothing at all, and rows of other choices are beside it."""
    check([row("n1", TIME, 1.0, ABSENT, 3.0), row("n2", TIME, ABSENT), row("n3", TIME, *[ABSENT] * 9), row("n4")])
    assert read(Encoder(NAMES, ()).encode([row("n3", TIME, *[ABSENT] * 9)])) == {}


def test_what_only_looks_absent_is_a_sample() -> None:
    """The bytes of the marker across two values are none."""
    across = ABSENT * 2
    check([row("n1", TIME, b"\x01" * 3 + across[:5], across[5:13])])
    check([row("n1", TIME, b"\x01\x01\x01" + ABSENT[:5], ABSENT[5:] + b"\x01" * 5)])


def test_stale_markers_arrive_bit_for_bit() -> None:
    """A signalling NaN that became a quiet one would be a sample."""
    encoded = Encoder(NAMES, ()).encode([row("n1", TIME, *[STALE] * 9)])
    assert set(map(tuple, read(encoded).values())) == {((TIME, STALE),)}
    assert encoded.samples == 9


def test_a_node_that_reported_often_has_one_series_for_each_family() -> None:
    """With its samples in the order of time, whatever the order they came in; beside nodes that reported once."""
    rows = [row("n1", TIME + 10_000 * index, float(index)) for index in (3, 0, 2, 1)]
    check([row("n0"), *rows, row("n2")])
    assert all(len(samples) == 4 for samples in read(Encoder(NAMES, ()).encode(rows)).values())


def test_of_two_reports_of_one_time_the_later_counts() -> None:
    """Whole, as a report in the table replaces the one before it; the same twice is once."""
    rows = [row("n1", TIME, 1.0, 2.0), row("n2"), row("n1", TIME, 3.0, ABSENT), row("n2")]
    found = read(Encoder(NAMES, ()).encode(rows))
    assert found == expected(NAMES, (), rows[2:])


@pytest.mark.parametrize("timestamp", [0, 1, 2**35 - 1, 2**35, 2**42 - 1, 2**42, 2**47, -1, -(2**63)])
def test_any_time_is_written(timestamp: int) -> None:
    """From 1970 until the year 6429, and what only a spool of another's can hold; alone, and beside the present."""
    check([row("n1", timestamp)])
    check([row("n1", TIME), row("n2", timestamp), row("n3", TIME + 1)])


def test_many_choices_of_absent_values() -> None:
    """Clients choose the lengths of ids and what they leave out: more than what is remembered of them at a time."""
    encoder = Encoder(NAMES, ())
    for length in range(1, 254):
        rows = []
        for choice in range(8):
            values = [ABSENT if choice >> index & 1 else 1.0 for index in range(3)]
            rows.append(row(f"{choice}".ljust(length, "x"), TIME, *values))
        encoded = encoder.encode(rows)
        if length % 50 == 2:
            assert read(encoded) == expected(NAMES, (), rows)
        assert encoded.samples == 60


def test_no_rows_are_an_empty_request() -> None:
    """Of no samples."""
    assert Encoder(NAMES, ()).encode([]) == Encoded(b"\0", 0)


def test_the_headers_are_those_of_the_protocol() -> None:
    """Version 1.0 is said as 0.1.0."""
    assert dict(HEADERS) == {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }
