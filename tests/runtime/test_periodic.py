"""Work that is done again and again."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from orchestratord.runtime.periodic import Periodic


class Setup:
    """Work every 10 s on a clock, which returns or raises what the test wants."""

    def __init__(self, outcome: Any = None) -> None:
        self.clock = Clock()
        self.outcome = outcome
        self.calls: list[float] = []
        self.periodic = Periodic(self.clock, 10.0, self._work, name="the sweep")

    def _work(self) -> Any:
        self.calls.append(self.clock.seconds())
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_it_is_called_every_so_many_seconds() -> None:
    """At once or not, until it stops; it may be started again."""
    setup = Setup()
    setup.periodic.start(now=False)
    setup.clock.pump([10, 10])
    assert setup.calls == [10, 20]
    setup.periodic.stop()
    assert not setup.periodic.running
    setup.clock.advance(10)
    setup.periodic.start()
    assert setup.periodic.running
    assert setup.calls == [10, 20, 30]


def test_an_error_does_not_end_it() -> None:
    """Whether it is raised or comes later, it is logged, and the work is called again."""
    setup = Setup(ValueError("once"))
    with capturedLogs() as logs:
        setup.periodic.start()
        later: Deferred[None] = Deferred()
        setup.outcome = later
        setup.clock.advance(10)
        later.errback(ValueError("twice"))
        setup.outcome = None
        setup.clock.advance(10)
    assert setup.calls == [0, 10, 20]
    assert [formatEvent(event) for event in logs] == ["the sweep failed; it is tried again in 10 s"] * 2
    assert [str(event["log_failure"].value) for event in logs] == ["once", "twice"]


def test_no_call_begins_while_another_is_under_way() -> None:
    """What was missed meanwhile is not made up for."""
    later: Deferred[None] = Deferred()
    setup = Setup(later)
    setup.periodic.start()
    setup.clock.pump([10, 10, 5])
    assert setup.calls == [0]
    later.callback(None)
    setup.clock.advance(5)
    assert setup.calls == [0, 30]


def test_a_stop_waits_for_the_call_under_way() -> None:
    """So that what it uses can be closed after it."""
    later: Deferred[None] = Deferred()
    setup = Setup(later)
    setup.periodic.start()
    stopped = setup.periodic.stop()
    assert not stopped.called
    later.callback(None)
    assert stopped.called


def test_it_may_be_stopped_at_any_time() -> None:
    """Before it was started, twice, or by the work itself."""
    setup = Setup()
    assert setup.periodic.stop().called
    setup.periodic.start()
    assert setup.periodic.stop().called
    assert setup.periodic.stop().called
    within: list[Deferred[None]] = []
    ending = Periodic(setup.clock, 10.0, lambda: within.append(ending.stop()), name="the sweep")
    ending.start()
    setup.clock.advance(10)
    assert [stopped.called for stopped in within] == [True]
