"""What a source measures and how it hands it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.logger import Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The counts of one interval on this node; the fields have the names that a report has for them.

    `timestamp` is the Unix time in seconds at which the interval ended, `source` the word for what has counted; sizes
    are in kB of 1000 bytes. No count is negative; None is one that the source cannot make on this machine.
    """

    timestamp: float
    source: str
    mem_bytes_allocated: int | None
    page_faults: int | None
    ctx_switches_graceful: int | None
    ctx_switches_forced: int | None
    fs_read_count: int | None
    fs_read_size_kb: float | None
    fs_write_count: int | None
    fs_write_size_kb: float | None


def log_left_out(log: Logger, missing: Mapping[str, str]) -> None:
    """Log why families are left out, a line for each reason; `missing` has the reason of each."""
    for reason in dict.fromkeys(missing.values()):
        names = [name for name in missing if missing[name] == reason]
        log.warn("{families} left out of the reports: {reason}", families=", ".join(names), reason=reason)


Delivery: TypeAlias = Callable[[Bucket], None]
"""Takes each bucket when its interval ends, in the reactor's thread; does not raise."""

Complaint: TypeAlias = Callable[[str], None]
"""Takes the reason, one line, for which a source delivers nothing for now; in the reactor's thread."""


class Source(Protocol):
    """Measures this node, interval by interval.

    A source belongs to the reactor's thread and never blocks it. It hands a bucket over when the bucket ends rather
    than being asked for it: two clocks of the same period would drift, and the reader would take a bucket twice or
    miss one.
    """

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Begin; may be called again when the Deferred of `stop` has fired.

        A source that cannot measure calls `complain`, at once or later, and goes on trying where that makes sense,
        until it is stopped. It complains once for each time that it stops delivering.
        """
        ...

    def stop(self) -> Deferred[None]:
        """End; fires when nothing of the source is left. Neither callback is called after this call."""
        ...
