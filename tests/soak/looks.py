"""Looks at single nodes and at whole tables all the time, and compares them with the ledger."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.soak.client import Connection, NoAnswer
from tests.soak.ledger import Breach
from tests.soak.readings import FAMILIES, node_number, number_of
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.soak.account import Account
    from tests.soak.client import Answer
    from tests.soak.ledger import Ledger
    from tests.soak.plan import Plan

#: Seconds that a look may take.
_PATIENCE = 30.0
_SAMPLE = re.compile(rb'^(%s)\{node_id="([^"]+)"\} (\S+)$' % "|".join(FAMILIES).encode(), re.MULTILINE)
#: Nodes, or kilobytes of an exposition, that are gone through in one turn of the loop.
_SLICE = 500
_DETAILS, _GZIP_METRICS = payloads.get("/nodes?details=true"), payloads.get("/metrics", gzip=True)


class Looks:
    """Looks at the daemon as its readers do."""

    def __init__(self, plan: Plan, port: int, ledger: Ledger, account: Account) -> None:
        self._plan = plan
        self._port = port
        self._ledger = ledger
        self._account = account
        self._chance = random.Random(f"{plan.seed} looks")

    async def nodes(self) -> None:
        """Look at one node after the other until cancelled."""
        connection = Connection(self._port)
        while True:
            await asyncio.sleep(1 / self._plan.looks_each_second)
            node = self._chance.randrange(self._plan.nodes)
            began = time.monotonic()
            answer = await self._ask(connection, payloads.get(f"/nodes/{payloads.node_id(node)}"), 404)
            if answer is not None:
                seen = json.loads(answer.body)["metrics"] if answer.status == 200 else None
                self._account.looks["nodes"] += 1
                self._judge(node, seen, began, time.monotonic(), "/nodes/<id>")

    async def tables(self) -> None:
        """Look at a whole table, each of the three in turn, until cancelled."""
        for look in itertools.cycle((self.details, self.metrics, self.names)):
            await asyncio.sleep(self._plan.tables_every)
            await look()

    async def every_table(self) -> None:
        """Look at each of the three once."""
        for look in (self.details, self.metrics, self.names):
            await look()

    async def details(self) -> None:
        """Look at `/nodes?details=true`."""
        if found := await self._table(_DETAILS):
            answer, began, ended = found
            table = {entry["node_id"]: entry["metrics"] for entry in json.loads(answer.body)["nodes"]}
            await self._judge_all(table, began, ended, "/nodes?details=true")

    async def metrics(self) -> None:
        """Look at `/metrics`."""
        if found := await self._table(_GZIP_METRICS):
            answer, began, ended = found
            table: dict[str, dict[str, float]] = {}
            for position, sample in enumerate(_SAMPLE.finditer(answer.body)):
                family, node_id, value = sample.groups()
                table.setdefault(node_id.decode(), {})[family.decode()] = float(value)
                if position % (8 * _SLICE) == 0:
                    await asyncio.sleep(0)
            await self._judge_all(table, began, ended, "/metrics")

    async def names(self) -> None:
        """Look at `/nodes`."""
        if found := await self._table(payloads.get("/nodes")):
            answer, began, ended = found
            names = json.loads(answer.body)["nodes"]
            self._strangers(names, "/nodes")
            for node in set(self._ledger.nodes) - {node_number(name) for name in names}:
                self._judge(node, None, began, ended, "/nodes")

    async def _table(self, request: bytes) -> tuple[Answer, float, float] | None:
        connection = Connection(self._port)
        began = time.monotonic()
        answer = await self._ask(connection, request)
        connection.close()
        if answer is None:
            return None
        self._account.looks["tables"] += 1
        return answer, began, time.monotonic()

    async def _ask(self, connection: Connection, request: bytes, other: int = 200) -> Answer | None:
        began = time.monotonic()
        try:
            answer = await connection.ask(request, _PATIENCE)
        except NoAnswer as error:
            why = str(error)
        else:
            if answer.status in {200, other}:
                return answer
            why = f"{answer.status} {answer.body[:200]!r}"
        self._account.looks["failed"] += 1
        evidence = f"{request.splitlines()[0]!r}: {why}"
        self._account.unless(Service.LISTINGS, began, time.monotonic(), "a look is answered", evidence)
        return None

    async def _judge_all(
        self, table: Mapping[str, Mapping[str, float]], began: float, ended: float, where: str
    ) -> None:
        self._strangers(table, where)
        for position, node in enumerate(self._ledger.nodes):
            self._judge(node, table.get(payloads.node_id(node)), began, ended, where)
            if position % _SLICE == 0:
                await asyncio.sleep(0)

    def _strangers(self, names: Mapping[str, object] | list[str], where: str) -> None:
        known = {payloads.node_id(node) for node in self._ledger.nodes}
        for name in names:
            if name not in known:
                self._account.breaks(Breach.PHANTOM.value, f"{where} has {name}, which never reported")

    def _judge(self, node: int, seen: Mapping[str, float] | None, began: float, ended: float, where: str) -> None:
        number = None
        if seen is not None:
            number = number_of(node, seen)
            if number is None:
                self._account.breaks(Breach.GARBLED.value, f"{where} has {seen} for node {node}")
                return
        broken = self._ledger.look(node, number, began, ended)
        if broken is not None:
            self._account.breaks(broken.breach.value, f"{where}: {broken.evidence}")
