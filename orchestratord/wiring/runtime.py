"""What everything runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.threads import deferToThreadPool

from orchestratord.runtime.time_slices import TimeSlices

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from orchestratord.runtime.clock import Clocks


class Runtime(NamedTuple):
    """The reactor, the clocks by which nodes age, the reactor's time in slices, and a pool of threads.

    `in_thread` runs a function on a thread of the pool and fires with its result on the reactor thread.
    """

    reactor: Any
    clocks: Clocks
    slices: TimeSlices
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]


def make_runtime(reactor: Any, clocks: Clocks) -> Runtime:
    """Return what the daemon runs on; the threads are the reactor's own pool."""

    def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), work)

    return Runtime(reactor, clocks, TimeSlices(reactor), in_thread)
