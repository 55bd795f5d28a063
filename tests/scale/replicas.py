"""The orchestrators side by side, in all their lives, and what they say of themselves at /metrics."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from math import inf
from typing import TYPE_CHECKING

from tests.benchmarks import machine, payloads
from tests.benchmarks.servers import free_port
from tests.options import flags_and_environment
from tests.scale.plan import REPLICAS
from tests.soak.client import NoAnswer, once
from tests.soak.processes import ended, ready, said

if TYPE_CHECKING:
    from tests.benchmarks.servers import Server, Servers
    from tests.scale.plan import Plan
    from tests.scale.stores import Store
    from tests.soak.account import Account

#: The labels that every delivered series has as well.
EXTERNAL = {"cluster": "soak"}
_SAMPLE = re.compile(r"^(orchestrator_\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)
_SPOOL, _AGE = "orchestrator_spool_bytes", "orchestrator_spool_oldest_seconds"
#: Of what a process counts, and so each life anew: what must stay 0, and what is told.
MUST_BE_0 = ("orchestrator_remote_write_samples_dropped_total", "orchestrator_spool_failures_total")
_REFUSED = 'orchestrator_remote_write_requests_total{outcome="refused"}'
_TOLD = (
    "orchestrator_remote_write_samples_total",
    "orchestrator_remote_write_samples_retried_total",
    "orchestrator_remote_write_requests_total",
    "orchestrator_stale_markers_total",
)


class Replica:
    """One orchestrator, on a port and with data that it keeps when it is started again."""

    def __init__(self, number: int, plan: Plan, store: Store, servers: Servers, account: Account) -> None:
        self.number = number
        self.port = free_port()
        #: Whether it is to be there, and how often it was started.
        self.up = False
        self.life = 0
        #: When its last life ended.
        self.ended = -inf
        #: The most bytes that its spool had.
        self.spool_peak = 0
        self._plan = plan
        self._store = store
        self._servers = servers
        self._account = account
        self._server: Server | None = None
        #: What it counted in the lives that are over, and in this one.
        self._counted: Counter[str] = Counter()
        self._counts: dict[str, float] = {}

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        self.life += 1
        plan = self._plan
        options = {
            "listen": f"tcp:{self.port}:interface=127.0.0.1",
            "prometheus": self._store.url,
            "remote-write": f"{self._store.url}/api/v1/write",
            "stale-after": f"{plan.stale_after:g}",
            "data-dir": str(self._servers.home / f"replica-{self.number}"),
        }
        if plan.expire_every is not None:
            options["limits.expire_every"] = f"{plan.expire_every:g}"
        if plan.snapshot_every is not None:
            options["snapshot-every"] = f"{plan.snapshot_every:g}"
        flags, environ = flags_and_environment([f"--{name}={value}" for name, value in options.items()])
        command = [machine.python_program("twistd"), "-n", "--pidfile=", "orchestrator", *flags]
        for name, value in EXTERNAL.items():
            command += ["--external-label", f"{name}={value}"]
        name = f"replica-{self.number}-life-{self.life}"
        self._server = self._servers.start(name, command, self.port, None, machine.ALL, more=environ)
        await ready(self._server)
        self.up = True

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._read()
        server = self._ends()
        server.process.kill()
        await ended(self._servers, server)

    async def stop(self) -> None:
        """End it as an operator does."""
        await self._read()
        server = self._ends()
        server.process.terminate()
        if code := await ended(self._servers, server):
            self._account.breaks("SIGTERM ends it with exit code 0", f"{server.name}: {code}: {said(server)}")

    def freeze(self, *, frozen: bool) -> None:
        """Let it accept and never answer, or run again."""
        assert self._server is not None
        self.up = not frozen
        self._server.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def check(self) -> None:
        """Raise ServerError if it has ended by itself."""
        if self.up and self._server is not None:
            self._server.check()

    async def read(self) -> None:
        """Read what it says of itself, if it is there."""
        if self.up:
            await self._read()

    async def delivered(self) -> bool:
        """Return whether it says that the store has all its reports."""
        before = self._counts
        await self.read()
        return self._counts is not before and self._counts.get(_AGE) == 0

    def counted(self) -> Counter[str]:
        """Return what it has counted in all its lives, as far as it was read before their ends."""
        return self._counted + _rounded(self._counts)

    def _ends(self) -> Server:
        assert self._server is not None
        self.up = False
        self.ended = time.monotonic()
        self._counted = self.counted()
        self._counts = {}
        return self._server

    async def _read(self) -> None:
        try:
            answer = await once(self.port, payloads.get("/metrics").replace(b"keep-alive", b"close"), 5)
        except NoAnswer:
            return
        if answer.status != 200 or not self.up:
            return
        self._counts = {name: float(value) for name, value in _SAMPLE.findall(answer.body.decode())}
        for name in (_SPOOL, _AGE):
            if name not in self._counts:
                self._account.breaks("/metrics tells of the spool", f"{name} is not there")
        self.spool_peak = max(self.spool_peak, int(self._counts.get(_SPOOL, 0)))
        for name, value in self._counts.items():
            if value and (name.partition("{")[0] in MUST_BE_0 or name == _REFUSED):
                self._account.breaks(
                    "nothing is dropped, and nothing refused", f"replica {self.number}: {name} {value:g}"
                )


def side_by_side(plan: Plan, store: Store, servers: Servers, account: Account) -> list[Replica]:
    """Return the replicas, which are not started."""
    return [Replica(number, plan, store, servers, account) for number in range(REPLICAS)]


async def start_all(replicas: list[Replica]) -> None:
    """Start them, all at once."""
    async with asyncio.TaskGroup() as group:
        for replica in replicas:
            group.create_task(replica.start())


def _rounded(counts: dict[str, float]) -> Counter[str]:
    return Counter({name: int(value) for name, value in counts.items() if name.partition("{")[0] in _TOLD + MUST_BE_0})
