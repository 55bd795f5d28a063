from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.nodes.families import BUILT_IN, LAST_REPORT
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRow, SampleRowFormat, row_names
from tests.fakes import FAMILIES, NOW, report

if TYPE_CHECKING:
    from orchestratord.nodes.report import NodeReport

NAMES = row_names(BUILT_IN)
FORMAT = SampleRowFormat(NAMES)

ROWS = st.builds(
    SampleRow,
    node_id=st.binary(min_size=1, max_size=253),
    timestamp=st.integers(0, 2**47),
    values=st.binary(min_size=8 * len(NAMES), max_size=8 * len(NAMES)),
)


def row(given: NodeReport) -> SampleRow:
    """Return the one row of a report, read back."""
    at = given.received_at if given.timestamp is None else given.timestamp
    (found,) = FORMAT.rows(FORMAT.sample(given.node_id, given.values, at))
    return found


def test_the_names_of_a_row() -> None:
    """The families in the catalogue's order, and the time of the last report."""
    assert (*FAMILIES, LAST_REPORT) == NAMES


def test_a_report_is_a_row() -> None:
    """Its id, its own time to the millisecond, its values as doubles; what it does not have is absent, not zero."""
    found = row(report("n1", timestamp=NOW - 2.5, mem_bytes_allocated=4096, page_faults=0, fs_read_size_kb=2**64 - 1))
    assert (found.node_id, found.timestamp) == (b"n1", round((NOW - 2.5) * 1000))
    values = dict(zip(NAMES, struct.unpack("<9d", found.values), strict=True))
    assert (values["mem_bytes_allocated"], values["page_faults"], values["fs_read_size_kb"]) == (4096, 0, 2.0**64)
    assert values[LAST_REPORT] == NOW - 2.5
    assert math.isnan(values["fs_write_count"])
    assert [found.values[at : at + 8] for at in range(0, 72, 8)].count(ABSENT) == 5


def test_without_a_timestamp_it_is_the_arrival() -> None:
    """Once to the millisecond, and the last report's time is the very same."""
    found = row(report("n1", received_at=NOW + 0.0004, page_faults=1))
    assert found.timestamp == NOW * 1000
    assert struct.unpack("<d", found.values[-8:]) == (NOW,)


@pytest.mark.parametrize(("at", "milliseconds"), [(-5.0, 0), (0.0, 0), (1e300, 2**47)])
def test_a_time_out_of_all_reason_is_the_nearest_that_can_be_written(at: float, milliseconds: int) -> None:
    """A store refuses it, and this node alone has the harm."""
    assert row(report("n1", received_at=at)).timestamp == milliseconds


def test_markers_are_not_numbers_of_ours() -> None:
    """The one is Prometheus' stale NaN, bit for bit; the other is a quiet NaN, and neither is the other."""
    assert (STALE.hex(), ABSENT.hex()) == ("020000000000f07f", "000000000000f87f")
    assert struct.pack("<d", math.nan) == ABSENT


@given(st.lists(ROWS, max_size=20))
def test_what_is_written_is_read(rows: list[SampleRow]) -> None:
    """Byte for byte: signalling NaNs too."""
    assert FORMAT.rows(b"".join(map(FORMAT.row, rows))) == rows


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_a_torn_payload_is_refused(rows: list[SampleRow], data: st.DataObject) -> None:
    """Wherever it is cut, but between two rows."""
    written = [FORMAT.row(row) for row in rows]
    whole = b"".join(written)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [sum(map(len, written[:count])) for count in range(len(written) + 1)]
    if cut in ends:
        assert FORMAT.rows(whole[:cut]) == rows[: ends.index(cut)]
    else:
        with pytest.raises(ValueError, match="cut short"):
            FORMAT.rows(whole[:cut])


@given(st.binary(max_size=400))
def test_any_bytes_are_rows_or_refused(payload: bytes) -> None:
    """Nothing else comes of them; what is read is what was there."""
    try:
        rows = FORMAT.rows(payload)
    except ValueError as error:
        assert str(error) == "a row is cut short"
    else:
        assert b"".join(map(FORMAT.row, rows)) == payload


def test_a_row_of_nobody_is_refused() -> None:
    """No node has an empty id: such bytes are zeros that a crash has left."""
    with pytest.raises(ValueError, match="cut short"):
        FORMAT.rows(bytes(200))
