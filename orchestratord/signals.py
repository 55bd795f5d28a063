"""A clean stop: twistd would end itself with the signal that stopped it, and its exit code would say so."""

from __future__ import annotations

import signal
from typing import Any

from twisted.application.service import Service


class StopOnSignals(Service):
    """Stops the reactor on SIGTERM and SIGINT such that the process exits with 0, its services having stopped."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def startService(self) -> None:
        """Put our own handlers in the place of the reactor's, which are there only once it runs."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        del number, frame
        if self.running:
            self.running = 0
            self._reactor.callFromThread(self._reactor.stop)
