"""What stands in the pages under docs/, to be run by tests."""

from __future__ import annotations

import re

from tests.integration.daemon import ROOT


def document(name: str) -> str:
    """Return the text of a page."""
    return (ROOT / "docs" / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """Return the page's blocks of code in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
