"""What was reported, how it was answered, and so which samples a store must have, may have, and may not. Pure.

A sample is a time in milliseconds since 1970 and a value. All other times are in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from orchestratord.nodes.families import LAST_REPORT
from tests.benchmarks import payloads
from tests.soak.readings import FAMILIES, node_number, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: What a store has of a node.
NAMES = (*FAMILIES, LAST_REPORT)

#: Samples as a store has them, by node id and family.
Samples = dict[tuple[str, str], list[tuple[int, float]]]
#: Moments at which series had ended, in milliseconds, by node id and family.
Ends = dict[tuple[str, str], set[int]]


class Breach(Enum):
    """How the promise of delivery is broken."""

    LOST = "a report that was answered 200 is in the store, every sample of it"
    PHANTOM = "what is in the store was reported"
    WRONG = "a sample has the value that was reported"
    TWICE = "no sample is there twice with different values"
    SERIES = "there is one series of a node and family"
    LABELS = "a series has no label but its own and the external ones"
    ENDED = "a node that goes on reporting is not ended"


@dataclass(slots=True)
class Entry:
    """A report of a node: when it was sent first, when a 200 to it came, and when its node had done with it."""

    node: int
    number: int
    at: int
    sent: float
    answered: float = inf
    left: float = inf
    refused: bool = False
    #: Who answered it.
    replica: int | None = None

    def samples(self) -> dict[str, float]:
        """Return the samples that a store has of it, by family."""
        return {**values(self.node, self.number), LAST_REPORT: self.at / 1000}

    def __str__(self) -> str:
        how = "refused" if self.refused else "answered 200" if self.answered < inf else "without an answer"
        return f"report {self.number} of {payloads.node_id(self.node)} at {self.at}, {how}"


@dataclass
class Findings:
    """What a comparison has come to; `breaks` is called for each breach."""

    breaks: Callable[[Breach, str], None]
    #: By what share a value may come back differently.
    rounding: float = 0.0
    #: Reports that were answered 200; of them those whose samples are all there, and those that lack one.
    answered: int = 0
    found: int = 0
    lost: int = 0
    #: Reports without an answer of which something is there.
    unsure: int = 0
    samples: int = 0
    #: Samples that are there more than once, with the same value.
    repeated: int = 0
    counts: Counter[Breach] = field(default_factory=Counter)

    def equal(self, one: float, other: float) -> bool:
        """Return whether two values are the same to the store."""
        return math.isclose(one, other, rel_tol=self.rounding)

    def found_broken(self, breach: Breach, evidence: str) -> None:
        """Note a breach."""
        self.counts[breach] += 1
        self.breaks(breach, evidence)


class Book:
    """The reports of all nodes."""

    def __init__(self) -> None:
        self._entries: dict[int, list[Entry]] = {}
        #: When a node was deleted, for those that were.
        self.deleted: dict[int, float] = {}

    @property
    def nodes(self) -> list[int]:
        """The nodes that ever reported."""
        return list(self._entries)

    def sent(self, node: int, now: float, at: int) -> Entry:
        """Note that a report is about to be sent; return it. Its time `at` is later than that of the one before it."""
        entries = self._entries.setdefault(node, [])
        if entries:
            at = max(at, entries[-1].at + 1)
        entry = Entry(node, len(entries), at, now)
        entries.append(entry)
        return entry

    def entries(self, node: int) -> list[Entry]:
        """Return the node's reports."""
        return self._entries.get(node, [])

    def answered(self) -> int:
        """Return how many reports were answered 200."""
        return sum(entry.answered < inf for entries in self._entries.values() for entry in entries)

    def surely(self, node: int, began: float, ended: float, *, stale_after: float, visible: float) -> bool:
        """Return whether a look between two moments must find the node: it was answered, and is not stale.

        `visible` is after what time an answered report surely is to be seen.
        """
        if self.deleted.get(node, inf) <= ended:
            return False
        heard = max((one.sent for one in self._tail(node) if one.answered <= began - visible), default=-inf)
        return heard > ended - stale_after

    def last(self, node: int) -> float:
        """Return when the node was over with its last report, as far as is known; inf while it waits for an answer."""
        return max(one.left if one.answered == inf else one.answered for one in self._tail(node))

    def _tail(self, node: int) -> Iterable[Entry]:
        """Return as many of the node's reports as a look can be about."""
        return self._entries.get(node, [])[-200:]

    def compare(self, samples: Samples, findings: Findings) -> None:
        """Compare what a store has with what was reported."""
        for (node_id, family), found in samples.items():
            node = node_number(node_id)
            if node is None or node not in self._entries or family not in NAMES:
                findings.found_broken(Breach.PHANTOM, f"{family}{{node_id={node_id!r}}} was never reported")
                continue
            self._compare_series(node, family, found, findings)
        for node, entries in self._entries.items():
            self._find(node, entries, samples, findings)

    def _compare_series(self, node: int, family: str, found: list[tuple[int, float]], findings: Findings) -> None:
        """Compare what there is of a series: every sample must have been reported."""
        reported = {entry.at: entry for entry in self._entries[node]}
        seen: dict[int, float] = {}
        for at, value in found:
            findings.samples += 1
            where = f"{family} of {payloads.node_id(node)} is {value!r} at {at}"
            if at in seen:
                if findings.equal(seen[at], value):
                    findings.repeated += 1
                else:
                    findings.found_broken(Breach.TWICE, f"{where}, and {seen[at]!r} as well")
                continue
            seen[at] = value
            entry = reported.get(at)
            if entry is None or entry.refused or family not in entry.samples():
                findings.found_broken(Breach.PHANTOM, f"{where}, where there is {entry or 'no report'}")
            elif not findings.equal(entry.samples()[family], value):
                findings.found_broken(Breach.WRONG, f"{where}, and {entry} has {entry.samples()[family]!r}")

    def _find(self, node: int, entries: list[Entry], samples: Samples, findings: Findings) -> None:
        """Look for every sample of what was answered 200."""
        node_id = payloads.node_id(node)
        times = {family: {at for at, _ in samples.get((node_id, family), ())} for family in NAMES}
        for entry in entries:
            missing = [family for family in entry.samples() if entry.at not in times[family]]
            if entry.answered == inf:
                findings.unsure += len(missing) < len(entry.samples())
                continue
            findings.answered += 1
            if missing:
                findings.lost += 1
                findings.found_broken(Breach.LOST, f"{entry} lacks {', '.join(missing)}")
            else:
                findings.found += 1

    def compare_series(
        self, series: Iterable[Mapping[str, str]], external: Mapping[str, str], findings: Findings
    ) -> None:
        """Look at the labels of all series: one for each node and family, and nothing in them of a replica."""
        count: Counter[tuple[str, str]] = Counter()
        for labels in series:
            name, node_id = labels.get("__name__", ""), labels.get("node_id", "")
            count[name, node_id] += 1
            if labels != {"__name__": name, "node_id": node_id, **external}:
                findings.found_broken(Breach.LABELS, f"a series has the labels {dict(labels)}")
        for (name, node_id), many in count.items():
            if many > 1:
                findings.found_broken(Breach.SERIES, f"there are {many} series of {name}{{node_id={node_id!r}}}")

    def compare_ends(self, ends: Ends, stale_after: float, findings: Findings) -> None:
        """Look at the moments, in milliseconds, at which series had ended, by node id and family.

        No such moment may lie between two reports that are closer than the stale limit, but for a family that the first
        of them has not.
        """
        for (node_id, family), moments in ends.items():
            node = node_number(node_id)
            entries = [entry for entry in self._entries.get(-1 if node is None else node, []) if entry.answered < inf]
            wrong = [
                (moment, before.at, after.at)
                for before, after in pairwise(entries)
                if after.at - before.at < stale_after * 1000 and family in before.samples()
                for moment in moments
                if before.at <= moment < after.at
            ]
            if wrong:
                moment, first, second = wrong[0]
                findings.found_broken(
                    Breach.ENDED,
                    f"{family} of {node_id} had ended at {moment} ({len(wrong)} moments), and was reported at {first}"
                    f" and {second}",
                )
