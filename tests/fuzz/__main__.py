"""`make fuzz`: feed the targets with what libFuzzer makes of their corpus, or run one of them again on an input.

What ends a target is kept in CRASHES, and a line says how to run it again. Inputs that reach more code than the corpus
are kept in FOUND from run to run; those worth it go into the corpus by hand.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
CRASHES = HERE / "crashes"
FOUND = ROOT / "build" / "fuzz"
TARGETS = sorted(folder.name for folder in CORPUS.iterdir())
#: Seconds that one input may take.
TIMEOUT = 10
#: Bytes of the longest input.
MAX_LENGTH = 4096


def say(text: str) -> None:
    """Tell whoever runs this, before what libFuzzer tells."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fuzz(target: str, seconds: int) -> int:
    """Feed a target for so long; return libFuzzer's exit code, and say how to run again what has ended it."""
    found = FOUND / target
    for folder in (found, CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(CRASHES.iterdir())
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.libfuzzer",
        target,
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT}",
        f"-max_len={MAX_LENGTH}",
        f"-dict={HERE / 'tokens.dict'}",
        f"-artifact_prefix={CRASHES}/{target}-",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=0",
        str(found),
        str(CORPUS / target),
    ]
    say(f"fuzzing {target} for {seconds} s")
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    for crash in sorted(set(CRASHES.iterdir()) - before):
        shown = crash.relative_to(ROOT)
        say(f"\n{target} ends with the input in {shown}; again:\n  .venv/bin/python -m tests.fuzz {target} {shown}")
    return code


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=TARGETS, help="all, one after the other, unless told otherwise")
    parser.add_argument("inputs", nargs="*", type=Path, help="files to run the target on, and nothing more")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together; default 60")
    options = parser.parse_args()
    if options.inputs:
        check = importlib.import_module(f"tests.fuzz.{options.target}").check
        for path in options.inputs:
            check(path.read_bytes())
            say(f"{path}: nothing wrong")
        return 0
    targets = [options.target] if options.target else TARGETS
    seconds = max(1, options.seconds // len(targets))
    return max(fuzz(target, seconds) for target in targets)


if __name__ == "__main__":
    sys.exit(main())
