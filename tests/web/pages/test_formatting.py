"""Numbers, times and durations as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.nodes.families import BUILT_IN, Family
from orchestratord.web.pages.formatting import (
    counted,
    duration,
    iso_time,
    short,
    table_number,
    upper_bound,
    utc_time,
    with_unit,
)

FAMILIES = {family.name: family for family in BUILT_IN}


def spaced(text: str) -> str:
    """Return a text with normal spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1 k"),
        (52103, "52.1 k"),
        (999_999, "1 M"),
        (-1_684_023_712, "-1.68 G"),
        (0.25, "0.25"),
        (0.00004, "4.0e-05"),
        (2.0**64, "18.4 E"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "NaN"),
    ],
)
def test_short(value: float, text: str) -> None:
    """Three digits and a prefix."""
    assert spaced(short(value)) == text


@given(st.floats())
def test_any_number_has_a_text(value: float) -> None:
    """Custom families may hold anything."""
    assert short(value)
    assert table_number(value)
    assert with_unit(value, FAMILIES["mem_bytes_allocated"])


def test_units() -> None:
    """Bytes get their prefix, kB are bytes, words follow."""
    assert spaced(with_unit(1_684_023_712, FAMILIES["mem_bytes_allocated"])) == "1.68 GB"
    assert spaced(with_unit(12, FAMILIES["mem_bytes_allocated"])) == "12 B"
    assert spaced(with_unit(22_031, FAMILIES["fs_read_size_kb"])) == "22 MB"
    assert spaced(with_unit(52_103, FAMILIES["page_faults"])) == "52.1 k faults"
    assert with_unit(3, Family("runs", "Runs.")) == "3"


def test_plain_has_all_digits() -> None:
    """Tables show all digits."""
    assert (table_number(1_684_023_712), table_number(0.123456789), table_number(2.5)) == (
        "1,684,023,712",
        "0.123457",
        "2.5",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (188_000, "2 d 4 h")],
)
def test_lasting(seconds: float, text: str) -> None:
    """At most two units are shown."""
    assert spaced(duration(seconds)) == text


def test_bounds_counts_and_moments() -> None:
    """As on the pages."""
    assert [spaced(upper_bound(value)) for value in (0.0025, 1, math.inf)] == ["under 2.5 ms", "under 1 s", "over 10 s"]
    assert (spaced(counted(1, "node")), spaced(counted(2000, "node"))) == ("1 node", "2,000 nodes")
    assert (utc_time(1_795_424_400), iso_time(1_795_424_400)) == ("09:00:00 UTC", "2026-11-23T09:00:00+00:00")
