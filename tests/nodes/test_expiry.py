"""The sweep."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from orchestratord.nodes import expiry
from orchestratord.nodes.expiry import ExpirySweep
from orchestratord.nodes.store import NodeStore
from tests.fakes import Metrics, report


class BrokenStore(NodeStore):
    """A table whose sweep fails as long as it is told to."""

    broken = False

    def __init__(self) -> None:
        super().__init__(stale_after=60, max_nodes=10_000)
        self.limit: list[int] = []

    def expire(self, now: float, most: int) -> list[str]:
        """Fail, or do as the table does."""
        if self.broken:
            raise RuntimeError("boom")
        expired = super().expire(now, most)
        self.limit.append(len(expired))
        return expired


def swept(count: int = 0) -> tuple[Clock, BrokenStore, Metrics, ExpirySweep]:
    """Return a running sweep every 5 s over a table of so many nodes, all reported at 0."""
    clock, metrics = Clock(), Metrics()
    nodes = BrokenStore()
    nodes.update([report(f"n{i:05}") for i in range(count)], 0)
    sweep = ExpirySweep(clock, nodes, metrics.telemetry, clock.seconds, every=5, running=clock.seconds)
    sweep.startService()
    return clock, nodes, metrics, sweep


def test_stale_nodes_are_removed_counted_and_logged() -> None:
    """One line for a sweep, with the first few names."""
    clock, nodes, metrics, _ = swept(7)
    clock.advance(55)
    assert len(nodes) == 7
    with capturedLogs() as logs:
        clock.advance(5)
    assert len(nodes) == 0
    assert metrics.value("orchestrator_nodes_expired_total") == 7
    (line,) = [event for event in logs if event["log_level"] == LogLevel.info]
    assert line["count"] == 7
    assert line["ids"] == "n00000, n00001, n00002, n00003, n00004, ..."


def test_a_large_sweep_gives_the_reactor_turns() -> None:
    """No more nodes a turn than take a millisecond; the rest goes on in the next turn, not the next sweep."""
    clock, nodes, _, _ = swept(2 * expiry.AT_ONCE + 1)
    clock.pump([5] * 12)
    assert len(nodes) == 0
    assert nodes.limit[-3:] == [expiry.AT_ONCE, expiry.AT_ONCE, 1]


def test_an_error_never_ends_the_sweep() -> None:
    """It is logged, health tells of it, and the next sweep does its work."""
    clock, nodes, _, sweep = swept(1)
    nodes.broken = True
    with capturedLogs() as logs:
        clock.advance(5)
    assert any(event["log_level"] == LogLevel.critical for event in logs)
    assert sweep.unhealthy() == "the expiry sweep fails: RuntimeError"
    nodes.broken = False
    clock.pump([5] * 12)
    assert len(nodes) == 0
    assert sweep.unhealthy() is None


def test_health_tells_when_the_sweep_has_stopped() -> None:
    """As it would if the reactor's timers did not run any more."""
    clock, _, _, sweep = swept()
    assert sweep.unhealthy() is None
    sweep.stopService()
    clock.advance(100)
    assert sweep.unhealthy() == "the expiry sweep has not run for 100 s"


def test_a_suspended_machine_is_not_unhealthy() -> None:
    """After two hours of sleep the nodes are stale at once, and a probe that comes before the sweep finds it well."""
    clock, asleep = Clock(), 0.0
    nodes = NodeStore(stale_after=60, max_nodes=10)
    nodes.update([report("n1")], 0)
    sweep = ExpirySweep(
        clock, nodes, Metrics().telemetry, lambda: clock.seconds() + asleep, every=5, running=clock.seconds
    )
    sweep.startService()
    asleep = 7200.0
    assert sweep.unhealthy() is None
    assert nodes.count(clock.seconds() + asleep) == 0
    clock.advance(5)
    assert len(nodes) == 0
    assert sweep.unhealthy() is None
