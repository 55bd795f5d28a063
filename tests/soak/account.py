"""What a run adds up to: counts, durations, promises that were broken and the evidence of it."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.soak.ledger import Breach
from tests.soak.suspensions import Service, Suspensions

if TYPE_CHECKING:
    from tests.soak.ledger import Broken

#: Evidence of one kind that is kept; the rest is only counted.
_MOST_EVIDENCE = 20


class Durations:
    """How long answers took, in seconds: all of them, and those that came while no fault was on."""

    def __init__(self) -> None:
        self._all = array("d")
        self._calm = array("d")

    def add(self, seconds: float, *, calm: bool) -> None:
        """Add one."""
        self._all.append(seconds)
        if calm:
            self._calm.append(seconds)

    def milliseconds(self, share: float, *, calm: bool) -> float:
        """Return what this share of them took at most, in milliseconds; NaN if there are none."""
        taken = sorted(self._calm if calm else self._all)
        return taken[min(len(taken) - 1, int(share * len(taken)))] * 1000 if taken else float("nan")


@dataclass
class Account:
    """Everything that is counted. `last_stored` is when a report was answered 200 last, by the monotonic clock."""

    suspensions: Suspensions = field(default_factory=Suspensions)
    #: Reports by how they ended.
    reports: Counter[str] = field(default_factory=Counter)
    queries: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    #: Requests of hostile clients, by how they were answered.
    hostile: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    evidence: list[str] = field(default_factory=list)
    doubts: list[tuple[Service, float, float, str, str]] = field(default_factory=list)
    report_times: Durations = field(default_factory=Durations)
    query_times: Durations = field(default_factory=Durations)
    last_stored: float | None = None
    longest_gap: float = 0.0
    gap_during: str = "none"
    #: For how long, in seconds, the load itself was not let run.
    longest_stall: float = 0.0
    #: The fault that is on.
    fault: str = "none"

    @property
    def lost(self) -> int:
        """How often a report that was answered 200 was not there."""
        return self.broken[Breach.LOST.value]

    def breaks(self, promise: str, evidence: str) -> None:
        """Note that a promise was broken."""
        self.broken[promise] += 1
        if self.broken[promise] <= _MOST_EVIDENCE:
            self.evidence.append(f"{promise} (fault: {self.fault}): {evidence}")

    def unless(self, service: Service, began: float, ended: float, promise: str, evidence: str) -> None:
        """Note that a promise was broken, unless the service turns out to have been suspended between these moments."""
        self.doubts.append((service, began, ended, promise, f"during {self.fault}: {evidence}"))

    def conclude(self) -> None:
        """Judge what was in doubt: only at the end is it known when the machine did not let anybody run."""
        for service, began, ended, promise, evidence in self.doubts:
            if not self.suspensions.covers(service, began, ended):
                self.breaks(promise, evidence)
        self.doubts.clear()

    def judged(self, broken: Broken | None) -> None:
        """Note what a ledger found, if it found something."""
        if broken is not None:
            self.breaks(broken.breach.value, broken.evidence)

    def stored(self, now: float) -> None:
        """Note that a report was answered 200: the daemon is available."""
        if self.last_stored is not None and now - self.last_stored > self.longest_gap:
            self.longest_gap = now - self.last_stored
            self.gap_during = self.fault
        self.last_stored = now
