"""What a source measures and how it hands it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The counts of one interval on this node; a field other than the timestamp is named as its metric family.

    `timestamp` is the Unix time in seconds at which the interval ended; sizes are in kB of 1000 bytes. No count is
    negative.
    """

    timestamp: float
    mem_bytes_allocated: int
    page_faults: int
    ctx_switches_graceful: int
    ctx_switches_forced: int
    fs_read_count: int
    fs_read_size_kb: float
    fs_write_count: int
    fs_write_size_kb: float


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
