"""Runs one target under atheris: `python -m tests.fuzz.libfuzzer TARGET [what libFuzzer takes]`."""

from __future__ import annotations

import importlib
import sys

import atheris

if __name__ == "__main__":
    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=["orchestratord", "tests.fuzz"]):
        check = importlib.import_module(f"tests.fuzz.{target}").check
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
