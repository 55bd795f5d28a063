"""Work that many ask for is done once, and its outcome given to all who ask within a moment."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.defer import Deferred

from orchestratord.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from twisted.python.failure import Failure

T = TypeVar("T")


class _Making(Generic[T]):
    def __init__(self) -> None:
        self.waiting: list[Deferred[T]] = []


class SingleFlight(Generic[T]):
    """Keeps the last `kept` outcomes for `seconds`; at most `most` different ones are made at a time.

    Failures go to those who wait and are not kept. Whoever leaves does not end what others wait for. Belongs to the
    reactor thread.
    """

    def __init__(self, reactor: Any, seconds: float, *, most: int, kept: int) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._most = most
        self._kept = kept
        self._made: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._making: dict[Hashable, _Making[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the outcome of `make` under this key, a recent one if there is one; raises Busy, or what it raises."""
        self._drop_old()
        if key in self._made:
            return self._made[key][1]
        making = self._making.get(key)
        if making is None:
            if len(self._making) >= self._most:
                raise Busy(f"{self._most} pages are in the making already; try again")
            making = self._making[key] = _Making()
            waiter = self._wait(making)
            Deferred.fromCoroutine(make()).addCallbacks(
                lambda made: self._done(key, made), lambda failure: self._failed(key, failure)
            )
        else:
            waiter = self._wait(making)
        return await waiter

    def _wait(self, making: _Making[T]) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(making.waiting.remove)
        making.waiting.append(waiter)
        return waiter

    def _done(self, key: Hashable, made: T) -> None:
        self._made[key] = (self._reactor.seconds(), made)
        while len(self._made) > self._kept:
            self._made.popitem(last=False)
        self._reactor.callLater(self._seconds, self._drop_old)
        for waiter in self._making.pop(key).waiting:
            waiter.callback(made)

    def _failed(self, key: Hashable, failure: Failure) -> None:
        for waiter in self._making.pop(key).waiting:
            waiter.errback(failure)

    def _drop_old(self) -> None:
        limit = self._reactor.seconds() - self._seconds
        while self._made and next(iter(self._made.values()))[0] <= limit:
            self._made.popitem(last=False)
