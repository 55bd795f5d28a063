"""Simulated nodes of several kinds, each with its own load; a few have much more load than the others."""

from __future__ import annotations

import math
import random

from orchestratord.nodes.families import BUILT_IN

#: The kinds of nodes: name, share of all nodes, and the counts in 10 s for each built-in family, in the order of
#: BUILT_IN.
_KINDS = (
    ("web", 0.5, (1.1e9, 42_000, 81_000, 1_900, 36_000, 18_000, 8_200, 4_100)),
    ("batch", 0.25, (3.4e9, 160_000, 22_000, 14_500, 12_000, 96_000, 5_400, 61_000)),
    ("db", 0.15, (2.2e9, 21_000, 140_000, 3_100, 210_000, 820_000, 64_000, 240_000)),
    ("gpu", 0.1, (7.5e9, 380_000, 31_000, 6_400, 5_100, 240_000, 1_900, 22_000)),
)


class Node:
    """One node. Its load depends on its name and the time only."""

    def __init__(self, name: str, base: tuple[float, ...]) -> None:
        self.name = name
        chance = random.Random(name)
        # The load differs between nodes; a few have nine times as much.
        weight = math.exp(chance.gauss(0, 0.45)) * (9 if chance.random() < 0.03 else 1)
        self._base = tuple(value * weight * math.exp(chance.gauss(0, 0.15)) for value in base)
        self._phase, self._period = chance.random() * 6.3, chance.uniform(900, 5400)

    def counts(self, at: float) -> dict[str, int]:
        """Return the counts of each family in the 10 s before a Unix time."""
        chance = random.Random(f"{self.name} {at:.0f}")
        swing = 1 + 0.45 * math.sin(self._phase + at * 6.283 / self._period)
        burst = 1.8 if chance.random() < 0.02 else 1.0
        return {
            family: int(base * swing * burst * chance.uniform(0.9, 1.1))
            for family, base in zip(BUILT_IN.names, self._base, strict=False)
        }


def simulated_nodes(size: int) -> list[Node]:
    """Return `size` nodes of all kinds."""
    nodes: list[Node] = []
    for kind, share, base in _KINDS:
        count = round(size * share)
        width = len(str(count))
        nodes += [Node(f"{kind}-{number:0{width}}", base) for number in range(1, count + 1)]
    return nodes[:size]
