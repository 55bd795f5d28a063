"""What CONTRIBUTING.md promises of the code and no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> Iterator[str]:
    """Yield the full names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_only_the_taps_import_the_global_reactor() -> None:
    """Everything else is given one; the taps import it where they make the service, once twistd has chosen it."""
    importers = {
        str(path.relative_to(ROOT))
        for folder in ("orchestratord", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        if "twisted.internet.reactor" in imported(path)
    }
    assert importers == {"orchestratord/tap.py", "orchestratord/profiler/tap.py"}


def test_the_plugin_imports_nothing_that_could_choose_a_reactor() -> None:
    """`twistd --reactor=...` imports the plugins before it installs one."""
    plugin = ROOT / "plugins" / "twisted" / "plugins" / "orchestrator_plugin.py"
    assert set(imported(plugin)) == {"twisted.application.service.ServiceMaker"}


def test_the_version_is_in_the_changelog() -> None:
    """Every version that is released says what has changed."""
    from orchestratord import __version__  # noqa: PLC0415 - only here

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
