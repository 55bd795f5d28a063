"""The bytes of a snapshot."""

from __future__ import annotations

import io
import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.nodes.exposition import SampleRenderer, unrendered
from orchestratord.nodes.families import BUILT_IN, Families, Family
from orchestratord.nodes.snapshot_format import BadSnapshot, Moment, decode, encode
from orchestratord.nodes.store import Entry, NodeStore
from tests.fakes import FAMILIES, NOW, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.snapshot_format import Snapshot

STALE_AFTER = 60.0
WRITTEN = Moment(NOW, 1000.0, "one")


def table(count: int = 3) -> NodeStore:
    """Return a table of so many nodes; the first was seen at 990, the others a tenth of a second apart."""
    nodes = NodeStore(stale_after=STALE_AFTER, max_nodes=10_000)
    for index in range(count):
        nodes.update([report(f"n{index}", received_at=NOW - 10, page_faults=index)], 990 + index / 10)
    return nodes


def written(nodes: NodeStore, families: Sequence[str] = FAMILIES, at: Moment = WRITTEN, block: int = 2) -> bytes:
    """Return the snapshot of a table."""
    return b"".join(encode(families, at, nodes.blocks(at.monotonic, block)))


def read(data: bytes) -> Snapshot:
    """Return what is in a snapshot."""
    return decode(io.BytesIO(data))


def entries(data: bytes, now: Moment, families: Families = BUILT_IN, stale_after: float = STALE_AFTER) -> list[Entry]:
    """Return what is taken back from a snapshot."""
    return read(data).entries(families, SampleRenderer(families), now, stale_after)


def seen(data: bytes, now: Moment) -> dict[str, float]:
    """Return when the nodes that are taken back were seen."""
    return {entry.report.node_id: entry.seen for entry in entries(data, now)}


def resealed(data: bytes) -> bytes:
    """Return a snapshot with its digest made right, as only someone who means it would."""
    return data[:-16] + blake2b(data[:-16], digest_size=16).digest()


SMALL = written(table())


def test_what_is_written_is_read() -> None:
    """Entry for entry, the rendered lines too, whatever the number of blocks."""
    nodes = table(7)
    nodes.update([report("all", timestamp=NOW - 12.5, received_at=NOW, **dict.fromkeys(FAMILIES, 2**64 - 1))], 999)
    nodes.update([report("real", received_at=NOW - 0.25, fs_read_size_kb=0.1)], 999.5)
    for block in (1, 2, 100):
        back = entries(written(nodes, block=block), WRITTEN)
        assert sorted(back, key=lambda entry: entry.seen) == sorted(nodes.snapshot(1000), key=lambda entry: entry.seen)
    assert read(written(table(0))).records == []


def test_stale_nodes_are_not_written() -> None:
    """As they are in no answer."""
    assert len(read(written(table(), at=Moment(NOW, 1050.0, "one"))).records) == 2


def test_within_an_uptime_the_monotonic_clock_tells_the_age() -> None:
    """Whatever the wall clock was set to meanwhile."""
    for unix in (NOW + 20, NOW - 3600, NOW + 3600):
        assert seen(SMALL, Moment(unix, 1020.0, "one")) == {"n0": 990.0, "n1": 990.1, "n2": 990.2}
    assert seen(SMALL, Moment(NOW, 1050.05, "one")) == {"n1": 990.1, "n2": 990.2}


@pytest.mark.parametrize("now", [Moment(NOW + 20, 5.0, "two"), Moment(NOW + 20, 5.0, ""), Moment(NOW + 20, 5.0, "one")])
def test_after_a_boot_the_wall_clock_tells_it(now: Moment) -> None:
    """By how long nobody was there; the age at the writing is the monotonic clock's all the same."""
    assert seen(SMALL, now) == pytest.approx({"n0": -25.0, "n1": -24.9, "n2": -24.8})
    later = Moment(NOW + 50.05, 5.0, now.boot)
    assert seen(SMALL, later).keys() == {"n1", "n2"}
    assert seen(SMALL, Moment(NOW + 3600, 5.0, now.boot)) == {}


def test_machines_that_have_no_boot_id_are_not_taken_for_one() -> None:
    """Two empty names say nothing of the clock."""
    data = written(table(), at=Moment(NOW, 1000.0, ""))
    assert seen(data, Moment(NOW + 3600, 1001.0, "")) == {}


def test_a_snapshot_from_the_future_is_not_fresh() -> None:
    """After a boot with a clock that is behind nobody knows how long it was; a moment's difference is none."""
    assert seen(SMALL, Moment(NOW - 3600, 5.0, "two")) == {}
    assert seen(SMALL, Moment(NOW - 2.5, 5.0, "two")) == {}
    assert seen(SMALL, Moment(NOW - 1, 5.0, "two")) == pytest.approx({"n0": -5.0, "n1": -4.9, "n2": -4.8})


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_no_number_makes_a_node_immortal(odd: float) -> None:
    """Nor is it seen in the future."""
    for at in (Moment(odd, 1000.0, ""), Moment(NOW, odd, "one"), Moment(odd, odd, "")):
        data = b"".join(encode(FAMILIES, at, [table().snapshot(1000), [Entry(odd, report("odd"))]]))
        for unix in (NOW + 10, NOW + 7200):
            now = Moment(unix, 1000.0 + unix - NOW, "one")
            nodes = NodeStore(stale_after=STALE_AFTER, max_nodes=100)
            nodes.restore(entries(data, now), now.monotonic)
            assert all(entry.seen <= now.monotonic for entry in nodes.snapshot(now.monotonic))
            assert nodes.snapshot(now.monotonic + STALE_AFTER) == []


def test_another_catalogue() -> None:
    """Families are known by their names: one more is absent, one less is left out, another order is put right."""
    nodes = table(0)
    nodes.update([report("n", received_at=NOW, page_faults=1, fs_read_count=2, fs_write_count=3)], 1000)
    data = written(nodes)
    names = {family.name: family for family in BUILT_IN}
    new = Family("new", "One that was added.")
    other = Families((new, names["fs_write_count"], names["page_faults"]))
    (entry,) = entries(data, WRITTEN, other)
    assert entry.report.values == (None, 3, 1)
    assert b"".join(entry.report.lines).splitlines()[:2] == [
        b'fs_write_count{node_id="n"} 3',
        b'page_faults{node_id="n"} 1',
    ]
    (more,) = entries(data, WRITTEN, BUILT_IN.with_more([new]))
    assert more.report.values == (*entries(data, WRITTEN)[0].report.values, None)


def test_how_nodes_are_measured_is_kept() -> None:
    """In one object for all that are measured alike; a snapshot of a version that did not know it is taken back."""
    nodes = table(2)
    said: dict[str, Any] = {"source": "procfs", "interval_seconds": 10.0, "profiler_version": "1"}
    nodes.update([report(name, received_at=NOW, page_faults=1, **said) for name in ("a", "b")], 999)
    back = {entry.report.node_id: entry.report for entry in entries(written(nodes), WRITTEN)}
    provenance = back["a"].provenance
    assert provenance is not None
    assert provenance.fields == said
    assert back["b"].provenance is provenance
    assert back["n0"].provenance is None
    assert b'source="procfs"' in back["a"].lines[-1]
    older = [[record.node_id, record.values, None, NOW, record.seen] for record in read(written(nodes)).records]
    head, frame = SMALL[: SMALL.index(b"\n") + 1], msgspec.msgpack.encode(older)
    described = SMALL[len(head) : len(head) + 4 + int.from_bytes(SMALL[len(head) : len(head) + 4], "big")]
    data = head + described + len(frame).to_bytes(4, "big") + frame + bytes(4) + bytes(16)
    assert seen(resealed(data), WRITTEN).keys() == back.keys()


def test_another_exposition() -> None:
    """Whether the nodes' families are exposed may change between two runs: a snapshot holds no text."""
    exposed = table()
    unexposed = NodeStore(stale_after=STALE_AFTER, max_nodes=100)
    taken = read(SMALL).entries(BUILT_IN, unrendered, WRITTEN, STALE_AFTER)
    assert {entry.report.lines for entry in taken} == {()}
    unexposed.restore(taken, WRITTEN.monotonic)
    again = entries(written(unexposed), WRITTEN)
    assert sorted(again, key=lambda entry: entry.seen) == sorted(
        exposed.snapshot(WRITTEN.monotonic), key=lambda entry: entry.seen
    )


def test_torn_anywhere() -> None:
    """A file cut off at any byte is no snapshot: there is no half of a table."""
    for size in range(len(SMALL)):
        with pytest.raises(BadSnapshot, match="torn|no snapshot|empty|version"):
            read(SMALL[:size])
    with pytest.raises(BadSnapshot, match="torn"):
        read(SMALL + b"\0")


@given(at=st.integers(0, len(SMALL) - 1), flip=st.integers(1, 255))
def test_damaged_anywhere(at: int, flip: int) -> None:
    """A byte that has changed is noticed, wherever it is."""
    data = bytearray(SMALL)
    data[at] ^= flip
    with pytest.raises(BadSnapshot):
        read(bytes(data))


@given(data=st.binary(max_size=100) | st.binary(max_size=100).map(lambda rest: SMALL[:24] + rest))
def test_foreign_files(data: bytes) -> None:
    """They are refused, and nothing else happens."""
    with pytest.raises(BadSnapshot):
        read(data)


@given(
    payloads=st.lists(
        st.binary(max_size=30)
        | st.recursive(
            st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=5),
        ).map(msgspec.msgpack.encode),
        max_size=3,
    )
)
def test_forged_files(payloads: list[bytes]) -> None:
    """With a right digest around something else it is a bad snapshot, or one that holds nothing; never a crash."""
    frames = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    start = SMALL.index(b"\n") + 1
    for head in (SMALL[:start], SMALL[: -4 - 16]):
        data = resealed(head + frames + bytes(4) + bytes(16))
        try:
            snapshot = read(data)
        except BadSnapshot:
            continue
        assert len(snapshot.records) in {0, 3}


@pytest.mark.parametrize("node_id", ["", 'a"} 1\nb{x="', "a\nb", "<b>", "x" * 254])
def test_forged_node_ids(node_id: str) -> None:
    """What no report may call a node, no snapshot may either."""
    entry = Entry(1000, msgspec.structs.replace(report("n"), node_id=node_id))
    with pytest.raises(BadSnapshot, match="holds what no snapshot does"):
        read(b"".join(encode(FAMILIES, WRITTEN, [[entry]])))


@pytest.mark.parametrize(
    "change",
    [
        {"values": (float("nan"), *[None] * 7)},
        {"values": (float("inf"), *[None] * 7)},
        {"values": (1e300, *[None] * 7)},
        {"values": (1, float("nan"), 2, *[None] * 5)},
        {"timestamp": float("inf")},
        {"timestamp": float("nan")},
        {"timestamp": -1.0},
        {"timestamp": NOW + 601},
        {"received_at": float("inf")},
    ],
)
def test_forged_numbers(change: dict[str, Any]) -> None:
    """What no report may say is not taken from a file either: a time to come would supersede the node's reports."""
    entry = Entry(1000, msgspec.structs.replace(report("n", received_at=NOW), **change))
    with pytest.raises(BadSnapshot, match="numbers that no report may have"):
        read(b"".join(encode(FAMILIES, WRITTEN, [[entry]])))


def test_a_value_below_the_least_of_its_family_is_not_taken_back() -> None:
    """The node reports again within seconds."""
    good = Entry(1000, report("good", page_faults=1))
    bad = Entry(1000, msgspec.structs.replace(report("bad"), values=(-5, *[None] * 7)))
    snapshot = read(b"".join(encode(FAMILIES, WRITTEN, [[good, bad]])))
    entries = snapshot.entries(BUILT_IN, SampleRenderer(BUILT_IN), WRITTEN, 60)
    assert [entry.report.node_id for entry in entries] == ["good"]


def test_a_frame_that_goes_past_the_end() -> None:
    """It is not read into the digest, nor beyond."""
    start = SMALL.index(b"\n") + 1
    for size in (b"\xff\xff\xff\xff", b"\0\0", b"\0\0\0\7"):
        with pytest.raises(BadSnapshot, match="past its end"):
            read(resealed(SMALL[:start] + size + bytes(16)))
    with pytest.raises(BadSnapshot, match="more after its end"):
        read(resealed(SMALL[:-16] + b"x" + bytes(16)))


def test_records_of_other_families_than_it_says() -> None:
    """No value is taken for another family's."""
    with pytest.raises(BadSnapshot, match="other families"):
        read(written(table(), families=FAMILIES[:3]))


def test_another_version() -> None:
    """It is not guessed at."""
    with pytest.raises(BadSnapshot, match="not of version 1"):
        read(SMALL.replace(b"snapshot 1\n", b"snapshot 2\n", 1))
