"""What goes wrong with the servers and between them. Each fault begins, lasts, and ends with all in order again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tests.soak.relay import Mode
from tests.soak.suspensions import NOTHING_WORKS, Service

if TYPE_CHECKING:
    from tests.soak.account import Account
    from tests.soak.field import Field
    from tests.soak.plan import Plan
    from tests.soak.reports import RetryingSender

_NO_QUERIES = frozenset({Service.QUERIES})


@dataclass(frozen=True)
class World:
    """What a fault can lay hands on."""

    plan: Plan
    field: Field
    account: Account
    sender: RetryingSender


class Fault:
    """A fault. `suspends` is what need not hold from the call of `begin` to the return of `end`."""

    kind: ClassVar[str]
    suspends: ClassVar[frozenset[Service]] = frozenset()

    def __init__(self, world: World) -> None:
        self.world = world

    async def begin(self) -> None:
        """Let it go wrong."""

    async def end(self) -> None:
        """Put it in order, and return when it is."""


class DaemonKilled(Fault):
    """The daemon is killed and started again."""

    kind = "SIGKILL of the daemon"
    suspends = NOTHING_WORKS

    async def begin(self) -> None:
        """Kill it."""
        await self.world.field.kill_daemon()

    async def end(self) -> None:
        """Start the next one."""
        await self.world.field.start_daemon()


class DaemonStopped(DaemonKilled):
    """The daemon is stopped as an operator does, and started again."""

    kind = "SIGTERM of the daemon"

    async def begin(self) -> None:
        """Stop it."""
        await self.world.field.stop_daemon(self.world.account)


class DaemonFrozen(Fault):
    """The daemon is not let run for 2 s, as by a noisy neighbour: all must wait, and nothing may fail but queries."""

    kind = "SIGSTOP of the daemon"
    suspends = frozenset({Service.QUERIES, Service.DEADLINES})

    async def begin(self) -> None:
        """Stop it, for 2 s whatever was asked for."""
        self.world.field.freeze_daemon(frozen=True)
        await asyncio.sleep(2)
        self.world.field.freeze_daemon(frozen=False)


class PrometheusKilled(Fault):
    """Prometheus is killed and started again."""

    kind = "SIGKILL of Prometheus"
    suspends = _NO_QUERIES

    async def begin(self) -> None:
        """Kill it."""
        await self.world.field.kill_prometheus()

    async def end(self) -> None:
        """Start the next one."""
        await self.world.field.start_prometheus()


class PrometheusFrozen(Fault):
    """Prometheus accepts and never answers."""

    kind = "SIGSTOP of Prometheus"
    suspends = _NO_QUERIES

    async def begin(self) -> None:
        """Stop it, for longer than a query may take."""
        self.world.field.freeze_prometheus(frozen=True)
        await asyncio.sleep(self.world.plan.query_timeout)

    async def end(self) -> None:
        """Let it run."""
        self.world.field.freeze_prometheus(frozen=False)


class AnswersBreak(Fault):
    """Something is done to Prometheus' answers on their way."""

    suspends = _NO_QUERIES
    mode: ClassVar[Mode]

    async def begin(self) -> None:
        """Do it."""
        self.world.field.relay.change(self.mode)

    async def end(self) -> None:
        """Stop doing it."""
        self.world.field.relay.change(Mode.PASS)


class AnswersLate(AnswersBreak):
    """Answers are late, though not too late."""

    kind = "upstream delayed"
    suspends = frozenset()
    mode = Mode.DELAY


class AnswersStall(AnswersBreak):
    """Answers do not come, on connections that are open."""

    kind = "upstream stalled"
    mode = Mode.STALL


class AnswersCut(AnswersBreak):
    """Connections close half way through an answer."""

    kind = "upstream closes half way"
    mode = Mode.CUT


class AnswersTrickle(AnswersBreak):
    """Answers come byte by byte."""

    kind = "upstream trickles"
    mode = Mode.TRICKLE


class AnswersGarbage(AnswersBreak):
    """Answers are no HTTP."""

    kind = "upstream sends garbage"
    mode = Mode.GARBAGE


async def happen(fault: Fault, lasts: float) -> None:
    """Let a fault happen, and enter what it suspends meanwhile.

    What waits for the daemon, or for Prometheus, when the fault ends has a moment more.
    """
    account = fault.world.account
    account.faults[fault.kind] += 1
    account.fault = fault.kind
    account.suspensions.begin(fault.suspends, time.monotonic())
    await fault.begin()
    await asyncio.sleep(lasts)
    await fault.end()
    await asyncio.sleep(min(1.0, lasts))
    account.suspensions.end(time.monotonic())
    account.fault = "none"


#: Those after which the daemon is another process.
RESTARTS: tuple[type[Fault], ...] = (DaemonKilled, DaemonStopped)
#: The others of this module.
BREAKAGES: tuple[type[Fault], ...] = (
    DaemonFrozen,
    PrometheusKilled,
    PrometheusFrozen,
    AnswersLate,
    AnswersStall,
    AnswersCut,
    AnswersTrickle,
    AnswersGarbage,
)
