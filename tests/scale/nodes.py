"""The simulated nodes: each reports at its own moment of every interval, and again until that is answered."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.soak.client import Connection, NoAnswer
from tests.soak.readings import values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.scale.book import Book, Entry
    from tests.scale.plan import Plan
    from tests.soak.account import Account
    from tests.soak.client import Answer

#: Seconds that a node waits for an answer, and after which it no longer repeats a report.
_PATIENCE, _WHOLE_PATIENCE = 5.0, 8.0
#: Seconds before it repeats one.
_PAUSE = (0.05, 0.25)
#: By what share an interval may be shorter or longer: else each node would find the same replica every time.
_JITTER = 0.1
_REPLICA = re.compile(rb"\r\nx-replica: replica-(\d+)\r\n")


class Nodes:
    """All nodes; they keep their connections to the front."""

    def __init__(self, plan: Plan, port: int, book: Book, account: Account) -> None:
        self._plan = plan
        self._port = port
        self._book = book
        self._account = account
        self._silent: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._next: asyncio.Future[Entry] | None = None

    @property
    def reporting(self) -> set[int]:
        """The nodes that have not ended."""
        return {node for node, task in self._tasks.items() if not task.done()} - self._silent

    async def run(self) -> None:
        """Report until every node has ended."""
        async with asyncio.TaskGroup() as group:
            for node in range(self._plan.nodes):
                self._tasks[node] = group.create_task(self._node(node))

    async def end(self, nodes: Iterable[int]) -> None:
        """End nodes: return when none of them has a report under way, nor sends another."""
        ending = set(nodes)
        self._silent |= ending
        await asyncio.gather(*(self._tasks[node] for node in ending))

    async def answered(self) -> Entry:
        """Return the next report that is answered 200."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def _node(self, node: int) -> None:
        chance = random.Random(f"{self._plan.seed} {node}")
        connection = Connection(self._port)
        due = time.monotonic() + chance.random() * self._plan.interval
        try:
            while True:
                now = time.monotonic()
                while due < now:
                    due += self._plan.interval * chance.uniform(1 - _JITTER, 1 + _JITTER)
                while now < due and node not in self._silent:
                    await asyncio.sleep(min(due - now, 0.5))
                    now = time.monotonic()
                if node in self._silent:
                    return
                await self._report(node, connection, chance)
        finally:
            connection.close()

    async def _report(self, node: int, connection: Connection, chance: random.Random) -> None:
        """Report once, which is: the same report until it is answered."""
        account = self._account
        entry = self._book.sent(node, time.monotonic(), time.time_ns() // 1_000_000)
        body = {"node_id": payloads.node_id(node), **values(node, entry.number), "timestamp": entry.at / 1000}
        request = payloads.post("/update_metrics", json.dumps(body).encode())
        account.reports["sent"] += 1
        while not await self._answered(entry, connection, request):
            if time.monotonic() > entry.sent + _WHOLE_PATIENCE:
                account.reports["given up"] += 1
                break
            account.reports["retried"] += 1
            await asyncio.sleep(chance.uniform(*_PAUSE))
        entry.left = time.monotonic()

    async def _answered(self, entry: Entry, connection: Connection, request: bytes) -> bool:
        """Send a report; return whether that is all."""
        account = self._account
        began = time.monotonic()
        try:
            answer = await connection.ask(request, _PATIENCE)
        except NoAnswer:
            account.reports["no answer"] += 1
            return False
        now = time.monotonic()
        account.reports[str(answer.status)] += 1
        account.report_times.add(now - began, calm=not account.suspensions.any(began, now))
        if answer.status == 200:
            self._stored(entry, answer, now)
            return True
        if answer.status >= 500:
            return False
        entry.refused = True
        account.breaks(
            "a report is answered 200, or may be repeated", f"{entry}: {answer.status} {answer.body[:200]!r}"
        )
        return True

    def _stored(self, entry: Entry, answer: Answer, now: float) -> None:
        self._account.stored(now)
        if json.loads(answer.body).get("accepted") != 1:
            self._account.breaks("the newest report of a node is accepted", f"{entry}: {answer.body[:200]!r}")
            return
        entry.answered = now
        if served := _REPLICA.search(answer.head):
            entry.replica = int(served[1])
        if self._next is not None:
            self._next.set_result(entry)
            self._next = None
