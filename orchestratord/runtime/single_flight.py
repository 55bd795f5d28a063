"""Work that many ask for at the same time is done once, for all of them.

The coalescing of queries, the lookups of host names and the pages use `Flight`. Two things look alike and do without:
nobody waits for the fetch of an issuer's keys, and a page waits for the two probes of Prometheus only for a moment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from orchestratord.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

T = TypeVar("T")


class Flight(Generic[T]):
    """Work under way, and those who wait for its outcome. Belongs to the reactor thread.

    With `cancel` the work is cancelled when the last of those who wait has left; without, it goes on to its end.
    """

    def __init__(self, work: Deferred[T], *, cancel: bool) -> None:
        self._work = work
        self._cancel = cancel
        self._waiting: list[Deferred[T]] = []
        self._outcome: tuple[T] | Failure | None = None
        work.addCallbacks(self._succeeded, self._failed)

    def join(self) -> Deferred[T]:
        """Return a Deferred of the work's outcome, one for each caller; cancelling it leaves the others alone."""
        if self._outcome is not None:
            return fail(self._outcome) if isinstance(self._outcome, Failure) else succeed(self._outcome[0])
        waiter: Deferred[T] = Deferred(self._leave)
        self._waiting.append(waiter)
        return waiter

    def _leave(self, waiter: Deferred[T]) -> None:
        self._waiting.remove(waiter)
        if self._cancel and not self._waiting:
            self._work.cancel()

    def _succeeded(self, result: T) -> None:
        self._outcome = (result,)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(result)

    def _failed(self, failure: Failure) -> None:
        self._outcome = failure
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(failure)


class SingleFlight(Generic[T]):
    """Does the same work once for all who ask for it, and keeps the last `kept` outcomes for `seconds`.

    At most `most` different pieces of work are under way at a time. A failure goes to those who wait, and is not kept.
    The work goes on when those who wait have left. Belongs to the reactor thread.
    """

    def __init__(self, reactor: Any, seconds: float, *, most: int, kept: int) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._most = most
        self._kept = kept
        self._made: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._flights: dict[Hashable, Flight[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the outcome of `make` under this key, a recent one if there is one; raises Busy, or what it raises."""
        self._drop_old()
        if key in self._made:
            return self._made[key][1]
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._most:
                raise Busy(f"{self._most} pages are in the making already; try again")
            flight = self._begin(key, make)
        return await flight.join()

    def _begin(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> Flight[T]:
        work = Deferred.fromCoroutine(make())
        flight = Flight(work.addCallback(self._keep, key).addBoth(self._ended, key), cancel=False)
        if not work.called:
            self._flights[key] = flight
        return flight

    def _keep(self, made: T, key: Hashable) -> T:
        self._made[key] = (self._reactor.seconds(), made)
        while len(self._made) > self._kept:
            self._made.popitem(last=False)
        self._reactor.callLater(self._seconds, self._drop_old)
        return made

    def _ended(self, outcome: T | Failure, key: Hashable) -> T | Failure:
        self._flights.pop(key, None)
        return outcome

    def _drop_old(self) -> None:
        limit = self._reactor.seconds() - self._seconds
        while self._made and next(iter(self._made.values()))[0] <= limit:
            self._made.popitem(last=False)
