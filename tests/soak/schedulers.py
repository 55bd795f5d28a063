"""A scheduler's queries through the daemon, in both forms of the field, with the scheduler's patience."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.soak.client import Connection, NoAnswer
from tests.soak.readings import FAMILIES, node_number, origin
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from tests.soak.account import Account
    from tests.soak.client import Answer
    from tests.soak.ledger import Ledger
    from tests.soak.plan import Plan

#: Seconds after which a scheduler places its pod without an answer.
PATIENCE = 3.0
_CONNECTIONS = 10
#: More distinct queries than the daemon remembers: its memory is flat once it remembers as many as it ever will.
_MANY = 4500


class Schedulers:
    """Asks at a steady rate, whether or not it is answered. Half of the queries come on connections of their own."""

    def __init__(self, plan: Plan, port: int, ledger: Ledger, account: Account) -> None:
        self._plan = plan
        self._port = port
        self._ledger = ledger
        self._account = account
        self._chance = random.Random(f"{plan.seed} schedulers")
        self._kept = [Connection(port) for _ in range(_CONNECTIONS)]
        self._late: list[tuple[float, float, str]] = []
        self._failed: list[tuple[float, float, str]] = []

    async def run(self) -> None:
        """Ask until cancelled."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                due = max(due + 1 / self._plan.queries_each_second, time.monotonic() - 1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask())

    async def ask_many(self) -> None:
        """Ask as many distinct queries as the daemon may ever remember, as fast as they are answered, for a minute."""

        async def ask_some() -> None:
            for _ in range(_MANY // _CONNECTIONS):
                await self._ask()

        with suppress(TimeoutError):
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for _ in range(_CONNECTIONS):
                    group.create_task(ask_some())

    def conclude(self) -> list[str]:
        """Return the queries that failed, or were not answered in time, although no fault was on that excuses it.

        Only at the end is it known when the machine did not let anybody run.
        """
        kinds = ((Service.DEADLINES, self._late), (Service.QUERIES, self._failed))
        covers = self._account.suspensions.covers
        return [what for service, ends in kinds for began, ended, what in ends if not covers(service, began, ended)]

    async def _ask(self) -> None:
        family = self._chance.choice(FAMILIES)
        nodes = self._chance.sample(range(self._plan.nodes), self._chance.choice((1, 1, 3, 20)))
        names = [payloads.node_id(node) for node in nodes]
        matcher = f'="{names[0]}"' if len(nodes) == 1 else f'=~"{"|".join(names)}"'
        path = self._chance.choice(("/query?q=", "/api/v1/query?query="))
        # Braces, quotes and bars as they are: so do the clients in the field.
        request = payloads.get(f"{path}{family}{{node_id{matcher}}}")
        connection = self._kept.pop() if self._kept and self._chance.random() < 0.5 else None
        account = self._account
        asking = connection or Connection(self._port)
        began = time.monotonic()
        try:
            answer = await asking.ask(request, PATIENCE)
        except NoAnswer as error:
            self._unanswered(error, began)
        else:
            now = time.monotonic()
            account.query_times.add(now - began, calm=not account.suspensions.any(began, now))
            self._answered(answer, family, set(nodes), began, now)
        finally:
            if connection is None:
                asking.close()
            else:
                self._kept.append(connection)

    def _unanswered(self, error: NoAnswer, began: float) -> None:
        now = time.monotonic()
        late = now - began >= PATIENCE
        why = f"no answer within {PATIENCE:g} s" if late else "connection lost" if error.sent else "not connected"
        self._account.queries[why] += 1
        if late:
            self._late.append((began, now, f"{why}, fault: {self._account.fault}"))
        elif not self._account.suspensions.covers(Service.DEADLINES, began, now):
            self._account.breaks("a query is answered", f"{why}: {error}")

    def _answered(self, answer: Answer, family: str, nodes: set[int], began: float, now: float) -> None:
        account = self._account
        account.queries[str(answer.status)] += 1
        try:
            envelope = json.loads(answer.body)
            status = envelope["status"]
        except (ValueError, KeyError, TypeError):
            account.breaks("a query's answer is Prometheus' envelope", f"{answer.status} {answer.body[:200]!r}")
            return
        if (answer.status == 200) != (status == "success"):
            account.breaks("a failure is never a 200", f"{answer.status} {answer.body[:200]!r}")
        if status == "success":
            for series in envelope["data"]["result"]:
                self._check(series["metric"]["node_id"], family, float(series["value"][1]), nodes)
        else:
            self._failed.append((began, now, f"{answer.status} {answer.body[:200]!r}"))

    def _check(self, node_id: str, family: str, value: float, nodes: set[int]) -> None:
        node = node_number(node_id)
        if node not in nodes:
            self._account.breaks("a query finds what it selects", f"{node_id} was not asked for")
            return
        number = origin(node, family, value)
        if number is None or not self._ledger.was_sent(node, number):
            self._account.breaks("phantom", f"a query found {family} of {node_id} with {value}, report {number}")
