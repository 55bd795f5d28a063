"""How large a run is, and what goes wrong when: all of it from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

#: Orchestrators side by side.
REPLICAS = 3


class Deed(Enum):
    """What is done to the servers, or by the nodes."""

    DRAIN = "the front moves all nodes off a replica"
    KILL = "SIGKILL of a replica"
    RESTART = "SIGTERM of a replica"
    FREEZE = "SIGSTOP of a replica"
    STOP_STORE = "SIGTERM of the store"
    FREEZE_STORE = "SIGSTOP of the store"
    END = "nodes end"
    DELETE = "a node that has ended is deleted"


@dataclass(frozen=True)
class Due:
    """A deed `at` so many seconds after the beginning, undone `lasts` seconds later.

    `replica` is whose it is, `nodes` how many end.
    """

    at: float
    deed: Deed
    lasts: float = 0.0
    replica: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class Plan:
    """One run. All durations are in seconds; `seconds` is how long nodes report once the store shows all of them."""

    seed: int
    seconds: float
    nodes: int
    interval: float
    stale_after: float
    scene: tuple[Due, ...]
    #: None for the daemon's default.
    expire_every: float | None = None
    snapshot_every: float | None = None
    #: Whether the store is asked not to take its time over new series.
    hurried: bool = False
    #: How often is looked at instant answers and at /nodes.
    look_every: float = 0.5
    #: What an ended node may go on being answered, above the stale limit.
    grace: float = 5.0
    #: After what time an answered report surely is in the store's answers.
    visible: float = 3.0
    #: How long a store that was away may take until it has what was reported meanwhile.
    catch_up: float = 20.0


def long(seed: int) -> Plan:
    """Return a run of two minutes with 500 nodes."""
    first, second, third = _replicas(seed)
    return Plan(
        seed,
        seconds=120,
        nodes=500,
        interval=2.0,
        stale_after=10.0,
        scene=_moved(
            seed,
            2.0,
            Due(3, Deed.DRAIN, 14, replica=first),
            # Its nodes repeat elsewhere what it reads when it goes on: it comes to two replicas, and late.
            Due(4, Deed.FREEZE, 3, replica=third),
            Due(12, Deed.END, nodes=30),
            Due(14, Deed.DELETE, 3.5, nodes=1),
            # Some of them were heard last by the replica that is killed then.
            Due(29, Deed.END, nodes=20),
            Due(30, Deed.KILL, 6, replica=second),
            # It loses all nodes to the others, and has nothing to deliver that would tell it how the store is.
            Due(40, Deed.DRAIN, 42, replica=second),
            Due(45, Deed.STOP_STORE, 30),
            Due(50, Deed.END, nodes=20),
            Due(56, Deed.RESTART, 1, replica=third),
            Due(65, Deed.KILL, 1, replica=first),
            Due(97, Deed.FREEZE_STORE, 8),
            Due(99, Deed.END, nodes=10),
            Due(108, Deed.END, nodes=20),
        ),
    )


def short(seed: int) -> Plan:
    """Return a run of about 20 s with the same, each once."""
    first, second, third = _replicas(seed)
    return Plan(
        seed,
        seconds=12,
        nodes=60,
        interval=0.5,
        stale_after=3.0,
        expire_every=1.0,
        snapshot_every=1.0,
        hurried=True,
        look_every=0.25,
        scene=_moved(
            seed,
            0.3,
            Due(0, Deed.DELETE, 0.8, nodes=1),
            Due(0.2, Deed.FREEZE, 1.4, replica=third),
            Due(2.5, Deed.END, nodes=5),
            Due(3.0, Deed.KILL, 0.5, replica=second),
            Due(4.2, Deed.DRAIN, 5.5, replica=first),
            Due(6, Deed.STOP_STORE, 3),
            Due(6.3, Deed.END, nodes=5),
            Due(6.8, Deed.RESTART, 0.2, replica=third),
            Due(10, Deed.FREEZE_STORE, 0.8),
            Due(10.5, Deed.END, nodes=5),
        ),
    )


def ending(plan: Plan) -> list[list[int]]:
    """Return which nodes end, for each of the scene's deeds: none of them twice."""
    nodes = list(range(plan.nodes))
    random.Random(f"{plan.seed} ending").shuffle(nodes)
    return [[nodes.pop() for _ in range(due.nodes)] for due in plan.scene]


def _replicas(seed: int) -> list[int]:
    return random.Random(f"{seed} replicas").sample(range(REPLICAS), REPLICAS)


def _moved(seed: int, most: float, *scene: Due) -> tuple[Due, ...]:
    """Return the scene with its moments moved, by up to so many seconds."""
    chance = random.Random(f"{seed} moments")
    return tuple(Due(due.at + chance.uniform(0, most), due.deed, due.lasts, due.replica, due.nodes) for due in scene)
