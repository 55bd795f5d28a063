"""Long work takes turns."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from orchestratord.runtime.time_slices import TURN_SECONDS, TimeSlices
from tests.wire import turn


class Work:
    """Pieces of work that note their slices."""

    def __init__(self, count: int, slices: int = 3, *, takes: float = 0.0) -> None:
        self.takes = takes
        self.clock = Clock()
        self.seconds = 0.0
        self.slices = TimeSlices(self.clock, lambda: self.seconds)
        self.done: list[int] = []
        self.running = [Deferred.fromCoroutine(self._work(number, slices)) for number in range(count)]

    async def _work(self, number: int, slices: int) -> None:
        for _ in range(slices):
            await self.slices.turn()
            self.done.append(number)
            self.seconds += self.takes


def test_each_has_one_slice_in_a_turn() -> None:
    """While there is time for all, all go on in each turn, and none goes on twice."""
    work = Work(2)
    for count in range(1, 4):
        turn(work.clock)
        assert work.done == [0, 1] * count
    turn(work.clock)
    assert not work.clock.getDelayedCalls()


def test_slow_ones_share_a_turn() -> None:
    """Many of them take no more of a turn than one does: they come in their order."""
    work = Work(5, slices=2, takes=TURN_SECONDS)
    for number in range(10):
        turn(work.clock)
        assert work.done == ([0, 1, 2, 3, 4] * 2)[: number + 1]
    assert all(one.called for one in work.running)


def test_one_that_is_cancelled_is_left_out() -> None:
    """The others go on."""
    work = Work(3)
    work.running[1].addErrback(lambda failure: failure.trap(CancelledError))
    turn(work.clock)
    work.running[1].cancel()
    turn(work.clock)
    turn(work.clock)
    assert work.done == [0, 1, 2, 0, 2, 0, 2]
