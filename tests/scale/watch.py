"""Looks at the store's instant answers and at every replica's /nodes all the time: who must be there, who must not."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from math import inf
from typing import TYPE_CHECKING

from orchestratord.nodes.families import LAST_REPORT
from orchestratord.remote_write.retrying_sender import LONGEST_WAIT
from orchestratord.remote_write.staleness import LEAST_SEARCH_EVERY, QUIET
from tests.benchmarks import payloads
from tests.scale.stores import EVERYTHING
from tests.soak.account import Durations
from tests.soak.client import Connection, NoAnswer, once
from tests.soak.readings import node_number
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from tests.scale.replicas import Replica
    from tests.scale.world import World

#: Seconds that an answer may take.
_PATIENCE = 5.0
#: Seconds after which a store that is back is known to have what all replicas had for it, and is asked who has ended.
_BACK = LONGEST_WAIT + QUIET
#: Seconds that a replica may take for its start.
_START = 10.0
#: By how much a node's age may be wrong.
_SLACK = 1.0
_FAMILIES = f"count by (node_id) ({EVERYTHING})"
#: Between two looks for a report's arrival in the store, and after how long that is given up.
_FRESH_EVERY, _FRESH_MOST = 0.01, 30.0

STAYS = "a node that goes on reporting is in every instant answer"
GOES = "a node that ended is in no instant answer after the stale limit and 5 s"
GONE = "a node that has gone does not come back"
LISTED = "a node that reports is in /nodes of every replica"
UNLISTED = "a node that ended is not in /nodes after the stale limit"


class Watch:
    """The looks of one run, and what they have seen of the nodes that ended."""

    def __init__(self, world: World) -> None:
        self.fresh = Durations()
        #: When nodes ended that have ended, by the monotonic clock.
        self.ended: dict[int, float] = {}
        #: Those that were in an instant answer when they should not have been any more.
        self.late: set[int] = set()
        #: How long it took until an ended node was in no instant answer; apart are those that ended while a
        #: server was away, those that no replica remembered, and those that were deleted.
        self.took: dict[str, list[float]] = {"calm": [], "away": [], "searched": [], "deleted": []}
        self._plan = world.plan
        self._store = world.store
        self._replicas = world.replicas
        self._nodes = world.nodes
        self._book = world.book
        self._account = world.account
        self._gone: dict[int, float] = {}
        self._began = time.monotonic()
        self._stalled: dict[int, float] = {}
        self._returned = -inf

    def end(self, node: int) -> None:
        """Note that a node has sent its last report."""
        self.ended[node] = self._book.last(node)

    def delete(self, node: int, began: float, answered: float) -> None:
        """Note that an ended node was deleted."""
        self._book.deleted[node] = began
        self.ended[node] = answered

    def stalled(self, seconds: float) -> None:
        """Note that the machine let nobody run for so long."""
        for node in self.remaining:
            self._stalled[node] = self._stalled.get(node, 0.0) + seconds

    def returned(self, now: float) -> None:
        """Note that the store is back, or that all has begun."""
        self._returned = now

    def conclude(self) -> None:
        """Judge the nodes that have ended and have not gone."""
        now = time.monotonic()
        for node in self.remaining:
            self._account.breaks(GOES, self._known(node, now))

    @property
    def remaining(self) -> set[int]:
        """The nodes that have ended and are still in instant answers."""
        return self.ended.keys() - self._gone.keys()

    async def instants(self) -> None:
        """Look at instant answers until cancelled."""
        connection = Connection(self._store.port)
        while True:
            await asyncio.sleep(self._plan.look_every)
            began = time.monotonic()
            try:
                seen = await self.seen(connection)
            except NoAnswer as error:
                self._account.looks["failed"] += 1
                self._account.unless(Service.QUERIES, began, time.monotonic(), "the store answers", str(error))
                continue
            self._account.looks["instant answers"] += 1
            self._judge(seen, began, time.monotonic())

    async def seen(self, connection: Connection | None = None) -> set[int]:
        """Return the nodes of which something is in an instant answer; raise NoAnswer if there is none."""
        result = await self._store.instant(_FAMILIES, _PATIENCE, connection)
        return _numbers(series["metric"].get("node_id", "") for series in result)

    def _judge(self, seen: set[int], began: float, ended: float) -> None:
        def doubt(promise: str) -> None:
            self._account.unless(Service.QUERIES, began, ended, promise, self._known(node, began))

        excused = self._account.suspensions.covers(Service.QUERIES, began, ended)
        for node in self._book.nodes:
            if node not in seen:
                if self._surely(node, began, ended):
                    doubt(STAYS)
                elif node in self.ended and node not in self._gone:
                    self._went(node, ended)
            elif node in self._gone:
                doubt(GONE)
            elif node in self.ended and began > self._due(node) and not excused:
                self.late.add(node)

    def _due(self, node: int) -> float:
        """Return when an ended node must be gone."""
        plan = self._plan
        grace = plan.grace + self._stalled.get(node, 0.0)
        if node in self._book.deleted:
            return self.ended[node] + grace
        due = max(self.ended[node] + plan.stale_after, self._returned + _BACK) + grace
        if self._remembered(node):
            return due
        # It is to be found in the store, by two searches.
        latest = max(replica.ended for replica in self._replicas)
        return max(due, latest + _START + QUIET) + 2 * max(plan.stale_after, LEAST_SEARCH_EVERY) + grace

    def _remembered(self, node: int) -> bool:
        """Return whether one of the replicas that had lately heard from a node that ended has been there ever since."""
        return any(
            entry.replica is not None and self._replicas[entry.replica].ended < entry.answered
            for entry in self._book.entries(node)
            if self.ended[node] - self._plan.stale_after < entry.answered < inf
        )

    def _went(self, node: int, now: float) -> None:
        self._gone[node] = now
        if node in self.late:
            self._account.breaks(GOES, self._known(node, now))
        calm = not self._account.suspensions.any(self.ended[node] - self._plan.interval, now)
        kind = "calm" if calm else "away"
        if node in self._book.deleted or not self._remembered(node):
            kind = "deleted" if node in self._book.deleted else "searched"
        self.took[kind].append(now - self.ended[node])

    async def listings(self) -> None:
        """Look at /nodes of one replica after the other until cancelled."""
        for replica in itertools.cycle(self._replicas):
            await asyncio.sleep(self._plan.look_every)
            if not replica.up:
                continue
            life = replica.life
            began = time.monotonic()
            listed, why = await self.listed(replica)
            ended = time.monotonic()
            if listed is None:
                self._account.looks["failed"] += 1
                if replica.up and replica.life == life:
                    said = f"replica {replica.number}: {why}"
                    self._account.unless(Service.LISTINGS, began, ended, Service.LISTINGS.value, said)
                continue
            self._account.looks["/nodes"] += 1
            self._judge_listing(listed, began, ended, f"replica {replica.number}")

    def _judge_listing(self, listed: set[int], began: float, ended: float, where: str) -> None:
        def doubt(promise: str) -> None:
            self._account.unless(Service.LISTINGS, began, ended, promise, f"{where}: {self._known(node, began)}")

        for node in self._book.nodes:
            if node not in listed and self._surely(node, began, ended):
                doubt(LISTED)
            elif node in listed and self.ended.get(node, inf) + self._plan.stale_after + _SLACK < began:
                doubt(UNLISTED)

    async def listed(self, replica: Replica) -> tuple[set[int] | None, str]:
        """Return what a replica's /nodes has; None, and why, if it is not answered 200."""
        try:
            answer = await once(replica.port, payloads.get("/nodes").replace(b"keep-alive", b"close"), _PATIENCE)
        except NoAnswer as error:
            return None, str(error)
        if answer.status != 200:
            return None, f"{answer.status} {answer.body[:200]!r}"
        return _numbers(json.loads(answer.body)["nodes"]), ""

    async def freshness(self) -> None:
        """Follow one report after the other from its POST into the store's answers, until cancelled."""
        connection = Connection(self._store.port)
        while True:
            entry = await self._nodes.answered()
            began = entry.sent
            query = f'{LAST_REPORT}{{node_id="{payloads.node_id(entry.node)}"}}'
            while (now := time.monotonic()) < began + _FRESH_MOST:
                try:
                    result = await self._store.instant(query, _PATIENCE, connection)
                except NoAnswer:
                    break
                if any(float(series["value"][1]) >= entry.at / 1000 for series in result):
                    now = time.monotonic()
                    self.fresh.add(now - began, calm=not self._account.suspensions.any(began, now))
                    break
                await asyncio.sleep(_FRESH_EVERY)
            await asyncio.sleep(0.2)

    async def readings(self) -> None:
        """Read what the replicas say of themselves, until cancelled."""
        while True:
            await asyncio.sleep(self._plan.look_every)
            for replica in self._replicas:
                await replica.read()

    def _surely(self, node: int, began: float, ended: float) -> bool:
        plan = self._plan
        return self._book.surely(node, began, ended, stale_after=plan.stale_after - _SLACK, visible=plan.visible)

    def _known(self, node: int, now: float) -> str:
        """Return what may explain why a node was there, or was not."""
        last = self._book.entries(node)[-1]
        known = f"{last}, sent {now - last.sent:.2f} s before"
        if node not in self.ended:
            return known
        ended = self.ended[node]
        return f"{known}; it had ended {now - ended:.2f} s before, {ended - self._began:.1f} s after the beginning"


def _numbers(names: object) -> set[int]:
    """Return the numbers of our nodes among these ids."""
    assert hasattr(names, "__iter__")
    return {number for name in names if (number := node_number(name)) is not None}
