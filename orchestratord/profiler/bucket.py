"""The interface of a source, and the bucket of counts that it delivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.logger import Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The counts of one interval on this node. The fields have the names that they have in a report.

    `timestamp` is the Unix time in seconds at the end of the interval, `source` the name of the source in reports.
    Sizes are in kB of 1000 bytes. No count is negative. None means that the source cannot count it on this machine.
    """

    timestamp: float
    source: str
    mem_bytes_allocated: int | None = None
    page_faults: int | None = None
    ctx_switches_graceful: int | None = None
    ctx_switches_forced: int | None = None
    fs_read_count: int | None = None
    fs_read_size_kb: float | None = None
    fs_write_count: int | None = None
    fs_write_size_kb: float | None = None


def log_left_out(log: Logger, missing: Mapping[str, str]) -> None:
    """Log why families are left out, one line for each reason. `missing` maps families to reasons."""
    for reason in dict.fromkeys(missing.values()):
        names = [name for name in missing if missing[name] == reason]
        log.warn("{families} left out of the reports: {reason}", families=", ".join(names), reason=reason)


Delivery: TypeAlias = Callable[[Bucket], None]
"""Receives each bucket at the end of its interval, in the reactor thread; does not raise."""

Complaint: TypeAlias = Callable[[str], None]
"""Receives the reason why a source delivers nothing for now, in one line, in the reactor thread."""


class Source(Protocol):
    """Measures this node, interval by interval.

    A source belongs to the reactor thread and never blocks it. It delivers a bucket at the end of the interval. Nobody
    polls it: two clocks of the same period would drift, and the reader would get a bucket twice or miss one.
    """

    @property
    def name(self) -> str:
        """The name in the log."""
        ...

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Start; may be called again after the Deferred of `stop` has fired.

        A source that cannot measure calls `complain`, at once or later, once for each time that it stops delivering.
        It keeps trying until it is stopped, if that can help.
        """
        ...

    def stop(self) -> Deferred[None]:
        """Stop; fires when the source has released everything. Neither callback is called after this call."""
        ...
