"""Connections fit into the limit of open files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: In a process of its own, since a limit that was lowered cannot be raised again.
SCRIPT = """
import json, resource, sys
from twisted.logger import capturedLogs
from orchestratord.runtime.file_descriptors import connections_that_fit
soft, hard, wanted, upstream = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with capturedLogs() as logs:
    fit = connections_that_fit(wanted, upstream)
print(json.dumps([fit, *resource.getrlimit(resource.RLIMIT_NOFILE), len(logs)]))
"""


@pytest.mark.parametrize(
    ("limits", "wanted", "upstream", "becomes"),
    [
        ((1024, 1024), 500, 256, [500, 1024, 1024, 0]),
        ((256, 1024), 500, 256, [500, 884, 1024, 0]),
        ((256, 1024), 5000, 256, [640, 1024, 1024, 1]),
        ((256, 256), 5000, 256, [128, 256, 256, 1]),
    ],
    ids=["enough", "raised", "raised and lowered", "hardly any"],
)
def test_what_fits(limits: tuple[int, int], wanted: int, upstream: int, becomes: list[int]) -> None:
    """The soft limit is raised as far as needed and allowed; what cannot be had is said in one line."""
    arguments = [str(number) for number in (*limits, wanted, upstream)]
    said = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, capture_output=True, text=True)
    assert json.loads(said.stdout) == becomes
