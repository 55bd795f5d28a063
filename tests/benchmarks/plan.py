"""How much is measured: rounds, seconds, sizes; and how rounds take turns."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")
_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Plan:
    """One run. `seconds` is what each load takes, `nodes` what a large cluster has; `home` is for temporary files."""

    home: Path
    rounds: int = 3
    seconds: float = 2.0
    nodes: int = 100_000

    def interleave(self, case: str, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Measure each side once a round, one side after the other; return a value a round for each side."""
        measured: dict[str, list[T]] = {name: [] for name in sides}
        for number in range(self.rounds):
            for name, value in self.interleave_once(f"{case}: round {number + 1} of {self.rounds}", sides).items():
                measured[name].append(value)
        return measured

    def interleave_once(self, case: str, sides: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Measure each side once, one after the other."""
        measured: dict[str, T] = {}
        for name, measure in sides.items():
            measured[name] = measure()
            progress(case, f"{name}: {_shown(measured[name])}")
        return measured


def progress(case: str, text: str) -> None:
    """Say how far it is."""
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {case}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program's output


def _shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
