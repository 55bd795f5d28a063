"""The one token of a run with `--tokens`: every role is shut, and every request, to whomever, carries it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "benchmark-0123456789abcdef0123456789abcdef"
#: In the environment, so that the helper processes know it too.
_VARIABLE = "BENCHMARK_TOKENS"


def use() -> None:
    """Have this run use tokens."""
    os.environ[_VARIABLE] = "1"


def used() -> bool:
    """Return whether this run uses tokens."""
    return _VARIABLE in os.environ


def headers() -> dict[str, str]:
    """Return the header that every request carries, if any."""
    return {"Authorization": f"Bearer {TOKEN}"} if used() else {}


def options(home: Path) -> list[str]:
    """Return what ours is started with."""
    if not used():
        return []
    file = home / "token"
    file.write_text(TOKEN)
    return [f"--token-file={role}={file}" for role in ("report", "query", "scrape", "admin")]
