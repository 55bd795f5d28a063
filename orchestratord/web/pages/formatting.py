"""Formats numbers, times and durations for people. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestratord.nodes.families import Family

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
#: The units of a family that are multiples of a byte, and how many bytes each is.
_BYTES = {"bytes": 1, "kb": 1000}
_NO_BREAK = "\N{NO-BREAK SPACE}"


def short(value: float) -> str:
    """Return a number with three digits and a prefix: `52.1 k`."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    size = abs(value)
    if size and size < 0.001:
        return f"{value:.1e}"
    power = 0
    while size >= 999.5 and power < len(_PREFIXES) - 1:
        size /= 1000
        power += 1
    digits = f"{size:.3g}" if size < 999.5 else f"{size:.0f}"
    text = f"{'-' if value < 0 else ''}{digits}"
    return f"{text}{_NO_BREAK}{_PREFIXES[power]}" if power else text


def with_unit(value: float, family: Family) -> str:
    """Return a value of a family with its unit: `1.68 GB`, `52.1 k faults`."""
    if family.unit in _BYTES:
        text = short(value * _BYTES[family.unit])
        return f"{text}B" if _NO_BREAK in text else f"{text}{_NO_BREAK}B"
    return f"{short(value)}{_NO_BREAK}{family.unit}" if family.unit else short(value)


def without_unit(value: float, family: Family) -> str:
    """Return what `with_unit` does, except for units that are words: those are left out, see `unit_word`."""
    return with_unit(value, family) if family.unit in _BYTES else short(value)


def unit_word(family: Family) -> str:
    """Return the unit that `without_unit` leaves out, empty if it leaves out none."""
    return "" if family.unit in _BYTES else family.unit


def table_number(value: float) -> str:
    """Return a number for a table: all digits of an integer, six digits of any other number."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.6g}" if math.isfinite(value) else short(value)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `2 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}{_NO_BREAK}s"
    for size, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            text = f"{whole // size}{_NO_BREAK}{unit}"
            return f"{text} {rest}{_NO_BREAK}{lower}" if rest else text
    raise AssertionError  # pragma: no cover - 60 s and more have a unit


def upper_bound(seconds: float) -> str:
    """Return an upper bound in seconds as text: `under 25 ms`."""
    if math.isinf(seconds):
        return "over 10 s"
    return f"under {seconds * 1000:g}{_NO_BREAK}ms" if seconds < 1 else f"under {seconds:g}{_NO_BREAK}s"


def utc_time(unix: float) -> str:
    """Return a Unix time as `09:00:00 UTC`."""
    return datetime.fromtimestamp(unix, UTC).strftime("%H:%M:%S UTC")


def iso_time(unix: float) -> str:
    """Return a Unix time in ISO 8601, with its zone."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return `1 node` or `2,000 nodes`."""
    return f"{count:,}{_NO_BREAK}{noun if count == 1 else plural or noun + 's'}"
