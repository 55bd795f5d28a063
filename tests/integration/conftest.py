"""Daemons for the integration tests: one for all tests that do not disturb each other, and any number of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon with default settings, and an upstream that nobody listens on; it must end cleanly."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), "--prometheus", "http://127.0.0.1:9")
    try:
        yield daemon.started()
        daemon.stop()
    finally:
        daemon.close()


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
