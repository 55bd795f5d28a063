"""Numbers and moments as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.nodes.families import BUILT_IN, Family
from orchestratord.web.pages.formatting import clock, counted, lasting, measured, plain, short, stamp, under

FAMILIES = {family.name: family for family in BUILT_IN}


def spaced(text: str) -> str:
    """Return a text with plain blanks."""
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
    assert plain(value)
    assert measured(value, FAMILIES["mem_bytes_allocated"])


def test_units() -> None:
    """Bytes get their prefix, kB are bytes, words follow."""
    assert spaced(measured(1_684_023_712, FAMILIES["mem_bytes_allocated"])) == "1.68 GB"
    assert spaced(measured(12, FAMILIES["mem_bytes_allocated"])) == "12 B"
    assert spaced(measured(22_031, FAMILIES["fs_read_size_kb"])) == "22 MB"
    assert spaced(measured(52_103, FAMILIES["page_faults"])) == "52.1 k faults"
    assert measured(3, Family("runs", "Runs.")) == "3"


def test_plain_has_all_digits() -> None:
    """A table is for those who want them."""
    assert (plain(1_684_023_712), plain(0.123456789), plain(2.5)) == ("1,684,023,712", "0.123457", "2.5")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (188_000, "2 d 4 h")],
)
def test_lasting(seconds: float, text: str) -> None:
    """Two units say enough."""
    assert spaced(lasting(seconds)) == text


def test_bounds_counts_and_moments() -> None:
    """As they stand on the page."""
    assert [spaced(under(value)) for value in (0.0025, 1, math.inf)] == ["under 2.5 ms", "under 1 s", "over 10 s"]
    assert (spaced(counted(1, "node")), spaced(counted(2000, "node"))) == ("1 node", "2,000 nodes")
    assert (clock(1_795_424_400), stamp(1_795_424_400)) == ("09:00:00 UTC", "2026-11-23T09:00:00+00:00")
