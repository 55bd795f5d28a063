"""twistd with a stopwatch on its reactor: `turns.py FILE TWISTD-ARGUMENTS`.

A turn is what the reactor does between two looks at its sockets; nobody is answered meanwhile. The long ones are
written to FILE at the end, in processor time of the reactor's thread: what the machine gives to others does not count.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.scripts import twistd

#: Turns that are written down, in seconds.
_LONG = 0.001


class _TimedPoller:
    """The reactor's epoll object, with a look at the clock before and after each wait."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self._began = time.thread_time()
        #: When each long turn ended, by time.monotonic, and what it took.
        self.turns: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def poll(self, timeout: float, most: int) -> Any:
        """End a turn, wait for events, and begin the next."""
        took = time.thread_time() - self._began
        if took > _LONG:
            self.turns.append((time.monotonic(), took))
        events = self._poller.poll(timeout, most)
        self._began = time.thread_time()
        return events


def long_turns(path: Path) -> list[tuple[float, float]]:
    """Return what a program that has ended has written: when a turn ended, by time.monotonic, and its seconds."""
    return [(ended, took) for ended, took in json.loads(path.read_text())]


def main() -> None:
    """Run twistd."""
    from twisted.internet import reactor  # noqa: PLC0415 - only here: the benchmark itself, which reads FILE, has none

    output = Path(sys.argv[1])
    anything: Any = reactor
    timed = anything._poller = _TimedPoller(anything._poller)
    anything.addSystemEventTrigger("after", "shutdown", lambda: output.write_text(json.dumps(timed.turns)))
    sys.argv[:2] = ["twistd"]
    twistd.run()


if __name__ == "__main__":
    main()
