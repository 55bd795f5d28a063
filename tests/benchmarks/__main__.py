"""`python -m tests.benchmarks`: runs the cases, prints the table and writes it down."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.cases import CASES
from tests.benchmarks.cases.before import Before
from tests.benchmarks.http11 import HttpError
from tests.benchmarks.load import LoadError
from tests.benchmarks.plan import Plan, progress
from tests.benchmarks.servers import ServerError, Servers
from tests.benchmarks.table import SampleRow, markdown

_FAILURES = (LoadError, ServerError, HttpError, OSError, subprocess.SubprocessError)


def main() -> int:
    """Run; return 0 if every case could be measured."""
    options = _options()
    missing = machine.missing()
    if missing:
        print(missing, file=sys.stderr)  # noqa: T201 - a program's output
        return 2
    os.sched_setaffinity(0, machine.CLIENT)
    began = time.monotonic()
    rows, failures = _run(options)
    text = _text(options, rows, failures, time.monotonic() - began)
    print(text)  # noqa: T201 - a program's output
    partial = options.case or options.quick or options.before
    output = options.output or (None if partial else Path("BENCHMARKS.md"))
    if output:
        output.write_text(text)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--case", nargs="+", choices=list(CASES), metavar="NAME", help=f"only these: {', '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured [default: 3]")
    parser.add_argument("--output", type=Path, help="where the table goes [default: BENCHMARKS.md if all cases run]")
    parser.add_argument("--quick", action="store_true", help="one short round with few nodes: whether it works at all")
    parser.add_argument("--before", type=Path, metavar="TWISTD", help="only compare with the daemon of this twistd")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> tuple[list[SampleRow], list[str]]:
    rows: list[SampleRow] = []
    failures: list[str] = []
    cases = {"before": Before(options.before.resolve())} if options.before else CASES
    for name in options.case or cases:
        # A directory for each case: what one has stored must not slow down the next.
        with tempfile.TemporaryDirectory(prefix="orchestrator-bench-") as home, Servers(Path(home)) as servers:
            quick = Plan(Path(home), rounds=1, seconds=1, nodes=10_000)
            plan = quick if options.quick else Plan(Path(home), rounds=options.rounds)
            progress(name, "starts")
            try:
                rows += cases[name](plan, servers)
            except _FAILURES as error:
                failures.append(f"{name}: {error}")
                progress(name, f"FAILED: {error}")
    return rows, failures


def _text(options: argparse.Namespace, rows: list[SampleRow], failures: list[str], seconds: float) -> str:
    unmet = sum(row.met is False for row in rows)
    demanded = sum(row.met is not None for row in rows)
    rounds = 1 if options.quick else options.rounds
    lines = ["# Benchmarks", "", "Written by `make bench`.", ""]
    lines += [f"- {line}" for line in machine.description()]
    lines += [
        f"- Rounds: {rounds}, ours and the peers in turn in each; shown are the median, and the least and the most.",
        f"- Duration: {seconds:.0f} s.",
        f"- Demands met: {demanded - unmet} of {demanded}.",
        "",
        markdown(rows),
    ]
    if failures:
        lines += ["Not measured:", "", *(f"- {failure}" for failure in failures), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
