"""The simulated nodes: each reports at its own moment of every interval, in the ways of the field."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from tests.soak.client import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.ledger import Report
    from tests.soak.plan import Plan
    from tests.soak.reports import RetryingSender

#: Of the nodes: these keep their connections, these report through relays; the others connect for every report.
_KEPT, _RELAYED = 0.25, 0.15
_BATCH = 50
#: What a node does instead of an ordinary report, and how often.
_INVALID, _FORGOTTEN, _LATE = 0.01, 0.003, 0.05
#: How often a node falls silent, for long enough to be gone.
_SILENT = 0.002


class NodeDirectory:
    """All nodes. Half of them say in their reports what time it is."""

    def __init__(self, plan: Plan, port: int, sender: RetryingSender) -> None:
        self._plan = plan
        self._port = port
        self._sender = sender
        self._chance = random.Random(f"{plan.seed} fleet")

    async def run(self) -> None:
        """Report until cancelled."""
        nodes = list(range(self._plan.nodes))
        self._chance.shuffle(nodes)
        relayed = int(len(nodes) * _RELAYED)
        kept = relayed + int(len(nodes) * _KEPT)
        async with asyncio.TaskGroup() as group:
            for first in range(0, relayed, _BATCH):
                group.create_task(self._relay(nodes[first : min(first + _BATCH, relayed)]))
            for place, node in enumerate(nodes[relayed:], relayed):
                group.create_task(self._node(node, keeps=place < kept))

    async def _node(self, node: int, *, keeps: bool) -> None:
        chance = random.Random(f"{self._plan.seed} {node}")
        connection = Connection(self._port)
        due = time.monotonic() + chance.random() * self._plan.interval
        while True:
            due = await self._until(due)
            kind = chance.random()
            if kind < _SILENT:
                connection.close()
                due += self._plan.stale_after * chance.uniform(0.9, 1.4)
            elif kind < _SILENT + _FORGOTTEN:
                await self._sender.delete(connection, node)
            else:
                report, body = self._sender.report(node, timestamp=_timestamp(node, chance))
                if kind < _SILENT + _FORGOTTEN + _INVALID:
                    _spoil(body, chance)
                    await self._sender.post(connection, [report], body, due=400)
                else:
                    await self._sender.post(connection, [report], body, closes=not keeps and node % 3 == 0)
            if not keeps:
                connection.close()

    async def _relay(self, nodes: Sequence[int]) -> None:
        """Send batches; one in a hundred has a report in it that is none, and so is refused whole."""
        chance = random.Random(f"{self._plan.seed} relay {nodes[0]}")
        connection = Connection(self._port)
        due = time.monotonic() + chance.random() * self._plan.interval
        while True:
            due = await self._until(due)
            reports: list[Report] = []
            bodies: list[dict[str, Any]] = []
            for node in nodes:
                report, body = self._sender.report(node, timestamp=_timestamp(node, None))
                reports.append(report)
                bodies.append(body)
            spoilt = chance.random() < _INVALID
            if spoilt:
                _spoil(bodies[-1], chance)
            due_status = 400 if spoilt else 200
            await self._sender.post(connection, reports, bodies, zipped=nodes[0] % 2 == 0, due=due_status)

    async def _until(self, due: float) -> float:
        """Wait until a node's moment, the next one if it has passed; return the moment after that."""
        now = time.monotonic()
        while due < now:
            due += self._plan.interval
        await asyncio.sleep(due - now)
        return due + self._plan.interval


def _timestamp(node: int, chance: random.Random | None) -> float | None:
    """Return the Unix time that a node says in its report, an hour late now and then if there is `chance`; or None."""
    if node % 2:
        return None
    late = chance is not None and chance.random() < _LATE
    return time.time() - (3600 if late else 0)


def _spoil(body: dict[str, Any], chance: random.Random) -> None:
    """Make of a report what is none, in one value."""
    body["fs_read_count"] = chance.choice((-1, "1", None, 2**64, True))
