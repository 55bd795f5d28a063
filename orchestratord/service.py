"""The daemon's life: it starts, drains and stops. What it is made of comes from `orchestratord.wiring`."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from orchestratord import __version__
from orchestratord.runtime.clock import MACHINE
from orchestratord.runtime.file_reload import look_again
from orchestratord.runtime.signals import Signals
from orchestratord.security.gate import Role
from orchestratord.web.server.start_message import exposure, page_address
from orchestratord.wiring.daemon import make_daemon

if TYPE_CHECKING:
    from orchestratord.config.settings import Settings
    from orchestratord.promql.embedded_prometheus import EmbeddedPrometheus
    from orchestratord.runtime.clock import Clocks

log = Logger()

#: Seconds that a probe in flight gets at the very end, when everything else has stopped.
_LAST_SECONDS = 1.0


class Orchestrator(MultiService):
    """The daemon: what it serves is ready while it runs, and drains when it stops.

    Nodes age by `clocks`. Raises FilesError if certificates, keys or credentials are not good, and EmbeddedError if
    the embedded Prometheus cannot be started; nothing is open then.
    """

    def __init__(self, reactor: Any, settings: Settings, clocks: Clocks = MACHINE) -> None:
        super().__init__()
        self._reactor = reactor
        #: While it leaves, the daemon is not ready and still serves everything. While it drains, it takes nothing new.
        self._leaving = self._draining = False
        self._staying: Deferred[None] | None = None
        self._hurried = False
        self._daemon = daemon = make_daemon(
            reactor, settings, clocks, unready=self._unready, draining=lambda: self._draining
        )
        self._listeners, self._admin_listeners = daemon.listeners, daemon.admin_listeners
        self._embedded = daemon.embedded
        for service in daemon.services:
            self.addService(service)
        self.addService(Signals(reactor, self.hurry, partial(look_again, self)))

    def privilegedStartService(self) -> None:
        """Read the snapshot, then open the ports, while the process may still have the right to low ones.

        SystemExit if a port cannot be opened.
        """
        for prepare in self._daemon.before_ports:
            prepare()
        for listeners in (self._listeners, self._admin_listeners):
            listeners.open()
        super().privilegedStartService()

    def startService(self) -> None:
        """Start everything; what needs to know the daemon's port starts last."""
        super().startService()
        # What exists now stays. A full collection would look at all of it again, and hold the reactor each time.
        gc.collect()
        gc.freeze()
        daemon = self._daemon
        log.info(
            "orchestratord {version} serves on {addresses}; {admin}{delivered}queries go to {upstreams}",
            version=__version__,
            addresses=", ".join(self._listeners.addresses),
            admin="".join(f"probes and administration on {where}; " for where in self._admin_listeners.addresses),
            delivered=f"reports are delivered to {daemon.remote_write}; " if daemon.remote_write else "",
            upstreams=", ".join(daemon.upstreams) if self._embedded is None else "the embedded Prometheus",
        )
        self._log_addresses()
        if self._embedded is not None:
            self._authorize(self._embedded)
            daemon.gate_service.follow(Role.SCRAPE, partial(self._authorize, self._embedded))
            self._embedded.scrape(self._own_address())
            self._embedded.setServiceParent(self)
        if daemon.profiler is not None:
            daemon.profiler(self._own_address()).setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        """Be not ready for `drain_delay`, take nothing new, finish what is in flight, end the children."""
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """End the drain delay now, or leave it out."""
        self._hurried = True
        staying, self._staying = self._staying, None
        if staying is not None:
            staying.callback(None)

    async def _stop(self) -> None:
        daemon = self._daemon
        self._leaving = True
        if daemon.drain_delay > 0 and not self._hurried:
            await self._stay(daemon.drain_delay)
        self._draining = True
        await self._listeners.close()
        await daemon.site.drain(daemon.drain_timeout)
        await super().stopService()
        await daemon.pool.closeCachedConnections()
        # These close last: the readiness probe gets its answer to the end.
        await self._admin_listeners.close()
        await daemon.admin_site.drain(min(_LAST_SECONDS, daemon.drain_timeout))
        log.info("orchestratord has stopped")

    async def _stay(self, seconds: float) -> None:
        """Serve on while the load balancers learn that this daemon is not ready any more."""
        log.info("not ready any more; the ports close in {seconds:g} s", seconds=seconds)
        self._staying = Deferred()
        timer = self._reactor.callLater(seconds, self.hurry)
        await self._staying
        if timer.active():
            timer.cancel()

    def _log_addresses(self) -> None:
        """Log where the page is, and warn of what others can do without a token."""
        places = self._listeners.places
        page = page_address(places)
        if page is not None:
            log.info("the page is at {url}", url=page)
        daemon = self._daemon
        roles = daemon.gate_service.gate.open_roles
        warning = exposure(places, self._admin_listeners.places, roles, daemon.mutual_tls)
        if warning is not None:
            log.warn("{warning}", warning=warning)

    def _authorize(self, embedded: EmbeddedPrometheus) -> None:
        """Give the embedded Prometheus the first token of the role `scrape`, if there is one."""
        tokens = self._daemon.gate_service.tokens(Role.SCRAPE)
        embedded.authorize(tokens[0] if tokens else None)

    def _unready(self) -> str | None:
        if self._leaving:
            return "draining"
        return None if self.running else "starting"

    def _own_address(self) -> str:
        return self._listeners.own_address()
