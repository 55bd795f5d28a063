"""A clean stop: twistd would end itself with the signal that stopped it, and its exit code would say so."""

from __future__ import annotations

import atexit
import signal
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopOnSignals(Service):
    """Stops the reactor on SIGTERM and SIGINT such that the process exits with 0, its services having stopped.

    `again` is called on the reactor's thread at each such signal after the first.
    """

    def __init__(self, reactor: Any, again: Callable[[], None] = lambda: None) -> None:
        self._reactor = reactor
        self._again = again
        self._stopping = False

    def startService(self) -> None:
        """Put our own handlers in the place of the reactor's, which are there only once it runs."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in STOPPING:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        del number, frame
        if self._stopping:
            self._reactor.callFromThread(self._again)
            return
        self._stopping = True
        # The interpreter gives Python's handlers up before it has ended: a late signal would end it in its own way.
        atexit.register(_ignore)
        self._reactor.callFromThread(self._reactor.stop)


def _ignore() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
