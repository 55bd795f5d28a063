"""`python -m tests.scale`: orchestrators side by side before one store after the other, and the figures of it."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.servers import ServerError, Servers
from tests.scale import figures
from tests.scale.plan import Plan, long, short
from tests.scale.run import Outcome, Scale
from tests.scale.stores import STORES
from tests.soak.figures import write

_DOCUMENT = Path(__file__).parents[2] / "docs" / "SCALING.md"
_BEGAN = time.monotonic()


def main() -> int:
    """Run; return 0 if every promise was kept, 1 if one was not, 2 if there was no run."""
    options = _options()
    stores = options.store or list(STORES)
    programs = ["haproxy", "setpriv", "taskset", *stores]
    if absent := [program for program in programs if not shutil.which(program)]:
        print(f"missing programs: {', '.join(absent)}", file=sys.stderr)  # noqa: T201 - a program's output
        return 2
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    plan = (short if options.short else long)(seed)
    outcomes: list[Outcome] = []
    try:
        for store in stores:
            with tempfile.TemporaryDirectory(prefix="orchestrator-scale-") as home, Servers(Path(home)) as servers:
                outcomes.append(asyncio.run(_run(plan, store, servers)))
    except* ServerError as errors:
        for error in _flat(errors):
            print(f"seed {seed}: {error}", file=sys.stderr)  # noqa: T201 - a program's output
        return_code = 1
    except* (KeyboardInterrupt, asyncio.CancelledError):
        return_code = 130
    else:
        return_code = 0
    return return_code or _tell(outcomes, write_down=options.write)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats a run's moments [default: a new one, which is printed]")
    parser.add_argument("--store", action="append", choices=list(STORES), help="may be repeated [default: all]")
    parser.add_argument("--short", action="store_true", help="few nodes, a quarter of a minute")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/SCALING.md")
    return parser.parse_args()


async def _run(plan: Plan, store: str, servers: Servers) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Scale(plan, STORES[store](servers), servers, _say).run()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:4.0f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program's output


def _flat(errors: BaseExceptionGroup[ServerError]) -> list[BaseException]:
    return [
        one
        for error in errors.exceptions
        for one in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _tell(outcomes: list[Outcome], *, write_down: bool) -> int:
    text = figures.markdown(outcomes, [STORES[one.store].package for one in outcomes])
    print(text)  # noqa: T201 - a program's output
    for outcome in outcomes:
        for line in outcome.account.evidence:
            print(f"evidence: {outcome.store}: {line}", file=sys.stderr)  # noqa: T201 - a program's output
    if write_down:
        write(text, _DOCUMENT, figures.MARK)
    return 1 if any(figures.broken(outcome) for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
