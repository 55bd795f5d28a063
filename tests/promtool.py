"""Debian's promtool, which knows Prometheus' own rules for rules, configurations and metrics."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def promtool(*arguments: str, given: str = "", folder: Path | None = None) -> str:
    """Run promtool in a folder, with this on its stdin; it must find nothing wrong. Without it the test fails."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("no promtool on PATH; Debian's package prometheus brings it")
    run = subprocess.run([program, *arguments], cwd=folder, input=given, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
