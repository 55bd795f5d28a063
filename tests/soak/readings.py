"""What a simulated node reports: values that tell whose they are, and in which of its reports they were. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tests.benchmarks import payloads

if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES = tuple(payloads.FAMILIES)
#: Nodes are numbered below this, so that a value has room for the number of its node.
MOST_NODES = 100_000
#: Every so manieth report leaves the last two families out: what is absent is not zero.
_SPARSE = 7


def values(node: int, number: int) -> dict[str, int]:
    """Return the values of a node's report, by family; no two reports of the whole run have one in common."""
    families = FAMILIES[:-2] if number % _SPARSE == _SPARSE - 1 else FAMILIES
    return {name: (number * len(FAMILIES) + index) * MOST_NODES + node for index, name in enumerate(families)}


def number_of(node: int, seen: Mapping[str, float]) -> int | None:
    """Return the number of the node's report that had exactly these values, None if no report of it had."""
    number = origin(node, FAMILIES[0], seen.get(FAMILIES[0], -1))
    return number if number is not None and seen == values(node, number) else None


def origin(node: int, family: str, value: float) -> int | None:
    """Return the number of the node's report that had this value, None if it is no value of the node's."""
    if not 0 <= value < inf or value != int(value):
        return None
    rest, owner = divmod(int(value), MOST_NODES)
    number, index = divmod(rest, len(FAMILIES))
    return number if owner == node and FAMILIES[index] == family and family in values(node, number) else None


def node_number(node_id: str) -> int | None:
    """Return the number of a node of ours by its id, None if it is none."""
    digits = node_id.removeprefix("node-")
    known = digits.isdecimal() and payloads.node_id(int(digits)) == node_id
    return int(digits) if known else None
