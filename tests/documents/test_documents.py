"""What the documents say of the tests is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from orchestratord.config.options import OPTIONS, TABLES

ROOT = Path(__file__).parents[2]


def defined(path: Path) -> set[str]:
    """Return the names that a test module defines, `Class::method` included."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def rows_with_a_test(text: str) -> list[str]:
    """Return the rows of the tables whose last column is `test`."""
    rows: list[str] = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *body = table.splitlines()
        if head.endswith("| test |"):
            rows += body
    return rows


@pytest.mark.parametrize("document", ["HTTP.md", "RELIABILITY.md", "SECURITY.md"])
def test_every_promise_names_a_test_that_exists(document: str) -> None:
    """Each promise, and each threat, stands beside a test; one that was renamed or removed is found here."""
    rows = rows_with_a_test((ROOT / "docs" / document).read_text())
    assert rows
    for row in rows:
        named = re.findall(r"`((?:tests|image)/[\w/]+\.py)::([\w:]+)`", row.rpartition(" | ")[2])
        assert named, row
        assert [f"{path}::{name}" for path, name in named if name not in defined(ROOT / path)] == []


@pytest.mark.parametrize("document", ["README.md", "docs/OPERATIONS.md", "docs/SCALING.md"])
def test_links_lead_somewhere(document: str) -> None:
    """A link to a file of the repository finds it, one to a section finds the heading."""
    path = ROOT / document
    links = [link for link in re.findall(r"\]\(([^)]+)\)", path.read_text()) if "://" not in link]
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("document", ["docs/OPERATIONS.md", "docs/SCALING.md"])
def test_options_in_the_runbooks_exist(document: str) -> None:
    """Whoever is told at night to set an option finds it."""
    tables = "|".join(sorted({option.name.partition(".")[0] for option in TABLES}))
    named = set(re.findall(rf"`(--[a-z-]+(?![\w.])|(?:{tables})\.[a-z_]+)", (ROOT / document).read_text()))
    assert len(named) > 10
    assert named - {option.shown for option in OPTIONS} == set()


@pytest.mark.parametrize("document", ["docs/OPERATIONS.md", "docs/TLS.md", "docs/SCALING.md"])
def test_a_command_that_fails_is_seen_to_fail(document: str) -> None:
    """The program curl alone ends with 0 whatever the answer's status is."""
    text = (ROOT / document).read_text()
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    commands = re.findall(r"\bcurl -[^;|&\n]*", blocks) + re.findall(r"`(curl [^`]+)`", text)
    assert [each for each in commands if not re.match(r"curl (-sSf |.*--fail)", each)] == []


def anchors(text: str) -> set[str]:
    """Return the names of a document's headings, as links have them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
