"""Which upstreams are up, from the outcomes of queries and from probes in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's name for it
from twisted.logger import Logger

from orchestratord.http_client.agent import CONNECT_SECONDS, cancellable
from orchestratord.http_client.error_text import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from orchestratord.telemetry.self_metrics import SelfMetrics

log = Logger()

#: Seconds for a whole probe.
PROBE_SECONDS = CONNECT_SECONDS
#: Seconds between probes of an upstream that is down, and of one that is up and has not answered anything meanwhile.
PROBE_DOWN_EVERY, PROBE_UP_EVERY = 2.0, 5.0
#: Seconds after a good probe in which no doubt starts another: clients that leave early must not cause many probes.
TRUST_SECONDS = 0.25


class Upstream:
    """One Prometheus and its state. `heard` is when it last answered as Prometheus, by the reactor's clock."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.up = True
        #: A query ended without an answer, and the probe that this started has not ended.
        self.doubted = False
        self.heard = float("-inf")
        self.probed = float("-inf")
        self.probing: Deferred[None] | None = None
        self.timer: IDelayedCall | None = None


class UpstreamHealth(Service):
    """Knows which upstreams are up, while it runs.

    A failed connection makes an upstream down at once. Any other end of a query without an answer (the client left or
    its deadline passed, a reset, an answer that is not Prometheus') only makes it doubted: a probe is sent at once and
    decides, and until then other upstreams come first. So a Prometheus that is busy with a heavy query stays up, since
    it answers the probe or another query meanwhile; and no client waits until a silent one is found to be down. An
    upstream that is down is probed every 2 s, one that is up and has not answered lately every 5 s, with jitter, one
    probe at a time.

    `probe` asks an upstream, and raises an error if it does not answer as Prometheus. `first_after` is the delay of the
    first probe, in seconds; `random` returns numbers from 0 to 1. Belongs to the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        bases: Sequence[str],
        telemetry: SelfMetrics,
        *,
        probe: Callable[[Upstream], Coroutine[Any, Any, None]],
        random: Callable[[], float],
        first_after: float = 0.0,
    ) -> None:
        self._reactor = reactor
        self._upstreams = [Upstream(base) for base in bases]
        self._telemetry = telemetry
        self._probe = probe
        self._random = random
        self._first_after = first_after
        for base in bases:
            telemetry.upstream_known(base)

    def in_order(self) -> list[Upstream]:
        """Return the upstreams in the order to ask them: those that are up, then the doubted ones, then the others."""
        return sorted(self._upstreams, key=lambda upstream: (not upstream.up, upstream.doubted))

    def answering(self) -> bool:
        """Return whether any upstream is up and not doubted."""
        return any(upstream.up and not upstream.doubted for upstream in self._upstreams)

    def answered(self, upstream: Upstream) -> None:
        """Note that an upstream has answered as Prometheus does."""
        upstream.heard = self._reactor.seconds()
        upstream.doubted = False
        if not upstream.up:
            upstream.up = True
            self._telemetry.upstream_up(upstream.base, up=True)
            log.info("upstream {upstream} is back", upstream=upstream.base)

    def failed(self, upstream: Upstream, reason: str) -> None:
        """Note that an upstream is down."""
        upstream.doubted = False
        if upstream.up:
            upstream.up = False
            self._telemetry.upstream_up(upstream.base, up=False)
            log.warn("upstream {upstream} is down: {reason}", upstream=upstream.base, reason=reason)
        if upstream.probing is None:
            self._plan(upstream)

    def doubt(self, upstream: Upstream) -> None:
        """Probe an upstream that a query got no answer from."""
        if not self.running or not upstream.up or self._reactor.seconds() < upstream.probed + TRUST_SECONDS:
            return
        upstream.doubted = True
        self._start_probe(upstream)

    def startService(self) -> None:
        """Begin to probe every upstream."""
        super().startService()
        for upstream in self._upstreams:
            upstream.timer = self._reactor.callLater(self._first_after, self._due, upstream)

    def stopService(self) -> None:
        """End the probes."""
        super().stopService()
        for upstream in self._upstreams:
            if upstream.timer is not None and upstream.timer.active():
                upstream.timer.cancel()
            if upstream.probing is not None:
                upstream.probing.cancel()

    def _plan(self, upstream: Upstream) -> None:
        if upstream.timer is not None and upstream.timer.active():
            upstream.timer.cancel()
        if self.running:
            every = PROBE_UP_EVERY if upstream.up else PROBE_DOWN_EVERY
            upstream.timer = self._reactor.callLater(every * (0.75 + self._random() / 2), self._due, upstream)

    def _due(self, upstream: Upstream) -> None:
        if upstream.up and upstream.heard > self._reactor.seconds() - PROBE_UP_EVERY:
            self._plan(upstream)
        else:
            self._start_probe(upstream)

    def _start_probe(self, upstream: Upstream) -> None:
        if upstream.probing is not None:
            return
        began = self._reactor.seconds()
        probing = upstream.probing = cancellable(Deferred.fromCoroutine(self._probe(upstream)))
        probing.addTimeout(PROBE_SECONDS, self._reactor)
        probing.addCallbacks(self._passed, self._not_passed, (upstream,), {}, (upstream, began))
        probing.addBoth(self._probed, upstream)

    def _passed(self, _: object, upstream: Upstream) -> None:
        upstream.probed = self._reactor.seconds()
        self.answered(upstream)

    def _not_passed(self, failure: Failure, upstream: Upstream, began: float) -> None:
        if failure.check(CancelledError):
            return
        if upstream.heard >= began:
            # It has answered a query since the probe began: it is slow, not down.
            upstream.doubted = False
            return
        timed_out = failure.check(TimeoutError) is not None
        self.failed(
            upstream,
            f"no answer to a probe within {PROBE_SECONDS:g} s" if timed_out else reason_of(failure.value),  # type: ignore[arg-type]  # a Failure has one
        )

    def _probed(self, _: object, upstream: Upstream) -> None:
        upstream.probing = None
        self._plan(upstream)
