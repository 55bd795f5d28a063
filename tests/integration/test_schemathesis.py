"""schemathesis against the daemon: thousands of requests made from the description, right ones and wrong ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.description import PATH
from tests.integration.daemon import ROOT, Daemon, environment, report, run
from tests.integration.stores import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

PROGRAM = str(Path(sys.executable).with_name("schemathesis"))
CONFIG = ROOT / "tests" / "integration" / "schemathesis.toml"
#: Seconds that it may take. On an idle machine it takes a tenth.
BUDGET = 240.0


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon with a Prometheus behind it; it must end cleanly, with no traceback in its log."""
    prometheus = Prometheus(tmp_path / "prometheus")
    daemon = Daemon(tmp_path / "daemon", "--prometheus", prometheus.url, "--stale-after", "3600")
    try:
        prometheus.start(daemon.started().port)
        daemon.post(report("node-1", page_faults=52103)).raise_for_status()
        yield daemon
        daemon.stop()
    finally:
        prometheus.close()
        daemon.close()


def test_nothing_that_the_description_allows_or_forbids_is_answered_otherwise(attacked: Daemon, tmp_path: Path) -> None:
    """No 500, no status, type, header or body that is not described; right requests are taken, wrong ones refused."""
    ended = run(
        PROGRAM,
        f"--config-file={CONFIG}",
        "--no-color",
        "run",
        str(PATH),
        f"--url={attacked.url}",
        cwd=tmp_path,
        env=environment(tmp_path, {"PYTHONPATH": str(ROOT)}),
        seconds=BUDGET,
    )
    said = re.sub(r"^(.{500}).*", r"\1...", ended.stdout, flags=re.MULTILINE)
    assert ended.returncode == 0, said + ended.stderr
    generated = re.search(r"(\d+) generated, \d+ passed", ended.stdout)
    assert generated, said
    assert int(generated[1]) > 1000
    assert re.search(r"Selected: (\d+)/\1\n\s+Tested: \1\n", ended.stdout), said
