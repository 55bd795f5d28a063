"""Clients that the daemon must bear with: slow ones, floods, strangers, clients that vanish."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from tests.benchmarks import payloads
from tests.soak.client import Connection, NoAnswer, once
from tests.soak.faults import Fault
from tests.soak.ledger import Outcome
from tests.soak.reports import post
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.faults import World

#: Seconds that an answer may take.
_PATIENCE = 30.0
#: Bytes that are over the daemon's limit, which is 1 MiB.
_TOO_LONG = 2_000_000
#: Readers at once.
_READERS = 10
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

    async def demand(self, request: bytes, *due: int) -> None:
        """Send a request on a connection of its own; it must be answered with one of these."""
        account = self.world.account
        try:
            status = (await once(self.world.field.port, request, _PATIENCE)).status
        except NoAnswer as error:
            account.breaks("what is refused is answered", f"{request[:80]!r}: {error}")
            return
        account.hostile[f"{self.kind}: {status}"] += 1
        if status not in due:
            account.breaks("what is refused is refused as the contract says", f"{request[:80]!r}: {status}, not {due}")

    async def demand_all(
        self, demands: Sequence[tuple[bytes, int]], each_second: float, also: int | None = None
    ) -> None:
        """Send these in turn until cancelled, at most so many a second."""
        while True:
            for request, due in demands:
                await self.demand(request, due, also or due)
                await asyncio.sleep(1 / each_second)


class SlowClients(Attack):
    """Clients that send a byte a second."""

    kind = "slow clients"

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


class LongBodies(Attack):
    """A flood of bodies over the limit."""

    kind = "bodies over the limit"

    async def attack(self) -> None:
        """Send them with their length and in chunks, several at a time."""
        body = json.dumps({"node_id": "long", "pad": "x" * _TOO_LONG}).encode()
        plain = payloads.post("/update_metrics", body)
        head = payloads.post("/update_metrics", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        chunked = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(self.demand_all([(plain, 413), (chunked, 413)], 10))


class GzipBombs(Attack):
    """A flood of small bodies that unpack to large ones."""

    kind = "gzip bombs"

    async def attack(self) -> None:
        """Send them, several at a time."""
        body = gzip.compress(b'{"node_id": "bomb", "pad": "' + b"x" * 10 * _TOO_LONG + b'"}', 9)
        bomb = payloads.post("/update_metrics", body).replace(
            b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type"
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(self.demand_all([(bomb, 413)], 10))


class WrongRequests(Attack):
    """A flood of requests that are wrong in one way or another."""

    kind = "wrong requests"
    _demands: ClassVar[list[tuple[bytes, int]]] = [
        (payloads.post("/update_metrics", b'{"node_id": "wrong", "page_faults": '), 400),
        (payloads.post("/update_metrics", b'{"node_id": "wrong", "page_faults": NaN}'), 400),
        (payloads.post("/update_metrics", b'{"page_faults": 1}'), 400),
        (payloads.post("/update_metrics", b'{"node_id": "wrong\\nnode", "page_faults": 1}'), 400),
        (payloads.post("/update_metrics", b"[" * 100_000), 400),
        (payloads.post("/update_metrics", b'{"node_id": "wrong"}', kind="text/plain"), 415),
        (payloads.post("/metrics", b""), 405),
        (payloads.get("/update_metrics"), 405),
        (payloads.get("/no/such/path"), 404),
        (payloads.get("/api/v1/admin/tsdb/snapshot"), 404),
        (payloads.get("/nodes/no-such-node"), 404),
        (payloads.get("/query"), 400),
        (payloads.get("/query?q=up&start=1"), 400),
        (b"NONSENSE\r\n\r\n", 400),
    ]

    async def attack(self) -> None:
        """Send them."""
        await self.demand_all(self._demands, 200)


class Readers(Attack):
    """A crowd that wants the largest answer there is, again and again: all are served, or told to come again."""

    kind = "a crowd of readers"
    suspends = frozenset({Service.LISTINGS, Service.QUERIES, Service.DEADLINES})

    async def attack(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                group.create_task(self.demand_all([(payloads.get("/nodes?details=true"), 200)], 10, also=503))


class Crowd(Attack):
    """A burst of new nodes, more than the table takes: those that are known are served all the same."""

    kind = "new nodes above --max-nodes"
    suspends = frozenset({Service.NEWCOMERS})

    async def attack(self) -> None:
        """Let each report once; then have all of them forgotten."""
        sender, plan = self.world.sender, self.world.plan
        connection = Connection(self.world.field.port)
        refused = sender.account.reports["429"]
        for number in range(3 * plan.spare):
            report, body = sender.report(_STRANGERS + number)
            await sender.post(connection, [report], body)
        if sender.account.reports["429"] == refused:
            sender.account.breaks("new nodes above --max-nodes are refused", f"none of {3 * plan.spare} was")
        for number in range(3 * plan.spare):
            await sender.delete(connection, _STRANGERS + number)
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


ATTACKS: tuple[type[Attack], ...] = (SlowClients, LongBodies, GzipBombs, WrongRequests, Readers, Crowd, Vanishing)
