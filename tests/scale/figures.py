"""The figures of a run, a column for each store, and whether the promises were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks import machine
from tests.scale.book import Breach
from tests.soak.figures import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scale.run import Outcome
    from tests.soak.account import Durations

#: The mark of the section in docs/SCALING.md.
MARK = "soak-scale"


def broken(outcome: Outcome) -> list[str]:
    """Return a line for each promise that was broken."""
    account = outcome.account
    lines = [f"{promise}: broken {count} times" for promise, count in account.broken.items()]
    if not outcome.findings.found or not account.looks["instant answers"] or not account.looks["/nodes"]:
        lines.append("nothing was delivered: there is no run to speak of")
    return lines


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the figures, a name and a text each."""
    account, findings, watch, took = outcome.account, outcome.findings, outcome.watch, outcome.watch.took
    reports = account.reports
    wrong = (Breach.PHANTOM, Breach.WRONG, Breach.TWICE)
    return [
        ("promises kept", "; ".join(broken(outcome)) or "all"),
        ("reports sent", f"{reports['sent']:,}"),
        ("answered 200", f"{findings.answered:,}"),
        ("found, every sample with its timestamp and value", f"{findings.found:,}"),
        ("lost", f"**{findings.lost}**"),
        (
            "there and never reported; wrong values; twice with different values",
            "; ".join(str(findings.counts[b]) for b in wrong),
        ),
        ("series too many; labels too many; ended while they reported", _ends(outcome)),
        ("samples compared", f"{findings.samples:,}, {findings.repeated:,} of them there twice, and equal"),
        (
            "repeated by their nodes; given up, of which in the store",
            f"{reports['retried']:,}; {reports['given up']}, {findings.unsure}",
        ),
        ("nodes that ended", f"{len(watch.ended)}, {len(watch.remaining)} of them still in instant answers"),
        ("gone from instant answers, median / most", _took(took["calm"])),
        ("the same where the store or a replica was away meanwhile", _took(took["away"])),
        ("the same where all replicas that had heard from it lately were restarted", _took(took["searched"])),
        ("the same after DELETE", _took(took["deleted"])),
        ("from the first reports until all nodes were in instant answers", f"{outcome.appeared:.1f} s"),
        ("from the POST into the store's answers, p50 / p99", _times(watch.fresh)),
        ("report p50 / p99", _times(account.report_times)),
        ("longest time without a report answered 200", f"{account.longest_gap:.2f} s"),
        ("the fullest spool", f"{outcome.spool_peak / 1e6:.2f} MB"),
        ("looks at instant answers; at /nodes; that a fault cut short", _looks(outcome)),
        ("said by the replicas", _counters(outcome)),
        ("what happened", counted(account.faults)),
        ("longest time that the machine did not let the load itself run", f"{account.longest_stall:.2f} s"),
    ]


def markdown(outcomes: Sequence[Outcome], packages: Sequence[str]) -> str:
    """Return the figures as a section's text."""
    plan = outcomes[0].plan
    head = [
        *machine.versions([*packages, "haproxy"]),
        f"Seed {plan.seed}, three replicas, stale after {plan.stale_after:g} s",
        f"{plan.nodes} nodes, a report of each every {plan.interval:g} s for {plan.seconds:g} s",
    ]
    table = [list(texts) for texts in zip(*([text for _, text in rows(one)] for one in outcomes), strict=True)]
    names = [name for name, _ in rows(outcomes[0])]
    return "\n".join(
        [
            *(f"- {line}." for line in head),
            "",
            f"| what | {' | '.join(one.store for one in outcomes)} |",
            "|---" * (1 + len(outcomes)) + "|",
            *(f"| {name} | {' | '.join(texts)} |" for name, texts in zip(names, table, strict=True)),
        ]
    )


def _ends(outcome: Outcome) -> str:
    return "; ".join(str(outcome.findings.counts[breach]) for breach in (Breach.SERIES, Breach.LABELS, Breach.ENDED))


def _looks(outcome: Outcome) -> str:
    return "; ".join(f"{outcome.account.looks[name]:,}" for name in ("instant answers", "/nodes", "failed"))


def _took(seconds: list[float]) -> str:
    taken = sorted(seconds)
    return f"{taken[len(taken) // 2]:.1f} / {taken[-1]:.1f} s after the last report" if taken else "none"


def _counters(outcome: Outcome) -> str:
    short = {name.removeprefix("orchestrator_"): count for name, count in outcome.counted.items() if count}
    return counted({f"`{name}`": count for name, count in short.items()})


def _times(times: Durations) -> str:
    def pair(*, calm: bool) -> str:
        return " / ".join(f"{times.milliseconds(share, calm=calm):.0f}" for share in (0.5, 0.99))

    return f"{pair(calm=False)} ms; while nothing was away {pair(calm=True)} ms"
