"""Clients that read their answers slowly: they must make progress, and are cut when others need the memory."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from itertools import islice
from struct import unpack
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any, Protocol

from orchestratord.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.defer import Deferred

#: A client that reads more slowly than it is answered is cut unless it reads PROGRESS_BYTES in every PROGRESS_SECONDS.
PROGRESS_SECONDS = 10.0
PROGRESS_BYTES = 10_000
#: Seconds for which a client may be slow before it may be cut in favour of another one.
GRACE_SECONDS = 1.0
#: Slow readers at a time. Each has a piece of its answer, 128 KiB, on its connection. Each one more takes the place of
#: the oldest, unless that is within GRACE_SECONDS.
MOST = 512
#: Slow readers that are compared to find the slowest: 1 ms.
_COMPARED = 128
#: Bytes of answers that wait for slow readers and have no other limit: pages and documents.
WAITING_BYTES = 67_108_864


class SlowConnection(Protocol):
    """What has to be known of a connection here: `orchestratord.web.server.channel.BoundedChannel`."""

    transport: Any
    #: The requests that are not answered yet; the first is being answered.
    requests: list[Any]

    def abort(self) -> None:
        """End the connection at once."""
        ...


class SlowRequest(Protocol):
    """What has to be known of a request here: `orchestratord.web.server.request.BoundedRequest`."""

    channel: Any
    has_slot: bool

    def notifyFinish(self) -> Deferred[None]:
        """Return a Deferred that fires at the end of the answer, or of the connection."""
        ...


@dataclass(slots=True)
class _Progress:
    """How many bytes a slow reader had read when it became slow, and at the start of the current period."""

    since: float
    taken_then: int
    period: float
    taken: int


class SlowReaders:
    """The connections whose clients read more slowly than they are answered. Belongs to the reactor thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: Ordered by the start of the current period.
        self._slow: OrderedDict[SlowConnection, _Progress] = OrderedDict()
        #: How many were cut since the start, at the deadline for progress or to make room.
        self.cut = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._slow)

    def slow(self, channel: SlowConnection) -> None:
        """Add a connection whose client reads more slowly than it is answered."""
        if channel in self._slow:
            return
        now, taken = self._reactor.seconds(), _taken(channel)
        if len(self._slow) >= MOST:
            oldest, progress = next(iter(self._slow.items()))
            if progress.since + GRACE_SECONDS <= now:
                self._cut(oldest)
        self._slow[channel] = _Progress(now, taken, now, taken)

    def caught_up(self, channel: SlowConnection) -> None:
        """Remove a connection whose client has read all that was written, or that has ended."""
        self._slow.pop(channel, None)

    def check(self) -> None:
        """Cut the clients that have made no progress. Call it about once a second."""
        now = self._reactor.seconds()
        while self._slow:
            channel, progress = next(iter(self._slow.items()))
            if progress.period + PROGRESS_SECONDS > now:
                break
            taken = _taken(channel)
            if 0 <= taken - progress.taken < PROGRESS_BYTES:
                self._cut(channel)
            else:  # below 0: the client is reading another answer
                progress.period, progress.taken = now, taken
                self._slow.move_to_end(channel)

    def cut_slowest(self, requests: Iterable[SlowRequest]) -> SlowRequest | None:
        """Cut the one of these requests whose client reads most slowly, and return it; None if none is slow enough."""
        now = self._reactor.seconds()
        slowest: SlowRequest | None = None
        least = 0.0
        for request in requests:
            progress = self._slow.get(request.channel)
            if progress is None or progress.since + GRACE_SECONDS > now:
                continue
            rate = max(0, _taken(request.channel) - progress.taken_then) / (now - progress.since)
            if slowest is None or (rate, progress.since) < (least, self._slow[slowest.channel].since):
                slowest, least = request, rate
        if slowest is not None:
            self._cut(slowest.channel)
        return slowest

    def free_memory(self) -> bool:
        """Cut the slowest of those whose answers hold memory; False if there is none, or none is slow enough."""
        holders = (
            channel.requests[0] for channel in self._slow if channel.requests and channel.requests[0].reservation
        )
        return self.cut_slowest(list(islice(holders, _COMPARED))) is not None

    def _cut(self, channel: SlowConnection) -> None:
        self.cut += 1
        self.caught_up(channel)
        channel.abort()


class Slots:
    """At most `limit` answers of a kind at a time, until they are read. Belongs to the reactor thread.

    If all slots are taken, the slowest reader is cut for a new one. `busy` is the error text if none is slow enough.
    """

    def __init__(self, limit: int, busy: str) -> None:
        self._limit = limit
        self._busy = busy
        #: In the order of their arrival.
        self._holders: dict[SlowRequest, None] = {}

    def take(self, request: SlowRequest) -> None:
        """Take a slot for as long as the request is being answered; raises Busy."""
        if len(self._holders) >= self._limit:
            cut = request.channel.context.readers.cut_slowest(self._holders)
            if cut is None:
                raise Busy(self._busy)
            self._holders.pop(cut, None)
        self._holders[request] = None
        request.has_slot = True
        request.notifyFinish().addBoth(lambda _: self._holders.pop(request, None))


def _taken(channel: SlowConnection) -> int:
    """Return a number that grows with each byte of an answer that the client reads."""
    sent = channel.requests[0].sentLength if channel.requests else 0
    return int(sent) - _unsent(channel.transport)


def _unsent(transport: Any) -> int:
    """Return how many bytes wait here, or in the kernel: sent perhaps, but not yet acknowledged by the client.

    Twisted does not tell: `_appSendBuffer`, `_tempDataLen` and `dataBuffer` from `offset` on are where it keeps them.
    """
    waiting: int = 0
    inner = getattr(transport, "transport", None)  # what TLS writes to
    if inner is not None:
        for parts in (getattr(transport, "_waiting", ()), getattr(transport, "_appSendBuffer", ())):
            waiting += sum(map(len, parts))
        transport = inner
    if not hasattr(transport, "_tempDataLen"):
        return waiting
    waiting += len(transport.dataBuffer) - transport.offset + transport._tempDataLen  # noqa: SLF001 - it has no other
    with suppress(OSError, ValueError):  # it may just have been closed
        (queued,) = unpack("i", ioctl(transport.fileno(), TIOCOUTQ, b"\0" * 4))
        waiting += queued
    return waiting
