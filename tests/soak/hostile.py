"""Clients that the daemon must bear with: slow ones, strangers, clients that vanish."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.soak.client import Connection
from tests.soak.faults import Fault
from tests.soak.ledger import Outcome
from tests.soak.reports import post
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.faults import World

#: Strangers are numbered from here, those that vanish from there on.
_STRANGERS, _VANISHING = 50_000, 60_000


class Attack(Fault):
    """A fault that clients make: `attack` goes on until the end."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._task: asyncio.Task[None] | None = None

    async def attack(self) -> None:
        """Do it until cancelled."""
        raise NotImplementedError

    async def begin(self) -> None:
        """Let them come."""
        self._task = asyncio.ensure_future(self.attack())

    async def end(self) -> None:
        """Let them go."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


class SlowClients(Attack):
    """Clients that send a byte a second."""

    kind = "slow clients"

    async def begin(self) -> None:
        """Let them come, and stay until they are cut off, if there is time for that."""
        await super().begin()
        if self.world.plan.whole:
            await asyncio.sleep(self.world.plan.request_timeout)

    async def attack(self) -> None:
        """Send the reports of nodes that must never be seen, byte by byte."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.world.plan.slow_clients):
                group.create_task(self._trickle(post({"node_id": f"slow-{number}", "page_faults": 1})))

    async def _trickle(self, request: bytes) -> None:
        connection = Connection(self.world.field.port)
        try:
            for position in range(len(request)):
                await connection.send(request[position : position + 1])
                await asyncio.sleep(1)
        except OSError:
            self.world.account.hostile[f"{self.kind}: cut"] += 1
        finally:
            connection.close()


class Crowd(Attack):
    """A burst of new nodes, more than the table takes: those that are known are served all the same."""

    kind = "new nodes above --max-nodes"
    suspends = frozenset({Service.NEWCOMERS})

    async def attack(self) -> None:
        """Let each report once; then have all of them forgotten."""
        sender, plan = self.world.sender, self.world.plan
        refused = sender.account.reports["429"]
        connections = [Connection(self.world.field.port) for _ in range(10)]
        strangers = range(_STRANGERS, _STRANGERS + 3 * plan.spare)
        shares = [strangers[first :: len(connections)] for first in range(len(connections))]
        await asyncio.gather(*map(self._come, connections, shares))
        if sender.account.reports["429"] == refused:
            sender.account.breaks("new nodes above --max-nodes are refused", f"none of {3 * plan.spare} was")
        await asyncio.gather(*map(self._leave, connections, shares))

    async def _come(self, connection: Connection, nodes: Sequence[int]) -> None:
        for node in nodes:
            report, body = self.world.sender.report(node)
            await self.world.sender.post(connection, [report], body)

    async def _leave(self, connection: Connection, nodes: Sequence[int]) -> None:
        for node in nodes:
            await self.world.sender.delete(connection, node)
        connection.close()

    async def end(self) -> None:
        """Return when all are forgotten; a snapshot may bring some back until they are stale."""
        assert self._task is not None
        await self._task
        suspensions = self.world.account.suspensions
        now = time.monotonic()
        suspensions.begin(self.suspends, now, now + 2 * self.world.plan.stale_after)


class Vanishing(Attack):
    """Clients that connect and are gone: at once, half way through a report, or before its answer."""

    kind = "clients that vanish"
    _reports = 0

    async def attack(self) -> None:
        """Come and go; a report that was sent whole counts, or does not."""
        chance = random.Random(f"{self.world.plan.seed} vanishing")
        while True:
            connection = Connection(self.world.field.port)
            with suppress(OSError):
                await self._come(connection, chance)
            if chance.random() < 0.5:
                connection.abort()
            else:
                connection.close()
            await asyncio.sleep(0.01)

    async def _come(self, connection: Connection, chance: random.Random) -> None:
        how = chance.random()
        request = post({"node_id": "vanishing", "page_faults": 1})
        if how < 0.3:
            await connection.send(b"")
        elif how < 0.9:
            await connection.send(request[: chance.randrange(1, len(request))])
        else:
            await self._report(connection)

    async def _report(self, connection: Connection) -> None:
        sender = self.world.sender
        self._reports += 1
        report, body = sender.report(_VANISHING + self._reports % (self.world.plan.spare // 4))
        sender.account.reports["sent"] += 1
        sender.account.reports["connection lost without an answer"] += 1
        try:
            await connection.send(post(body))
        finally:
            # It may be taken a little later.
            sender.ledger.ended(report, Outcome.UNKNOWN, report.sent + 5)


#: Those of this module.
VISITORS: tuple[type[Attack], ...] = (SlowClients, Crowd, Vanishing)
