"""What each signal does: stop cleanly, read files again, show where the process is, or nothing."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.logger import Logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = Logger()

#: A supervisor, Ctrl-C, the end of the CPU time that is allowed, the end of the power.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGPWR)
#: Signals that mean nothing here, and would end the process. SIGUSR1 is Twisted's if twistd writes a log file: it
#: starts a new one.
MEANINGLESS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
#: Where stacks are written: standard error as the process was given it, since twistd puts its log in its place.
_STDERR = 2
#: Seconds after a SIGHUP at which the terminal is looked for: it may come before the kernel has taken it away.
TERMINAL_SECONDS = 0.2


class Signals(Service):
    """Stops the reactor such that the process exits with 0, its services having stopped; twistd would exit otherwise.

    `again` is called on the reactor's thread at each stopping signal after the first, `reload` at a SIGHUP. A SIGHUP
    because the terminal is gone, in which the process was started, stops it; not if it was started with SIGHUP ignored,
    as nohup does.
    """

    def __init__(
        self, reactor: Any, again: Callable[[], object] = lambda: None, reload: Callable[[], object] = lambda: None
    ) -> None:
        self._reactor = reactor
        self._again = again
        self._reload = reload
        self._stopping = False
        self._in_terminal = False
        self._on_terminal: list[int] = []

    def startService(self) -> None:
        """Take the signals, and take them again from the reactor, which has its own handlers once it runs."""
        super().startService()
        self._in_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and has_terminal()
        self._on_terminal = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
        self._take_stopping()
        self._reactor.callWhenRunning(self._take_stopping)
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in MEANINGLESS:
            if number != signal.SIGUSR1 or signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._pass_over)
        # Not by faulthandler: all handlers run on its alternate stack then, which is too small for a burst of signals.
        signal.signal(signal.SIGQUIT, self._show)

    def _take_stopping(self) -> None:
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

    def _hang_up(self, number: int, frame: Any) -> None:
        del number, frame
        if self._stopping:
            return
        if self._in_terminal:
            self._reactor.callFromThread(self._reactor.callLater, TERMINAL_SECONDS, self._look_for_terminal)
        else:
            self._reactor.callFromThread(self._read_again)

    def _look_for_terminal(self) -> None:
        if has_terminal():
            self._read_again()
            return
        # What is written to a terminal that is gone fails.
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in self._on_terminal:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        self._stop(signal.SIGHUP, None)

    def _read_again(self) -> None:
        log.info("SIGHUP: certificates, keys and tokens are read again if their files have changed")
        self._reload()

    @staticmethod
    def _show(number: int, frame: FrameType | None) -> None:
        """Write the stacks of all threads at once, since the reactor may hang."""
        del number
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = sys._current_frames() | ({} if frame is None else {threading.get_ident(): frame})  # noqa: SLF001 - documented
        text = "".join(
            f"SIGQUIT: thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(of))}"
            for ident, of in stacks.items()
        )
        with suppress(OSError):
            os.write(_STDERR, text.encode(errors="replace"))

    def _pass_over(self, number: int, frame: Any) -> None:
        del frame
        # Real-time signals have numbers alone.
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        self._reactor.callFromThread(log.info, "{name} changes nothing here", name=name)


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal, whose end it would hear of by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _ignore() -> None:
    for number in (*STOPPING, signal.SIGHUP, signal.SIGQUIT, *MEANINGLESS):
        signal.signal(number, signal.SIG_IGN)
