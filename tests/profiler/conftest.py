"""What the profiler's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

from tests.profiler.fakes import FakeReactor
from tests.profiler.proc_tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def reactor() -> FakeReactor:
    """Return a reactor whose clock starts at 1,700,000,000 s; the test advances it."""
    return FakeReactor(now=1_700_000_000.0)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Give the log lines of the profiler as an operator reads them; the list grows during the test."""
    formatted: list[str] = []

    def observe(event: Any) -> None:
        if str(event.get("log_namespace", "")).startswith("orchestratord.profiler"):
            formatted.append(formatEvent(event))

    publisher: Any = globalLogPublisher
    publisher.addObserver(observe)
    yield formatted
    publisher.removeObserver(observe)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return an empty /proc."""
    return Tree(tmp_path)
