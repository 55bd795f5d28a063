"""What was reported and how it was answered, and so what may be seen of each node, and what must be. Pure.

A node sends one report at a time, so its reports take effect in their order, each at some moment between `sent` and
`ended`. A look at a node takes time too. What it may show is the state at any moment of the look: the last report that
had surely taken effect when the look began, or any later one that was sent before it ended and was not refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf


class Outcome(Enum):
    """What became of a report, as far as its sender knows."""

    PENDING = "not answered yet"
    STORED = "answered 200"
    SUPERSEDED = "answered 200 as superseded"
    REFUSED = "not answered 200"
    UNKNOWN = "its answer was lost"


class Breach(Enum):
    """How a promise is broken."""

    LOST = "lost"
    PHANTOM = "phantom"
    GARBLED = "wrong values"
    STALE = "stale and served"


@dataclass(frozen=True)
class Broken:
    """A broken promise and the evidence of it."""

    breach: Breach
    evidence: str


@dataclass(slots=True)
class Report:
    """A report, or the deletion of a node (`gone`), which is a report that there is nothing.

    `ended` is when its answer came or its connection broke, `certain` the moment from which it surely has taken effect;
    all times are in seconds of one monotonic clock. `timestamp` is the one in the report, in any clock of its node's.
    """

    node: int
    number: int
    sent: float
    timestamp: float | None = None
    gone: bool = False
    outcome: Outcome = Outcome.PENDING
    ended: float = inf
    certain: float = inf

    def __str__(self) -> str:
        what = "deletion" if self.gone else "report"
        return f"{what} {self.number} (sent at {self.sent:.3f}, {self.outcome.value}, ended at {self.ended:.3f})"


class Ledger:
    """The reports of all nodes, those forgotten that no look can be about any more.

    `slack` is by how much, in seconds, the daemon may err about a report's age. `horizon` is how long the longest look
    takes, or how far back a restart may go, whichever is longer.
    """

    def __init__(self, *, stale_after: float, slack: float = 0.5, horizon: float = 90.0) -> None:
        self._stale_after = stale_after
        self._slack = slack
        self._horizon = horizon
        self._reports: dict[int, list[Report]] = {}
        self._died = -inf

    @property
    def nodes(self) -> list[int]:
        """The nodes that ever sent anything."""
        return list(self._reports)

    def sent(self, node: int, now: float, *, timestamp: float | None = None, gone: bool = False) -> Report:
        """Note that a report, or a deletion, is about to be sent; the one before it must have ended."""
        reports = self._reports.setdefault(node, [])
        for index in range(len(reports) - 1, 0, -1):
            if reports[index].certain < now - self._horizon:
                del reports[:index]
                break
        # Even if nothing is ever certain, there is a bound.
        del reports[:-100]
        report = Report(node, reports[-1].number + 1 if reports else 0, now, timestamp, gone)
        reports.append(report)
        return report

    def ended(self, report: Report, outcome: Outcome, now: float) -> Broken | None:
        """Note how a report ended; return what is wrong with that."""
        broken = None
        if outcome is Outcome.REFUSED and report.certain < inf:
            broken = self._broken(
                Breach.PHANTOM, report.node, f"{report} was seen and then answered otherwise than 200"
            )
        elif outcome is Outcome.SUPERSEDED and not self._may_supersede(report, now):
            broken = self._broken(Breach.LOST, report.node, f"{report} was answered as superseded and was the newest")
        elif outcome is Outcome.STORED and self._must_supersede(report, now):
            broken = self._broken(Breach.LOST, report.node, f"{report} replaced one with a later timestamp")
        if outcome is Outcome.STORED and report.sent <= self._died:
            outcome = Outcome.UNKNOWN  # the answer of a daemon that has died since, perhaps
        report.outcome = outcome
        report.ended = now
        if outcome is Outcome.STORED:
            report.certain = min(report.certain, now)
        return broken

    def restarted(self, died: float, kept_since: float) -> None:
        """Note that the daemon died, and that the next one starts with its table as it was at or after `kept_since`.

        Either is right then for what became certain after `kept_since`, until it is seen or replaced.
        """
        if kept_since >= died:
            return
        self._died = died
        for reports in self._reports.values():
            for report in reports:
                if report.certain > kept_since:
                    report.certain = inf
                    if report.outcome is Outcome.STORED:
                        report.outcome = Outcome.UNKNOWN

    def holds(self, node: int, began: float, ended: float) -> bool:
        """Return whether the node was surely in the table, and fresh, from `began` to `ended`."""
        certain, later = self._states(node, began, ended)
        return (
            certain is not None
            and not certain.gone
            and certain.sent + self._stale_after - self._slack > ended
            and not any(report.gone for report in later)
        )

    def look(self, node: int, seen: int | None, began: float, ended: float) -> Broken | None:
        """Judge a look between two moments that found the node's report of this number, or None: no node at all."""
        if seen is None:
            if self.holds(node, began, ended):
                return self._broken(Breach.LOST, node, "it is not there", began, ended)
            return None
        certain, later = self._states(node, began, ended)
        possible = later if certain is None else [certain, *later]
        report = next((one for one in possible if one.number == seen and not one.gone), None)
        if report is None:
            behind = certain is not None and seen < certain.number
            return self._broken(
                Breach.LOST if behind else Breach.PHANTOM, node, f"report {seen} is there", began, ended
            )
        if report.ended + self._stale_after + self._slack < began:
            return self._broken(Breach.STALE, node, f"{report} is still there", began, ended)
        report.certain = min(report.certain, ended)
        return None

    def was_sent(self, node: int, number: int) -> bool:
        """Return whether the node has sent a report of that number that, for all that is known, was not refused."""
        reports = self._reports.get(node, [])
        if not reports or number > reports[-1].number:
            return False
        refused = (Outcome.REFUSED, Outcome.SUPERSEDED)
        return not any(one.number == number and (one.gone or one.outcome in refused) for one in reports)

    def _states(self, node: int, began: float, ended: float) -> tuple[Report | None, list[Report]]:
        """Return the last report surely in effect at `began`, and the later ones that may have been by `ended`."""
        certain: Report | None = None
        later: list[Report] = []
        for report in self._reports.get(node, []):
            if report.certain <= began:
                certain = report
                later.clear()
            elif report.sent <= ended and report.outcome not in {Outcome.REFUSED, Outcome.SUPERSEDED}:
                later.append(report)
        return certain, later

    def _may_supersede(self, report: Report, now: float) -> bool:
        """Return whether a report may have met one with a later timestamp."""
        certain, later = self._states(report.node, report.sent, now)
        return any(_newer(one, report) for one in (certain, *later))

    def _must_supersede(self, report: Report, now: float) -> bool:
        """Return whether a report has surely met one with a later timestamp."""
        certain, later = self._states(report.node, report.sent, now)
        return _newer(certain, report) and later == [report] and self.holds(report.node, report.sent, now)

    def _broken(self, breach: Breach, node: int, what: str, began: float = inf, ended: float = inf) -> Broken:
        known = "; ".join(map(str, self._reports.get(node, [])[-5:])) or "it never sent any"
        looked = f", looked at from {began:.3f} to {ended:.3f}" if began < inf else ""
        return Broken(breach, f"node {node}{looked}: {what}; its last: {known}")


def _newer(one: Report | None, other: Report) -> bool:
    if one is None or one.timestamp is None or other.timestamp is None:
        return False
    return not one.gone and one.timestamp > other.timestamp


def kept_since(died: float, *, clean: bool, snapshot_every: float | None, write: float) -> float:
    """Return since when the table of a daemon that ended at `died` may be what the next one starts with.

    A clean stop writes a snapshot. One that is killed leaves the last one, at most `snapshot_every` seconds old and
    what it takes to `write` one. Without snapshots (None) nothing is kept.
    """
    if snapshot_every is None:
        return -inf
    return died if clean else died - snapshot_every - write
