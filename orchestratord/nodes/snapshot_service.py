"""Snapshots keep the table across restarts: loaded before the ports open, written regularly and at the end."""

from __future__ import annotations

import gc
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from orchestratord.nodes.departed import KEPT
from orchestratord.nodes.snapshot_format import BLOCK, BadSnapshot, Moment, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestratord.nodes.departed import DepartedNodes
    from orchestratord.nodes.families import Families
    from orchestratord.nodes.report import Renderer
    from orchestratord.nodes.snapshot_file import SnapshotFile
    from orchestratord.nodes.store import NodeStore
    from orchestratord.telemetry.self_metrics import SelfMetrics

log = Logger()

T = TypeVar("T")

#: Seconds after which a forgotten node is removed from the file too.
SOON = 1.0
#: Seconds that the last snapshot may delay the end of the process: a disk may hang.
LAST_SECONDS = 5.0
#: Seconds that the writer sleeps after each block, so that the reactor gets the interpreter lock.
PAUSE_SECONDS = 0.0005


class SnapshotService(Service):
    """Keeps the table in a file: every `every` seconds if it has changed, and at the end.

    `now` reads the clocks. `departed` gets the nodes in the file that are stale. `in_thread` runs blocking work off the
    reactor thread and returns a Deferred of its result. If the file cannot be written, this is logged once, counted,
    and tried again; the daemon works on without a snapshot.
    """

    def __init__(
        self,
        reactor: Any,
        nodes: NodeStore,
        file: SnapshotFile,
        telemetry: SelfMetrics,
        now: Callable[[], Moment],
        *,
        families: Families,
        render: Renderer,
        every: float,
        in_thread: Callable[[Callable[[], int]], Deferred[int]],
        departed: DepartedNodes | None = None,
    ) -> None:
        self._reactor = reactor
        self._nodes = nodes
        self._departed = departed
        self._file = file
        self._telemetry = telemetry
        self._now = now
        self._families = families
        self._render = render
        self._every = every
        self._tick = min(SOON, every)
        self._in_thread = in_thread
        self._failing: str | None = None
        self._begun = 0.0
        #: The counters of the table when it was last written.
        self._changes = self._forgotten = 0
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._writing: Deferred[None] = succeed(None)
        #: Set at the end, when the reactor has no other work to do.
        self._hurry = Event()

    def load(self) -> None:
        """Restore the nodes in the file that are still fresh. Never fails. Blocks: call it before the ports open."""
        try:
            self._file.acquire()
            file = self._file.open()
        except OSError as error:
            self._failed(_reason(error))
            return
        if file is None:
            return
        gc.disable()  # there is no garbage here, and collections would double the time
        try:
            with file:
                snapshot = decode(file)
            entries = snapshot.entries(self._families, self._render, self._now(), self._nodes.stale_after)
            silent = snapshot.silent(self._now(), self._nodes.stale_after, KEPT)
        except (BadSnapshot, OSError) as error:
            self._set_aside(_reason(error))
            return
        finally:
            gc.enable()
        taken = self._nodes.restore(entries, self._now().monotonic)
        if self._departed is not None and (taken or silent):
            self._departed.silent(silent)
        log.info(
            "restored {taken} nodes from {path}; {stale} were stale",
            taken=taken,
            path=str(self._file.path),
            stale=len(snapshot.records) - taken,
        )

    def startService(self) -> None:
        """Start writing."""
        super().startService()
        self._hurry.clear()
        self._begun = self._reactor.seconds()
        self._loop.start(self._tick, now=False)

    def stopService(self) -> Deferred[None]:
        """Write a last time and unlock the directory; fires when this is done, has failed, or takes too long."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        done: Deferred[None] = Deferred()

        def give_up() -> None:
            log.warn("the last snapshot takes longer than {seconds:g} s; the old one stays", seconds=LAST_SECONDS)
            done.callback(None)

        def end(_: None) -> None:
            self._file.release()
            if timer.active():
                timer.cancel()
                done.callback(None)

        timer = self._reactor.callLater(LAST_SECONDS, give_up)
        self._hurry.set()
        self._writing.addCallback(lambda _: self._write()).addCallback(end)
        return done

    def _look(self) -> Deferred[None] | None:
        """Write if it is due, or if a node was forgotten, which must not come back after a restart."""
        due = self._reactor.seconds() - self._begun > self._every - self._tick / 2
        if not due and self._nodes.forgotten == self._forgotten:
            return None
        self._begun = self._reactor.seconds()
        self._writing = self._write()
        return self._writing

    def _write(self) -> Deferred[None]:
        """Write the table if it has changed; fires without a failure, whatever happens."""
        changes, forgotten = self._nodes.changes, self._nodes.forgotten
        if changes == self._changes:
            return succeed(None)
        began = time.perf_counter()

        def work() -> int:
            self._file.acquire()
            return self._file.replace(self._parts())

        def written(size: int) -> None:
            self._changes, self._forgotten = changes, forgotten
            self._telemetry.snapshot_written(self._now().unix, time.perf_counter() - began, size)
            if self._failing is not None:
                log.info("the table is kept across restarts again, in {path}", path=str(self._file.path))
                self._failing = None

        def failed(failure: Failure) -> None:
            # A forgotten node starts one early write, and no more of them while the disk is full.
            self._forgotten = forgotten
            reason = _reason(failure.value)
            if not failure.check(OSError) and reason != self._failing:
                log.failure("a snapshot could not be made", failure)
            self._failed(reason)

        # It may be impossible to start a thread.
        return maybeDeferred(self._in_thread, work).addCallbacks(written, failed)

    def _parts(self) -> Iterator[bytes]:
        """Yield the snapshot, and let the reactor run between its parts. For any thread."""
        now = self._now()
        for part in encode(self._families.names, now, self._nodes.blocks(now.monotonic, BLOCK)):
            yield part
            self._hurry.wait(PAUSE_SECONDS)

    def _failed(self, reason: str) -> None:
        self._telemetry.snapshot_failed()
        if reason != self._failing:
            log.warn(
                "the table is not kept across restarts: {path}: {reason}; trying again every {every:g} s",
                path=str(self._file.path),
                reason=reason,
                every=self._every,
            )
            self._failing = reason

    def _set_aside(self, reason: str) -> None:
        try:
            where = f"it is now {self._file.set_aside()}"
        except OSError as error:
            where = f"and cannot be renamed: {_reason(error)}"
        log.warn("{path} is not restored: {reason}; {where}", path=str(self._file.path), reason=reason, where=where)


def in_own_thread(reactor: Any, work: Callable[[], T]) -> Deferred[T]:
    """Run work in a thread of its own, a daemon thread: a disk may hang, and the process must still end."""
    result: Deferred[T] = Deferred()

    def run() -> None:
        try:
            value = work()
        except Exception:  # noqa: BLE001 - the caller gets every error
            reactor.callFromThread(result.errback, Failure())
        else:
            reactor.callFromThread(result.callback, value)

    Thread(target=run, name="snapshot", daemon=True).start()
    return result


def _reason(error: object) -> str:
    """Return the error's text without the path, which the log line has already."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
