"""What a run consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scale.book import Book
    from tests.scale.front import Front
    from tests.scale.nodes import Nodes
    from tests.scale.plan import Plan
    from tests.scale.replicas import Replica
    from tests.scale.stores import Store
    from tests.soak.account import Account


@dataclass(frozen=True)
class World:
    """The servers and the nodes of a run, and what is noted of them."""

    plan: Plan
    store: Store
    replicas: list[Replica]
    front: Front
    nodes: Nodes
    book: Book
    account: Account
