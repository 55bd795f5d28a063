"""How large a run is, how long, and which faults come when: all of it from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Plan:
    """One run. All durations are in seconds; `pause` is between two faults, `lasts` is how long one goes on."""

    seed: int
    minutes: float
    nodes: int = 5000
    interval: float = 10.0
    stale_after: float = 60.0
    scrape_every: float = 5.0
    query_timeout: float = 1.5
    request_timeout: float = 8.0
    queries_each_second: float = 50.0
    looks_each_second: float = 50.0
    tables_every: float = 5.0
    #: How many more nodes than ours the table takes.
    spare: int = 100
    pause: tuple[float, float] = (1.0, 4.0)
    lasts: tuple[float, float] = (2.0, 6.0)
    slow_clients: int = 200
    snapshot_every: float = 10.0
    #: What it may take to write one, on a machine that has other things to do.
    snapshot_write: float = 5.0
    #: The share of queries that may fail without a fault: the machine itself may be slow for a moment.
    tolerance: float = 0.001
    #: Whether there is time enough for every fault several times, and so for memory to tell something.
    whole: bool = True

    @property
    def seconds(self) -> float:
        """How long faults go on."""
        return self.minutes * 60


def short(seed: int) -> Plan:
    """Return a run of about 20 s with every fault once."""
    return Plan(
        seed,
        minutes=0,
        nodes=200,
        interval=1.0,
        stale_after=6.0,
        scrape_every=1.0,
        query_timeout=1.0,
        request_timeout=20.0,
        queries_each_second=20.0,
        looks_each_second=30.0,
        tables_every=0.5,
        spare=20,
        pause=(0.05, 0.1),
        lasts=(0.3, 0.6),
        slow_clients=50,
        snapshot_every=1.0,
        snapshot_write=3.0,
        tolerance=0.02,
        whole=False,
    )


@dataclass(frozen=True)
class Due:
    """A fault that comes `pause` seconds after the one before it has ended, and goes on for `lasts` seconds."""

    kind: str
    pause: float
    lasts: float


def schedule(plan: Plan, kinds: Sequence[str], purpose: str) -> Iterator[Due]:
    """Yield faults without end, each kind once before any comes again; the same ones for the same seed and purpose."""
    chance = random.Random(f"{plan.seed} {purpose}")
    while True:
        deck = sorted(kinds)
        chance.shuffle(deck)
        for kind in deck:
            yield Due(kind, chance.uniform(*plan.pause), chance.uniform(*plan.lasts))
