"""Daemons for the integration tests: one for all tests that do not disturb each other, and any number of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import ROOT, Daemon, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Seconds for what comes over the network.
INSTALL_PATIENCE = 300.0


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon with default settings, and an upstream that nobody listens on; it must end cleanly."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), "--prometheus", "http://127.0.0.1:9")
    try:
        yield daemon.started()
        daemon.stop()
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def installing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give an installation under way: the package from a clean copy of the tree, in a new environment `venv`."""
    home = tmp_path_factory.mktemp("install")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = home / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    steps = (
        f'"{sys.executable}" -m venv venv && cd tree && ../venv/bin/pip install --quiet --report ../installed.json .'
    )
    # With pip's own settings and cache, as a person has them.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = Server(("sh", "-c", steps), home, env)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session", autouse=True)
def _install_early(request: pytest.FixtureRequest) -> None:
    """Begin the installation before the first test, where it is asked for at all: it is what takes longest."""
    if any("installing" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("installing")


@pytest.fixture(scope="session")
def installed(installing: Server) -> Path:
    """Give the folder of programs of a new environment in which the package is installed."""
    assert installing.wait(INSTALL_PATIENCE) == 0, installing.output()
    return installing.home / "venv" / "bin"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Give a function that starts a daemon with these options; each must end cleanly."""
    daemons: list[Daemon] = []

    def start(*options: str, **more: object) -> Daemon:
        daemon = Daemon(tmp_path / f"daemon-{len(daemons)}", *options, **more)  # type: ignore[arg-type]
        daemons.append(daemon)
        return daemon.started()

    try:
        yield start
        for daemon in daemons:
            if not daemon.killed:
                daemon.stop()
    finally:
        for daemon in daemons:
            daemon.close()
