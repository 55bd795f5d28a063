"""Any text as PromQL: it is bounded before it is parsed, and what memory answers is what the text means.

The first byte says how the rest is read: as a whole query, or as the regular expression of one matcher.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from promql_parser import VectorSelector

from orchestratord.promql.bounded_parser import (
    MAX_NESTING,
    MAX_OPERATORS,
    MAX_STRINGS,
    MAX_TOKENS,
    Text,
    parse_or_panic,
)
from orchestratord.promql.node_matching import MAX_PROGRAM, node_matcher
from orchestratord.promql.selection import Selection, select
from tests.fakes import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

INDEXES = {name: index for index, name in enumerate(FAMILIES)}
NODES = ["n1", "n2", "N1", "a.b", "a-b", "a:b", "a_b", "ab", "aab", "node-1.example", "5", "-", "x" * 253]
#: Expressions that mean the same to Python, and on which it cannot spend long.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_:.|-]|\\[.:-])*|[a-z0-9]*\.[*+][a-z0-9]*")
#: Where the parts of an expression are, in promql-parser's classes.
_PARTS = ("lhs", "rhs", "expr", "param", "vector_selector")


def check(data: bytes, select: Callable[[str, dict[str, int]], Selection | None] = select) -> None:
    """Fail unless the text is parsed within its bounds, and selects what it says."""
    way, text = data[:1], data[1:].decode("utf-8", "replace")
    if way == b"r":
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        selection = select(f'page_faults{{node_id=~"{quoted}"}}', INDEXES)
        if selection is not None:
            _selects(selection, [Text("=~", text)])
        return
    parsed = parse_or_panic(text)
    selection = select(text, INDEXES)
    if parsed is None:
        assert selection is None
        return
    depth, size = _measured(parsed.expression)
    assert depth <= 2 * MAX_NESTING + MAX_OPERATORS + 2
    assert size <= MAX_TOKENS
    assert len(parsed.texts) <= MAX_STRINGS
    if selection is not None:
        assert isinstance(parsed.expression, VectorSelector)
        _selects(selection, parsed.texts)


def _selects(selection: Selection, texts: list[Text]) -> None:
    """What is selected is what all matchers take, by themselves, and by Python's own expressions."""
    assert 0 <= selection.steps <= MAX_PROGRAM
    assert selection.size > 0
    for node in NODES:
        matches = selection.matches(node)
        assert matches == all(_takes(text, node) for text in texts)
        assert not matches or selection.node_ids is None or node in selection.node_ids


def _takes(text: Text, node: str) -> bool:
    if text.operator in {"=", "!="}:
        return (node == text.value) == (text.operator == "=")
    if not _PLAIN.fullmatch(text.value):
        matcher = node_matcher(text.operator, text.value)
        assert matcher is not None
        return matcher.matches(node)
    return (re.fullmatch(text.value, node) is not None) == (text.operator == "=~")


def _measured(expression: Any) -> tuple[int, int]:
    """Return how deep an expression is, and how many parts it has."""
    parts = [getattr(expression, name, None) for name in _PARTS] + list(getattr(expression, "args", None) or ())
    measured = [_measured(part) for part in parts if part is not None]
    return 1 + max((depth for depth, _ in measured), default=0), 1 + sum(size for _, size in measured)
