"""What the documents say of the tests is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from orchestratord.config.options import OPTIONS, TABLES
from orchestratord.profiler.tap import Options as ProfilerOptions

ROOT = Path(__file__).parents[2]

#: Every document that people read.
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.md"))
#: What a run makes, or an operator.
MADE = {"tests/fuzz/crashes/"}


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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """A link to a file of the repository finds it, one to a section finds the heading."""
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_readme_leads_to_every_document() -> None:
    """Each document is one link away from README.md, which itself is short."""
    text = (ROOT / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w/]+\.md)\)", text))
    assert set(DOCUMENTS) - {"README.md"} == linked
    assert len(text.splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_in_the_documents_exist(document: str) -> None:
    """A path of the repository in backquotes is there; one that has moved is found here."""
    folders = "docs|etc|image|k8s|orchestratord|plugins|tests"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)(?:::[\w:]+)?`", (ROOT / document).read_text())
    assert [path for path in named if path not in MADE and not (ROOT / path).exists()] == []


def test_the_profilers_options_have_a_row_each() -> None:
    """docs/PROFILER.md: each option with its environment variable."""
    rows = re.findall(r"^\| `--([a-z-]+)` \| `(\w+)` \|", (ROOT / "docs/PROFILER.md").read_text(), re.MULTILINE)
    names = [str(row[0]) for row in ProfilerOptions.optParameters]
    assert rows == [(name, f"PROFILER_{name.upper().replace('-', '_')}") for name in names]


@pytest.mark.parametrize("document", ["docs/OPERATIONS.md", "docs/SCALING.md"])
def test_options_in_the_runbooks_exist(document: str) -> None:
    """An option that a runbook names is one that the daemon has."""
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
