"""The soak in its short form: few nodes, every fault once."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import ROOT, Server, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: Seconds; it takes half a minute.
SOAK_PATIENCE = 180.0


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Server]:
    """Give a short soak that is under way."""
    server = Server((sys.executable, "-m", "tests.soak", "--short", "--seed", "4"), tmp_path, {"PYTHONPATH": str(ROOT)})
    try:
        yield server
    finally:
        server.close()


def test_short_soak(soak: Server) -> None:
    """Nothing that was answered 200 is lost and nothing else is there, whatever fault comes, each of them once."""
    code = soak.wait(SOAK_PATIENCE)
    assert code == 0, soak.output()
    assert "| lost | **0** |" in soak.output()
    assert "Promises kept: all." in soak.output()
    assert soak.members() == {}


def test_interrupted(soak: Server) -> None:
    """Ctrl-C ends it, and all servers that it has started."""
    until(lambda: "prometheus" in soak.members().values(), "the servers")
    soak.signal(signal.SIGINT)
    assert soak.wait() == 130
    soak.gone()
