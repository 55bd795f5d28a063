"""The figures of a run: what they are, whether the promises were kept, and where they are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks import machine
from tests.soak.ledger import Breach

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from tests.soak.account import Durations
    from tests.soak.run import Outcome

_FLAT = 0.05
#: Descriptors that come and go: connections of the moment.
_DESCRIPTORS = 100


def broken(outcome: Outcome) -> list[str]:
    """Return a line for each promise that was broken."""
    account = outcome.account
    lines = [f"{promise}: broken {count} times" for promise, count in account.broken.items()]
    asked = sum(account.queries.values())
    if len(outcome.failed) > outcome.plan.tolerance * asked:
        lines.append(f"{len(outcome.failed)} of {asked} queries failed without a fault: {outcome.failed[:5]}")
    if not account.reports["200"] or not account.queries["200"] or not account.looks["tables"]:
        lines.append("nothing was answered: there is no run to speak of")
    if outcome.plan.whole:
        if growth(outcome) > _FLAT:
            lines.append(f"memory grew by {growth(outcome):.1%}, more than {_FLAT:.0%}")
        if outcome.end.descriptors > outcome.start.descriptors + _DESCRIPTORS:
            lines.append(f"descriptors grew from {outcome.start.descriptors} to {outcome.end.descriptors}")
    return lines


def growth(outcome: Outcome) -> float:
    """Return by what share the daemon's memory grew in its last life."""
    return outcome.end.resident / outcome.start.resident - 1


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the figures, a name and a text each."""
    account = outcome.account
    reports = account.reports
    ends = {name: count for name, count in reports.items() if name not in {"sent", "superseded", "200"}}
    return [
        ("reports sent", f"{reports['sent']:,}"),
        ("answered 200", f"{reports['200']:,}, {reports['superseded']:,} of them superseded"),
        ("refused, by status; without an answer", counted(ends)),
        ("lost", f"**{account.lost}**"),
        ("there and not answered 200; wrong values; stale and served", _phantoms(account.broken)),
        ("looks at nodes; at whole tables; that a fault cut short", _three(account.looks, "nodes", "tables", "failed")),
        ("report p50 / p99", _times(account.report_times)),
        ("query p50 / p99", _times(account.query_times)),
        ("queries, by outcome", counted(account.queries)),
        ("queries that failed, or were late, without a fault", str(len(outcome.failed))),
        ("faults", counted(account.faults)),
        ("hostile requests, by answer", counted(account.hostile)),
        ("longest time without a report answered 200", f"{account.longest_gap:.2f} s ({account.gap_during})"),
        ("longest time that the machine did not let the load itself run", f"{account.longest_stall:.2f} s"),
        ("daemon's memory, all nodes in", _megabytes(outcome.first.resident)),
        (
            f"daemon's memory, start and end of its last {outcome.watched:.0f} s",
            f"{_megabytes(outcome.start.resident)}, {_megabytes(outcome.end.resident)}: {growth(outcome):+.1%}",
        ),
        ("daemon's descriptors, start and end", f"{outcome.start.descriptors}, {outcome.end.descriptors}"),
    ]


def markdown(outcome: Outcome) -> str:
    """Return the figures as a section's text."""
    plan = outcome.plan
    every = outcome.snapshot_every
    kept = "nothing kept over restarts" if every is None else f"a snapshot every {every:g} s"
    head = [
        *machine.versions(["prometheus"]),
        f"Seed {plan.seed}, {plan.minutes:g} minutes of faults",
        f"{plan.nodes:,} nodes, a report of each every {plan.interval:g} s; {kept}",
        "Promises kept: " + ("; ".join(broken(outcome)) or "all"),
    ]
    table = [f"| {name} | {text} |" for name, text in rows(outcome)]
    return "\n".join([*(f"- {line}." for line in head), "", "| what | figure |", "|---|---|", *table])


def write(text: str, path: Path, name: str = "soak") -> None:
    """Put the text between the two marks of a document that have this name."""
    begin_mark, end_mark = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = path.read_text().partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{path} has no {begin_mark} and {end_mark}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def counted(counts: Counter[str] | dict[str, int]) -> str:
    """Return counts as a text."""
    return "; ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _phantoms(counts: Counter[str]) -> str:
    return "; ".join(str(counts[breach.value]) for breach in (Breach.PHANTOM, Breach.GARBLED, Breach.STALE))


def _three(counts: Counter[str], *names: str) -> str:
    return "; ".join(f"{counts[name]:,}" for name in names)


def _times(times: Durations) -> str:
    def pair(*, calm: bool) -> str:
        return " / ".join(f"{times.milliseconds(share, calm=calm):.1f}" for share in (0.5, 0.99))

    return f"{pair(calm=False)} ms; while no fault was on {pair(calm=True)} ms"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
