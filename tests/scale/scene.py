"""What goes wrong, and which nodes end, at its moment; and what need not hold meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.scale.plan import Deed, Due, ending
from tests.soak.client import NoAnswer, once
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scale.watch import Watch
    from tests.scale.world import World

#: Seconds for a server that has just been let go on until it answers as before.
_MOMENT = 1.0
_PATIENCE = 10.0
#: Seconds before a deletion is tried again.
_PAUSE = 0.2


class Scene:
    """All deeds of a run."""

    def __init__(self, world: World, watch: Watch) -> None:
        self._plan = world.plan
        self._store = world.store
        self._front = world.front
        self._replicas = world.replicas
        self._nodes = world.nodes
        self._account = world.account
        self._watch = watch

    async def play(self, say: Callable[[str], None]) -> None:
        """Let everything happen, and return when it has, and nodes have reported for as long as they should."""
        async with asyncio.TaskGroup() as group:
            for due, nodes in zip(self._plan.scene, ending(self._plan), strict=True):
                group.create_task(self._happen(due, nodes, say))
            await asyncio.sleep(self._plan.seconds)

    async def _happen(self, due: Due, nodes: list[int], say: Callable[[str], None]) -> None:
        await asyncio.sleep(due.at)
        which = f" {due.replica}" if due.deed in {Deed.DRAIN, Deed.KILL, Deed.RESTART, Deed.FREEZE} else ""
        say(f"{due.deed.value}{which}" + (f", {due.lasts:g} s" if due.lasts else "") + (f", {nodes}" if nodes else ""))
        self._account.faults[due.deed.value] += 1
        deeds = {
            Deed.DRAIN: self._drain,
            Deed.KILL: self._restart,
            Deed.RESTART: self._restart,
            Deed.FREEZE: self._freeze,
            Deed.STOP_STORE: self._take_store,
            Deed.FREEZE_STORE: self._take_store,
        }
        if due.deed in deeds:
            await deeds[due.deed](due)
        else:
            await self._end(due, nodes)

    async def _drain(self, due: Due) -> None:
        await self._front.drain(due.replica, drained=True)
        await asyncio.sleep(due.lasts)
        await self._front.drain(due.replica, drained=False)

    async def _restart(self, due: Due) -> None:
        """End a replica and start it again; nothing need not hold meanwhile, for there are two others."""
        replica = self._replicas[due.replica]
        self._suspend(frozenset(), time.monotonic(), due.lasts + _PATIENCE)
        await (replica.kill() if due.deed is Deed.KILL else replica.stop())
        await asyncio.sleep(due.lasts)
        await replica.start()

    async def _freeze(self, due: Due) -> None:
        """Let a replica hang, for longer than the front sends requests to it, and go on."""
        replica = self._replicas[due.replica]
        self._suspend(frozenset(), time.monotonic(), due.lasts + _MOMENT)
        replica.freeze(frozen=True)
        await asyncio.sleep(due.lasts)
        replica.freeze(frozen=False)

    async def _take_store(self, due: Due) -> None:
        """Take the store away and bring it back; what it is asked meanwhile it need not answer."""
        began = time.monotonic()
        away = frozenset({Service.QUERIES, Service.LISTINGS})
        self._suspend(away, began, due.lasts + _MOMENT)
        if due.deed is Deed.STOP_STORE:
            if code := await self._store.stop():
                self._account.breaks("the store ends with exit code 0", f"{self._store.name}: {code}")
            await asyncio.sleep(due.lasts)
            await self._store.start()
        else:
            self._store.freeze(frozen=True)
            await asyncio.sleep(due.lasts)
            self._store.freeze(frozen=False)
        now = time.monotonic()
        self._suspend(frozenset({Service.QUERIES}), began, now - began + _MOMENT)
        self._suspend(frozenset({Service.LISTINGS}), began, now - began + self._plan.catch_up)
        self._watch.returned(now)

    async def _end(self, due: Due, nodes: list[int]) -> None:
        """Let nodes end, and delete them, if that is the deed, a while later."""
        await self._nodes.end(nodes)
        for node in nodes:
            self._watch.end(node)
        if due.deed is Deed.DELETE:
            await asyncio.sleep(due.lasts)
            for node in nodes:
                await self._delete(node)

    async def _delete(self, node: int) -> None:
        """Delete a node at the front, as an operator does; again, if that reached a replica that was just killed."""
        path = f"/nodes/{payloads.node_id(node)}"
        request = payloads.get(path).replace(b"GET", b"DELETE", 1).replace(b"keep-alive", b"close")
        began = time.monotonic()
        status, said = 0, ""
        while True:
            try:
                answer = await once(self._front.port, request, _PATIENCE)
            except NoAnswer as error:
                said = str(error)
            else:
                status, said = answer.status, f"{answer.status} {answer.body[:200]!r}"
            if status in {204, 404} or time.monotonic() > began + _PATIENCE:
                break
            await asyncio.sleep(_PAUSE)
        if status != 204:
            self._account.breaks("a node that has ended is deleted", f"{path}: {said}")
            return
        self._watch.delete(node, began, time.monotonic())

    def _suspend(self, what: frozenset[Service], began: float, seconds: float) -> None:
        self._account.suspensions.begin(what, began, until=began + seconds)
