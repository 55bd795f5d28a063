"""A plain selector of PromQL, and the nodes that it selects. Pure."""

from __future__ import annotations

from typing import NamedTuple

from promql_parser import VectorSelector

from orchestratord.promql.bounded_parser import parse
from orchestratord.promql.node_matching import MAX_PATTERN, MAX_PROGRAM, NodeMatcher, node_matcher

#: Bytes that a selection takes besides its matchers.
_SELECTION_BYTES = 1024


class Selection(NamedTuple):
    """A plain selector: one family, and the nodes that all `matchers` select.

    `column` is the family's index among the known families. `node_ids` are the only nodes that can match, if a matcher
    names them; None if any can. `steps` bounds the work for each byte of a node id, in instructions of RE2. `size` is
    the memory in bytes.
    """

    name: str
    column: int
    matchers: tuple[NodeMatcher, ...]
    node_ids: list[str] | None
    steps: int
    size: int

    def matches(self, node_id: str) -> bool:
        """Return whether every matcher selects the node."""
        for matcher in self.matchers:  # noqa: SIM110 - all() with a generator takes twice as long
            if not matcher.matches(node_id):
                return False
        return True


def select(promql: str, indexes: dict[str, int]) -> Selection | None:
    """Return the selection of a query; None if it is not a plain selector of a known family with matchers on node_id.

    `indexes` are the indexes of the known families, by name. Returns None also if Prometheus may refuse the query or
    read it differently, and if it takes too much work.
    """
    parsed = parse(promql)
    expression = None if parsed is None else parsed.expression
    if parsed is None or not isinstance(expression, VectorSelector):
        return None
    name = expression.name
    column = None if name is None else indexes.get(name)
    if (
        name is None
        or column is None
        or expression.offset is not None
        or expression.at is not None
        or expression.matchers.or_matchers
    ):
        return None
    matchers: list[NodeMatcher] = []
    node_ids = None
    steps = compiled = 0
    for matcher in expression.matchers.matchers:
        text = parsed.matcher(matcher)
        made = None if text is None or matcher.name != "node_id" else node_matcher(text.operator, text.value)
        if text is None or made is None:
            return None
        if made.steps:
            steps, compiled = steps + made.steps, compiled + len(text.value)
            if steps > MAX_PROGRAM or compiled > MAX_PATTERN:
                return None
        matchers.append(made)
        node_ids = node_ids if made.node_ids is None else made.node_ids
    size = _SELECTION_BYTES + sum(matcher.size for matcher in matchers)
    return Selection(name, column, tuple(matchers), node_ids, steps, size)
