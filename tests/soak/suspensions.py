"""Which promises a fault suspends while it lasts. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf


class Service(Enum):
    """What a client may count on while no fault suspends it."""

    REPORTS = "a valid report of a known node is answered 200, and every other request as the contract says"
    NEWCOMERS = "a valid report of a new node is answered 200"
    LISTINGS = "a listing of all nodes is answered 200"
    QUERIES = "a query is answered 200"
    DEADLINES = "a query is answered before the scheduler gives up"


#: What is suspended while there is no daemon, or one that is not let run.
NOTHING_WORKS = frozenset(Service)


@dataclass
class _Span:
    what: frozenset[Service]
    began: float
    ended: float = inf


class Suspensions:
    """The times in which something was suspended, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []

    def begin(self, what: frozenset[Service], now: float, until: float = inf) -> None:
        """Suspend these services until then, or until `end`."""
        self._spans.append(_Span(what, now, until))

    def end(self, now: float) -> None:
        """Let everything hold again from `now` on, save what was suspended until a certain time."""
        for span in self._spans:
            if span.ended == inf:
                span.ended = now

    def covers(self, service: Service, began: float, ended: float) -> bool:
        """Return whether a service was suspended at any moment between these two."""
        return any(service in span.what and span.began <= ended and began <= span.ended for span in self._spans)

    def any(self, began: float, ended: float) -> bool:
        """Return whether any fault was on at any moment between these two."""
        return any(span.began <= ended and began <= span.ended for span in self._spans)
