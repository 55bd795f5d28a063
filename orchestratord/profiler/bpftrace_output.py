"""Parses the output of bpftrace, and makes buckets of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from orchestratord.profiler.bucket import Bucket

if TYPE_CHECKING:
    from orchestratord.profiler.bpftrace_program import Plan

MAX_LINE_BYTES = 16_384
"""A line of counts has under 100 bytes; a line longer than this limit is ignored."""

Totals: TypeAlias = Mapping[str, int]
"""The counters of a program by name, without the `@`. They only grow; a counter that is still 0 is absent."""


class _Line(msgspec.Struct):
    type: str
    data: object = None


class Lines:
    """Splits a stream of bytes into lines; buffers at most `MAX_LINE_BYTES`."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without line ends; lines that are too long are dropped."""
        *complete, rest = (self._rest + data).split(b"\n")
        if complete and self._skipping:
            del complete[0]
            self._skipping = False
        if len(rest) > MAX_LINE_BYTES:
            self._skipping = True
        self._rest = b"" if self._skipping else rest
        return [line for line in complete if len(line) <= MAX_LINE_BYTES]


class TotalsReader:
    """Reads bpftrace's JSON lines; returns the counters when an interval is complete."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Line)
        self._totals: dict[str, int] = {}

    def read(self, line: bytes) -> Totals | None:
        """Return the counters if `line` ends an interval, else None. Other lines are ignored."""
        try:
            printed = self._decoder.decode(line)
        except msgspec.DecodeError:
            return None
        if printed.type == "printf" and printed.data == "bucket\n":
            totals, self._totals = self._totals, {}
            return totals
        if printed.type == "map" and isinstance(printed.data, dict):
            for name, value in printed.data.items():
                if isinstance(value, int):
                    self._totals[str(name).removeprefix("@")] = value
        return None


def bucket_between(before: Totals, after: Totals, timestamp: float, plan: Plan) -> Bucket:
    """Return what the program counted between `before` and `after`; the interval ended at the Unix time `timestamp`."""
    values: dict[str, Any] = {}
    for family, (name, per) in plan.counters.items():
        count = max(0, after.get(name, 0) - before.get(name, 0))
        values[family] = count if per == 1 else count / per
    return Bucket(timestamp=timestamp, source=plan.source, **values)
