"""Floods of requests, each of which must be answered as the contract says, and no one else may notice."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, ClassVar

from tests.benchmarks import payloads
from tests.soak.client import NoAnswer, once
from tests.soak.hostile import Attack
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that an answer may take.
_PATIENCE = 30.0
#: Bytes that are over the daemon's limit, which is 1 MiB.
_TOO_LONG = 2_000_000
#: Readers at once.
_READERS = 10


class Flood(Attack):
    """Requests on connections of their own, and how they are to be answered."""

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


class LongBodies(Flood):
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


class GzipBombs(Flood):
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


class WrongRequests(Flood):
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


class SlowReaders(Flood):
    """A crowd that wants the largest answer there is, again and again: all are served, or told to come again."""

    kind = "a crowd of readers"
    suspends = frozenset({Service.LISTINGS, Service.QUERIES, Service.DEADLINES})

    async def attack(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                group.create_task(self.demand_all([(payloads.get("/nodes?details=true"), 200)], 10, also=503))


FLOODS: tuple[type[Flood], ...] = (LongBodies, GzipBombs, WrongRequests, SlowReaders)
