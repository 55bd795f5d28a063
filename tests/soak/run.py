"""A run: the servers, the nodes, the schedulers and the looks, the faults one after the other, the figures."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import islice
from math import inf
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.servers import free_port
from tests.soak.account import Account
from tests.soak.faults import BREAKAGES, RESTARTS, Fault, World, happen
from tests.soak.field import Field, Size
from tests.soak.fleet import NodeDirectory
from tests.soak.floods import FLOODS
from tests.soak.hostile import VISITORS
from tests.soak.ledger import Ledger
from tests.soak.looks import Looks
from tests.soak.plan import schedule
from tests.soak.relay import Relay
from tests.soak.reports import RetryingSender
from tests.soak.schedulers import Schedulers
from tests.soak.suspensions import NOTHING_WORKS, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.servers import Servers
    from tests.soak.plan import Plan

#: Seconds between two looks at the clock, and by which one that is late tells of a machine that lets nobody run.
_TICK, _STALL = 0.05, 0.5
#: The share of the time in which the daemon is restarted as well.
_RESTARTING = 0.3
#: How often the daemon is measured for one figure of its size.
_MEASURES = 5


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    `first` is the daemon's size when all nodes were in, `start` the same in its last life, after every fault, and
    `end` at the end of that life. `failed` are the queries that failed or were late without a fault.
    `snapshot_every` is None if the daemon keeps no snapshots.
    """

    plan: Plan
    account: Account
    first: Size
    start: Size
    end: Size
    failed: list[str]
    watched: float
    snapshot_every: float | None


class Soak:
    """One run. `say` takes a line on how far it is."""

    def __init__(self, plan: Plan, servers: Servers, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._servers = servers
        self._say = say
        self._account = Account()
        self._ledger = Ledger(stale_after=plan.stale_after)

    async def run(self) -> Outcome:
        """Run to the end; raise ServerError if a server does not start, or ends by itself."""
        port = free_port()
        async with Relay(port) as relay:
            field = Field(self._plan, self._servers, relay, port, self._ledger)
            self._say(f"seed {self._plan.seed}; snapshots: {field.snapshot_every or 'none'}")
            await field.start_daemon()
            await field.start_prometheus()
            sender = RetryingSender(self._ledger, self._account)
            schedulers = Schedulers(self._plan, field.port, self._ledger, self._account)
            looks = Looks(self._plan, field.port, self._ledger, self._account)
            fleet = NodeDirectory(self._plan, field.port, sender)
            world = World(self._plan, field, self._account, sender)
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(fleet.run())]
                await self._flush()
                works = (schedulers.run, looks.nodes, looks.tables, self._stalls)
                running += [group.create_task(work()) for work in works]
                first, start, end, watched = await self._faults(world, schedulers)
                for task in running:
                    task.cancel()
            await looks.every_table()
            await field.stop_daemon(self._account)
        self._account.conclude()
        every = field.snapshot_every
        for word in ("Traceback", "Unhandled"):
            if word in (said := field.daemon_said()):
                self._account.breaks("the daemon has no errors of its own", said[said.index(word) - 300 :][:3000])
        return Outcome(self._plan, self._account, first, start, end, schedulers.conclude(), watched, every)

    async def _stalls(self) -> None:
        """Note until cancelled when this process itself was not let run: who then seems late may not have been."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._account.longest_stall = max(self._account.longest_stall, now - before - _TICK)
            if now - before > _STALL:
                # Even reports: who opens a connection and is then stopped is cut off by the daemon, and rightly so.
                stalled = NOTHING_WORKS - {Service.NEWCOMERS}
                self._account.suspensions.begin(stalled, before, until=now)

    async def _faults(self, world: World, schedulers: Schedulers) -> tuple[Size, Size, Size, float]:
        """Let faults happen, of all kinds first and later no restarts; measure the daemon in between.

        What it keeps for good once it is called for, threads and remembered queries, is no growth; so in its last life
        everything has happened once when it is measured for the start.
        """
        plan = self._plan
        others = (*BREAKAGES, *VISITORS, *FLOODS)
        over = time.monotonic() + plan.seconds
        first = await self._measure(world.field)
        if plan.whole:
            await self._happen(
                world, (*RESTARTS * 3, *others), "all", until=time.monotonic() + plan.seconds * _RESTARTING
            )
            await schedulers.ask_many()
            await self._happen(world, others, "once", rounds=1)
        else:
            await self._happen(world, (*RESTARTS, *others), "all", rounds=1)
        await self._flush()
        began = time.monotonic()
        start = await self._measure(world.field)
        if plan.whole:
            await self._happen(world, others, "watched", until=over)
            await self._flush()
        end = await self._measure(world.field)
        return first, start, end, time.monotonic() - began

    async def _happen(
        self, world: World, kinds: Sequence[type[Fault]], purpose: str, *, until: float = inf, rounds: int | None = None
    ) -> None:
        by_kind = {kind.kind: kind for kind in kinds}
        most = None if rounds is None else rounds * len(kinds)
        for due in islice(schedule(self._plan, [kind.kind for kind in kinds], purpose), most):
            await asyncio.sleep(due.pause)
            world.field.check_daemon()
            if time.monotonic() >= until:
                break
            self._say(f"{due.kind}, {due.lasts:.1f} s")
            await happen(by_kind[due.kind](world), due.lasts)
            size = world.field.size()
            self._say(f"  the daemon takes {size.resident / 1e6:.1f} MB and {size.descriptors} descriptors")

    async def _flush(self) -> None:
        """Let every node report twice."""
        await asyncio.sleep(2 * self._plan.interval)

    async def _measure(self, field: Field) -> Size:
        """Return the daemon's size over an interval: the median of its memory, the least of its descriptors."""
        sizes = []
        for _ in range(_MEASURES):
            sizes.append(field.size())
            await asyncio.sleep(self._plan.interval / _MEASURES)
        return Size(int(median(size.resident for size in sizes)), min(size.descriptors for size in sizes))
