"""`python -m tests.soak`: runs, prints the figures, and writes them down if that is wanted."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.servers import ServerError, Servers
from tests.soak import figures
from tests.soak.plan import Plan, short
from tests.soak.run import Outcome, Soak

_DOCUMENT = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"
_BEGAN = time.monotonic()


def main() -> int:
    """Run; return 0 if every promise was kept, 1 if one was not, 2 if there was no run."""
    options = _options()
    absent = [program for program in ("prometheus", "setpriv", "taskset") if not shutil.which(program)]
    if absent:
        print(f"missing programs: {', '.join(absent)}", file=sys.stderr)  # noqa: T201 - a program's output
        return 2
    os.sched_setaffinity(0, machine.CLIENT)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    plan = short(seed) if options.short else Plan(seed, options.minutes, nodes=options.nodes)
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrator-soak-") as home, Servers(Path(home)) as servers:
            outcome = asyncio.run(_run(plan, servers))
    except ServerError as error:
        print(f"seed {seed}: {error}", file=sys.stderr)  # noqa: T201 - a program's output
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return _tell(outcome, write=options.write)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long faults go on [default: 10]")
    parser.add_argument("--seed", type=int, help="repeats a run's faults [default: a new one, which is printed]")
    parser.add_argument("--nodes", type=int, default=5000, help="simulated nodes [default: 5000]")
    parser.add_argument("--short", action="store_true", help="few nodes, every fault once, no judgement of memory")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/RELIABILITY.md")
    return parser.parse_args()


async def _run(plan: Plan, servers: Servers) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Soak(plan, servers, _say).run()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program's output


def _tell(outcome: Outcome, *, write: bool) -> int:
    text = figures.markdown(outcome)
    print(text)  # noqa: T201 - a program's output
    for line in outcome.account.evidence:
        print(f"evidence: {line}", file=sys.stderr)  # noqa: T201 - a program's output
    if write:
        figures.write(text, _DOCUMENT)
    return 1 if figures.broken(outcome) else 0


if __name__ == "__main__":
    sys.exit(main())
