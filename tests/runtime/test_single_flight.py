"""Work that many ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from orchestratord.errors import Busy
from orchestratord.runtime.single_flight import SingleFlight

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class Setup:
    """A Recent over a Clock, and the work that it has begun."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recent: SingleFlight[str] = SingleFlight(self.clock, 2.0, most=2, kept=3)
        self.begun: list[Deferred[str]] = []

    def ask(self, key: str = "a") -> Deferred[str]:
        """Ask for an outcome."""

        async def make() -> str:
            work: Deferred[str] = Deferred()
            self.begun.append(work)
            return await work

        return Deferred.fromCoroutine(self.recent.get(key, make))


def result(asked: Deferred[str]) -> str:
    """Return what a Deferred has come to."""
    came: list[str] = []
    asked.addCallback(came.append)
    return came[0]


def test_ten_cost_as_much_as_one() -> None:
    """Those who ask meanwhile, and those who ask a moment later."""
    setup = Setup()
    asked = [setup.ask() for _ in range(9)]
    setup.begun[0].callback("made")
    assert {result(one) for one in asked} | {result(setup.ask())} == {"made"}
    assert len(setup.begun) == 1
    setup.clock.advance(2)
    setup.ask()
    assert len(setup.begun) == 2


def test_so_many_at_a_time() -> None:
    """More are told to come again; the same again is no more."""
    setup = Setup()
    refused: list[Failure] = []
    for key in ("a", "b", "a", "c"):
        setup.ask(key).addErrback(refused.append)
    assert [failure.type for failure in refused] == [Busy]
    setup.begun[0].callback("made")
    setup.ask("c")
    assert len(setup.begun) == 3


def test_who_leaves_takes_nothing_from_the_others() -> None:
    """The work goes on, and its outcome is there for who asks next."""
    setup = Setup()
    leaver, stayer = setup.ask(), setup.ask()
    leaver.addErrback(lambda failure: failure.trap(CancelledError) and "")
    leaver.cancel()
    setup.begun[0].callback("made")
    assert result(stayer) == "made"
    lonely = setup.ask("b")
    lonely.addErrback(lambda failure: failure.trap(CancelledError) and "")
    lonely.cancel()
    setup.begun[1].callback("too")
    assert result(setup.ask("b")) == "too"


def test_a_failure_is_not_kept() -> None:
    """All who wait have it; who asks next is another try."""
    setup = Setup()
    failures: list[object] = []
    for _ in range(2):
        setup.ask().addErrback(failures.append)
    setup.begun[0].errback(RuntimeError("once"))
    assert len(failures) == 2
    setup.ask()
    assert len(setup.begun) == 2


def test_nothing_is_kept_for_long() -> None:
    """Neither many outcomes nor old ones: they hold memory."""
    setup = Setup()
    for index, key in enumerate("abcde"):
        setup.ask(key)
        setup.begun[index].callback(key)
    assert list(setup.recent._made) == ["c", "d", "e"]
    setup.clock.advance(2)
    assert not setup.recent._made
