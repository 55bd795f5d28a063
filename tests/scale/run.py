"""A run with one store: the servers, the nodes, the scene, and what the store has compared with what was reported."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.scale import replicas as side_by_side
from tests.scale.book import Book, Findings
from tests.scale.front import Front
from tests.scale.nodes import Nodes
from tests.scale.scene import Scene
from tests.scale.watch import Watch
from tests.scale.world import World
from tests.soak.account import Account
from tests.soak.client import NoAnswer, once
from tests.soak.readings import FAMILIES, node_number, origin
from tests.soak.suspensions import NOTHING_WORKS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from tests.benchmarks.servers import Servers
    from tests.scale.plan import Plan
    from tests.scale.replicas import Replica
    from tests.scale.stores import Store

#: Seconds between two looks at the clock, and by which one that is late tells of a machine that lets nobody run.
_TICK, _STALL = 0.05, 0.5
#: Seconds for what takes a moment, and longer on a busy machine.
_PATIENCE = 30.0
#: Seconds for the ends of nodes that nobody remembers.
_LONG_PATIENCE = 150.0


@dataclass(frozen=True)
class Outcome:
    """What a run with one store has come to.

    `counted` is what all lives of the replicas have counted, `appeared` after how many seconds all nodes were
    in instant answers.
    """

    plan: Plan
    store: str
    account: Account
    findings: Findings
    watch: Watch
    counted: Counter[str]
    spool_peak: int
    appeared: float


class Scale:
    """One run with one store. `say` takes a line on how far it is."""

    def __init__(self, plan: Plan, store: Store, servers: Servers, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._store = store
        self._servers = servers
        self._say = say
        self._account = Account()
        self._book = Book()
        self._front = Front(servers)
        self._replicas = side_by_side.side_by_side(plan, store, servers, self._account)
        self._nodes = Nodes(plan, self._front.port, self._book, self._account)
        self._world = World(plan, store, self._replicas, self._front, self._nodes, self._book, self._account)
        self._watch = Watch(self._world)

    async def run(self) -> Outcome:
        """Run to the end; raise ServerError if a server does not start, or ends by itself."""
        began = time.time()
        await self._store.start()
        await side_by_side.start_all(self._replicas)
        await self._front.start([replica.port for replica in self._replicas])
        self._watch.returned(time.monotonic())
        self._say(f"seed {self._plan.seed}: {self._plan.nodes} nodes report to 3 replicas before {self._store.name}")
        watch = self._watch
        async with asyncio.TaskGroup() as group:
            fleet = group.create_task(self._nodes.run())
            running = [group.create_task(self._stalls())]
            appeared = await self._appear()
            works = (watch.instants, watch.listings, watch.readings, watch.freshness)
            running += [group.create_task(work()) for work in works]
            scene = Scene(self._world, watch)
            await scene.play(self._say)
            await self._look_at_listings()
            await self._end_all()
            await fleet
            findings = await self._compare(began)
            for task in running:
                task.cancel()
        await self._stop()
        self._account.conclude()
        return Outcome(
            self._plan,
            self._store.name,
            self._account,
            findings,
            watch,
            sum((replica.counted() for replica in self._replicas[1:]), self._replicas[0].counted()),
            max(replica.spool_peak for replica in self._replicas),
            appeared,
        )

    async def _appear(self) -> float:
        """Return after how many seconds all nodes are in the store's instant answers: it knows their series then."""
        began = time.monotonic()
        await asyncio.sleep(self._plan.interval)

        async def there() -> bool:
            if self._plan.hurried:
                await self._store.hurry()
            return len(await self._watch.seen()) == self._plan.nodes

        if not await _until(there, _PATIENCE):
            self._account.breaks("nodes that report are in instant answers", f"not within {_PATIENCE:g} s: all of them")
        return time.monotonic() - began

    async def _look_at_listings(self) -> None:
        """Compare every replica's /nodes, and its details, with the nodes that report, while they do."""
        due = self._nodes.reporting
        self._say(f"the scene is over; {len(due)} nodes go on")

        async def same() -> bool:
            listed = [await self._watch.listed(replica) for replica in self._replicas]
            return all(names == due for names, _ in listed)

        if not await _until(same, self._plan.stale_after + self._plan.grace):
            for replica in self._replicas:
                names, why = await self._watch.listed(replica)
                said = why if names is None else f"missing {sorted(due - names)}, too many {sorted(names - due)}"
                self._account.breaks("/nodes is the same from every replica", f"replica {replica.number}: {said}")

    async def _end_all(self) -> None:
        """End the nodes that are left, look at their last values, and wait until the store has ended them all."""
        last = sorted(self._nodes.reporting)
        await self._nodes.end(last)
        for node in last:
            self._watch.end(node)
        self._say("all nodes have ended")
        await asyncio.gather(*(self._look_at_details(replica, last) for replica in self._replicas))
        await asyncio.gather(*(self._drained(replica) for replica in self._replicas))

        async def gone() -> bool:
            return not self._watch.remaining - self._watch.late

        await _until(gone, _LONG_PATIENCE)
        self._watch.conclude()
        for replica in self._replicas:
            names, why = await self._watch.listed(replica)
            if names != set():
                self._account.breaks("/nodes is empty when all nodes have ended", f"{replica.number}: {names} {why}")

    async def _drained(self, replica: Replica) -> None:
        """Wait until the store has all that a replica has heard."""
        if not await _until(replica.delivered, _PATIENCE):
            self._account.breaks("a spool is drained", f"that of replica {replica.number} is not")

    async def _look_at_details(self, replica: Replica, nodes: list[int]) -> None:
        """Compare a replica's details with the last reports; no more come, and none is stale yet."""
        wrong: list[str] = []

        async def right() -> bool:
            wrong[:] = self._wrong_details(nodes, await _details(replica))
            return not wrong

        if not await _until(right, self._plan.visible):
            said = f"replica {replica.number}: {len(wrong)} nodes, such as {wrong[:3]}"
            self._account.breaks("the details of /nodes are those of the last report", said)

    def _wrong_details(self, nodes: list[int], details: dict[int, dict[str, float]]) -> list[str]:
        wrong = []
        for node in nodes:
            last = self._book.entries(node)[-1]
            metrics = details.get(node)
            # The last two families are in most reports only.
            numbers = {origin(node, name, (metrics or {}).get(name, -1)) for name in FAMILIES[:-2]}
            if numbers != {last.number} and last.answered <= last.left:
                wrong.append(f"{last} is {metrics}")
        return wrong

    async def _compare(self, began: float) -> Findings:
        """Compare all that the store has with what was reported."""
        account = self._account
        findings = Findings(lambda breach, evidence: account.breaks(breach.value, evidence), self._store.rounding)
        self._say("comparing every sample")
        self._book.compare(await self._store.samples(began - 60), findings)
        series = await self._store.series(began - 60, time.time() + 60)
        self._book.compare_series(series, side_by_side.EXTERNAL, findings)
        ends = await self._store.ends(began, self._plan.interval / 10)
        self._book.compare_ends(ends, self._plan.stale_after, findings)
        return findings

    async def _stop(self) -> None:
        """End all servers, and look at how they end, at what they have said, and at what is left of them."""
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(replica.stop())
        await self._front.stop()
        if code := await self._store.stop():
            self._account.breaks("the store ends with exit code 0", f"{self._store.name}: {code}")
        for log in sorted(self._servers.home.glob("replica-*.log")):
            said = log.read_text(errors="replace")
            for word in ("Traceback", "Unhandled"):
                if word in said:
                    where = said.index(word)
                    self._account.breaks(
                        "no replica has errors of its own", f"{log.name}: {said[max(where - 300, 0) :][:3000]}"
                    )
        for process, command in _left_over(self._servers.home).items():
            self._account.breaks("no process is left over", f"{process}: {command}")

    async def _stalls(self) -> None:
        """Note until cancelled when this process itself was not let run, and whether a server has ended by itself."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._account.longest_stall = max(self._account.longest_stall, now - before - _TICK)
            if now - before > _STALL:
                self._account.suspensions.begin(NOTHING_WORKS, before, until=now)
                self._watch.stalled(now - before)
            for replica in self._replicas:
                replica.check()


async def _details(replica: Replica) -> dict[int, dict[str, float]]:
    """Return what a replica's details have, by node; nothing if they are not answered 200."""
    request = payloads.get("/nodes?details=true").replace(b"keep-alive", b"close")
    try:
        answer = await once(replica.port, request, _PATIENCE)
    except NoAnswer:
        return {}
    if answer.status != 200:
        return {}
    entries = json.loads(answer.body)["nodes"]
    return {number: one["metrics"] for one in entries if (number := node_number(one["node_id"])) is not None}


async def _until(check: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Return whether a check succeeds within so many seconds."""
    deadline = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


def _left_over(home: Path) -> dict[int, str]:
    """Return the processes that run in a folder, and their commands."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == home:
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found
