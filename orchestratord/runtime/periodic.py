"""Work that is done again and again: every n seconds, whether it fails or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

log = Logger()


class Periodic:
    """Calls `work` every `seconds` while it runs. An error is logged with `name`, and the work is called again.

    `work` may return a Deferred: the next call waits for it. A call that is late is not made up for. `name` is the
    subject of a sentence, as in "the sweep". Belongs to the reactor thread.
    """

    def __init__(self, reactor: Any, seconds: float, work: Callable[[], object], *, name: str) -> None:
        self._seconds = seconds
        self._work = work
        self._name = name
        self._loop = LoopingCall(self._call)
        self._loop.clock = reactor
        self._ended: Deferred[Any] = succeed(None)

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._loop.running

    def start(self, *, now: bool = True) -> None:
        """Begin: with a call at once, or after the first `seconds`. It must not be running."""
        self._ended = self._loop.start(self._seconds, now=now)

    def stop(self) -> Deferred[None]:
        """Make no further call; return a Deferred that fires when the call under way, if there is one, has ended."""
        if self._loop.running:
            self._loop.stop()
        stopped: Deferred[None] = Deferred()
        self._ended.addCallback(lambda _: stopped.callback(None))
        return stopped

    def _call(self) -> Deferred[None]:
        # A LoopingCall ends at the first error.
        return maybeDeferred(self._work).addCallbacks(lambda _: None, self._failed)

    def _failed(self, failure: Failure) -> None:
        log.failure(
            "{name} failed; it is tried again in {seconds:g} s", failure=failure, name=self._name, seconds=self._seconds
        )
