"""From Settings to the running daemon: which concrete things are plugged together, and nothing else."""

from __future__ import annotations

import gc
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.twisted import MetricsResource
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from orchestratord import __version__
from orchestratord.http_client.agent import connection_pool
from orchestratord.http_client.resolver import ResolverService
from orchestratord.nodes.departed import DepartedNodes
from orchestratord.nodes.directory import StoreDirectory, TableDirectory
from orchestratord.nodes.expiry import ExpirySweep
from orchestratord.nodes.exposition import Exposition, NodeCollector, SampleRenderer, unrendered
from orchestratord.nodes.report import ReportDecoder
from orchestratord.nodes.snapshot_file import SnapshotFile
from orchestratord.nodes.snapshot_format import Moment
from orchestratord.nodes.snapshot_service import SnapshotService, in_own_thread
from orchestratord.nodes.store import NodeStore
from orchestratord.profiler.agent import ProfilerSettings, host_node_id, profiler_service
from orchestratord.promql.embedded_prometheus import EmbeddedPrometheus, find_programs, free_address, prepare
from orchestratord.runtime.clocks import MACHINE
from orchestratord.runtime.concurrency_limit import ConcurrencyLimit
from orchestratord.runtime.file_descriptors import connections_that_fit
from orchestratord.runtime.file_reload import FileReloader, look_again
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.memory_limit import memory_limit, tls_connections_that_fit
from orchestratord.runtime.signals import Signals
from orchestratord.runtime.time_slices import TimeSlices
from orchestratord.security.gate import Role
from orchestratord.security.gate_service import GateService
from orchestratord.telemetry.self_metrics import SelfMetrics
from orchestratord.web.api.admin import Admin
from orchestratord.web.api.klein_app import AdminRoot, Api, Root, hot_leaves
from orchestratord.web.api.metrics import ScrapeResource
from orchestratord.web.api.report_remarks import ReportRemarks
from orchestratord.web.api.reports import AT_ONCE, ReportsResource
from orchestratord.web.pages.activity import ActivityRecorder
from orchestratord.web.pages.resource import Pages
from orchestratord.web.routes import HOT_QUERIES
from orchestratord.web.server.connection_limit import ConnectionLimit
from orchestratord.web.server.context import ServerContext
from orchestratord.web.server.fast_path import FastPath
from orchestratord.web.server.header_names import remember_short_names_only
from orchestratord.web.server.listeners import Listeners, server_tls
from orchestratord.web.server.site import OrchestratorSite
from orchestratord.web.server.slow_readers import SlowReaders
from orchestratord.web.server.start_message import exposure, page_address
from orchestratord.wiring.queries import make_client, make_queries, make_upstreams
from orchestratord.wiring.remote_write import SWEEP_EVERY, RemoteWrite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from prometheus_client.registry import Collector

    from orchestratord.config.settings import Settings
    from orchestratord.nodes.directory import NodeDirectory
    from orchestratord.nodes.report import Packer, Renderer
    from orchestratord.promql.upstreams import QueryClient, Upstreams
    from orchestratord.runtime.clocks import Clocks

log = Logger()

#: Seconds that a probe under way gets at the very end, when everything else has stopped.
_LAST_SECONDS = 1.0


class _ScaledOut(NamedTuple):
    """What is another thing where a store is shared: where nodes are looked up and forgotten, and what reports pass."""

    fleet: NodeDirectory
    forget: Callable[[str], Awaitable[bool]]
    pack: Packer | None
    flush: Callable[[], None] | None
    metrics: Sequence[Collector]


class Orchestrator(MultiService):
    """The daemon: what it serves is ready while it runs, and drains when it stops.

    Nodes age by `clocks`. Raises FilesError if certificates, keys or credentials are not good; nothing is open then.
    """

    def __init__(self, reactor: Any, settings: Settings, clocks: Clocks = MACHINE) -> None:
        super().__init__()
        remember_short_names_only()
        self._reactor = reactor
        self._settings = settings
        self._clocks = clocks
        #: Not ready any more, but everything is served; then nothing new is.
        self._leaving = self._draining = False
        self._staying: Deferred[None] | None = None
        self._hurried = False
        self._scale_out: RemoteWrite | None = None
        self._gate_service = GateService(reactor, settings, clocks.time)
        self._gate_service.setServiceParent(self)
        self._embedded: EmbeddedPrometheus | None = None
        self._bases = settings.prometheus
        if settings.embedded:
            address = free_address()
            self._embedded = _embedded(reactor, settings, address)
            self._bases = (f"http://{address}",)

        nodes = NodeStore(stale_after=settings.stale_after, max_nodes=settings.max_nodes)
        self._departed = DepartedNodes(nodes, self._clocks)
        nodes.observers.append(self._departed)
        telemetry = SelfMetrics()
        render: Renderer = SampleRenderer(settings.families) if settings.nodes_exposed else unrendered
        every = settings.expire_every if settings.remote_write is None else min(settings.expire_every, SWEEP_EVERY)
        self._sweep = ExpirySweep(reactor, nodes, telemetry, clocks.monotonic, every, running=time.monotonic)
        self._sweep.setServiceParent(self)
        self._snapshots = self._kept(nodes, render, telemetry)
        ResolverService(reactor).setServiceParent(self)
        self._pool = connection_pool(reactor, settings.max_queries)
        limit = ConcurrencyLimit(settings.max_queries, settings.query_queue)
        answers, arriving = MemoryBudget(settings.max_answers_bytes), MemoryBudget(settings.max_arriving_bytes)
        self._connections = ConnectionLimit(settings.max_connections)
        self._readers = SlowReaders(reactor)
        self._slices = TimeSlices(reactor)
        answers.free = self._readers.free_memory
        _watch(telemetry, settings, self._connections, self._readers, limit=limit, answers=answers, arriving=arriving)
        upstreams = make_upstreams(reactor, settings, self._bases, self._pool, telemetry, limit=limit, answers=answers)
        upstreams.health.setServiceParent(self)
        self._site, self._admin_site = sites = self._sites(
            nodes, telemetry, upstreams, render=render, answers=answers, arriving=arriving
        )
        tls = server_tls(settings, telemetry.certificate_not_after)
        if tls is not None:
            FileReloader(reactor, [(tls.context, lambda: None)]).setServiceParent(self)
        self._listeners, self._admin_listeners = (
            Listeners(reactor, descriptions, site, tls, self._connections)
            for descriptions, site in zip((settings.listen, settings.admin_listen), sites, strict=True)
        )
        Signals(reactor, self.hurry, partial(look_again, self)).setServiceParent(self)

    def _sites(
        self,
        nodes: NodeStore,
        telemetry: SelfMetrics,
        upstreams: Upstreams,
        *,
        render: Renderer,
        answers: MemoryBudget,
        arriving: MemoryBudget,
    ) -> tuple[OrchestratorSite, OrchestratorSite]:
        """Return what the listeners serve, and what the administrators' do."""
        reactor, settings = self._reactor, self._settings
        client = make_client(reactor, settings, upstreams, nodes, answers, clocks=self._clocks, slices=self._slices)
        table = TableDirectory(nodes, self._clocks)
        fleet, forget, pack, flush, more = self._scaled_out(nodes, upstreams) or _ScaledOut(
            table, table.forget, None, None, ()
        )
        queries = make_queries(settings, client)
        admin = Admin(
            partial(self._departed.forget, forget=forget), unhealthy=self._sweep.unhealthy, unready=self._unready
        )
        api = Api(
            fleet,
            settings.families,
            queries,
            departed=self._departed,
            pages=self._pages(nodes, fleet, client, telemetry),
            in_thread=self._in_thread,
            admin=None if settings.admin_listen else admin,
        )
        reports = ReportsResource(
            reactor,
            ReportDecoder(settings.families, render, max_batch=settings.max_batch, pack=pack),
            nodes,
            telemetry,
            self._clocks,
            remarks=ReportRemarks(settings.families.names, settings.stale_after, self._gate_service.redacted),
            max_bytes=settings.max_report_bytes,
            draining=lambda: self._draining,
            slices=self._slices,
            flush=flush,
        )
        context = partial(
            ServerContext,
            telemetry=telemetry,
            reactor=reactor,
            gate=self._gate_service.gate,
            redacted=self._gate_service.redacted,
            max_body=settings.max_report_bytes,
            arriving=arriving,
            connections=self._connections,
            readers=self._readers,
            request_timeout=settings.request_timeout,
            idle_timeout=settings.idle_timeout,
            answer_timeout=settings.answer_timeout,
            access_log=settings.access_log,
            flush=flush,
        )
        fast_path = FastPath(
            reports, queries, telemetry, self._gate_service.gate, max_body=min(AT_ONCE, settings.max_report_bytes)
        )
        root = Root(api, self._scrape(nodes, telemetry, more))
        return (
            OrchestratorSite(root, context(hot=hot_leaves(reports, queries), fast_path=fast_path)),
            OrchestratorSite(AdminRoot(admin), context(hot={}, fast_path=None)),
        )

    def _scaled_out(self, nodes: NodeStore, upstreams: Upstreams) -> _ScaledOut | None:
        """Let the store have what this process hears, if there is one, and answer from it."""
        settings = self._settings
        if settings.remote_write is None:
            return None
        # Past --query-cache: each look is at a moment of its own.
        fleet = StoreDirectory(
            upstreams,
            settings.families,
            settings.external_label,
            self._clocks,
            stale_after=settings.stale_after,
            query_timeout=settings.query_timeout,
            in_thread=self._in_thread,
        )
        self._scale_out = out = RemoteWrite(
            self._reactor, settings, settings.remote_write, nodes, fleet, clocks=self._clocks
        )
        out.setServiceParent(self)
        return _ScaledOut(fleet, out.forget, out.pack, out.flush, (out.metrics,))

    def _scrape(self, nodes: NodeStore, telemetry: SelfMetrics, more: Sequence[Collector]) -> ScrapeResource:
        families, exposed = self._settings.families, self._settings.nodes_exposed
        everything, own = CollectorRegistry(), CollectorRegistry()
        if exposed:
            everything.register(NodeCollector(families, lambda: nodes.snapshot(self._clocks.monotonic())))
        for registry in (everything, own):
            for collector in (telemetry, *more):
                registry.register(collector)
            ProcessCollector(registry=registry)
        exposition = Exposition(families, own, nodes=exposed)
        return ScrapeResource(
            self._slices, nodes, exposition, telemetry, self._clocks, fallback=MetricsResource(everything)
        )

    def _pages(self, nodes: NodeStore, fleet: NodeDirectory, client: QueryClient, telemetry: SelfMetrics) -> Pages:
        history = ActivityRecorder(self._reactor, telemetry, nodes, self._clocks.monotonic, HOT_QUERIES)
        history.setServiceParent(self)
        return Pages(
            self._reactor,
            fleet,
            self._settings.families,
            client,
            self._clocks,
            telemetry=telemetry,
            history=history,
            departed=self._departed,
            in_thread=self._in_thread,
            unhealthy=self._sweep.unhealthy,
            unready=self._unready,
            undelivered=self._scale_out.trouble if self._scale_out else None,
            max_nodes=self._settings.max_nodes,
            max_length=self._settings.max_query_length,
        )

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    def _kept(self, nodes: NodeStore, render: Renderer, telemetry: SelfMetrics) -> SnapshotService | None:
        """Return what keeps the table across restarts, if that is wanted."""
        settings = self._settings
        if not settings.snapshot_every:
            return None
        boot, clocks = _boot(), self._clocks
        snapshots = SnapshotService(
            self._reactor,
            nodes,
            SnapshotFile(settings.data_dir),
            telemetry,
            lambda: Moment(clocks.time(), clocks.monotonic(), boot),
            families=settings.families,
            render=render,
            every=settings.snapshot_every,
            in_thread=lambda work: in_own_thread(self._reactor, work),
            departed=self._departed,
        )
        snapshots.setServiceParent(self)
        return snapshots

    def privilegedStartService(self) -> None:
        """Take the table back, then open the ports, while there may still be the right to low ones.

        SystemExit if one cannot be opened.
        """
        if self._snapshots is not None:
            self._snapshots.load()
        if self._scale_out is not None:
            self._scale_out.open()
        upstream = self._settings.max_queries * len(self._bases)
        self._connections.limit = fit = connections_that_fit(self._settings.max_connections, upstream)
        serves_tls = self._settings.tls_certificate is not None
        self._connections.tls_limit = tls_connections_that_fit(fit, memory_limit(), serves_tls=serves_tls)
        for listeners in (self._listeners, self._admin_listeners):
            listeners.open()
        super().privilegedStartService()

    def startService(self) -> None:
        """Start everything; what needs to know our port starts last."""
        super().startService()
        # What is there now stays: a full collection would look at all of it again, holding the reactor each time.
        gc.collect()
        gc.freeze()
        log.info(
            "orchestratord {version} serves on {addresses}; {admin}{delivered}queries go to {upstreams}",
            version=__version__,
            addresses=", ".join(self._listeners.addresses),
            admin="".join(f"probes and administration on {where}; " for where in self._admin_listeners.addresses),
            delivered=f"reports are delivered to {store}; " if (store := self._settings.remote_write) else "",
            upstreams=", ".join(self._bases) if self._embedded is None else "the embedded Prometheus",
        )
        self._welcome()
        if self._embedded is not None:
            self._authorize(self._embedded)
            self._gate_service.follow(Role.SCRAPE, partial(self._authorize, self._embedded))
            self._embedded.scrape(self._own_address())
            self._embedded.setServiceParent(self)
        if self._settings.all_in_one:
            profiler = ProfilerSettings(
                orchestrator=f"http://{self._own_address()}",
                node_id=host_node_id(),
                token_file=self._gate_service.path(Role.REPORT),
            )
            profiler_service(self._reactor, profiler).setServiceParent(self)

    def _welcome(self) -> None:
        """Say where the page is, and what others can do without a token."""
        places = self._listeners.places
        page = page_address(places)
        if page is not None:
            log.info("the page is at {url}", url=page)
        roles = self._gate_service.gate.open_roles
        mutual = self._settings.tls_client_ca is not None
        warning = exposure(places, self._admin_listeners.places, roles, mutual)
        if warning is not None:
            log.warn("{warning}", warning=warning)

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
        self._leaving = True
        if self._settings.drain_delay > 0 and not self._hurried:
            await self._stay(self._settings.drain_delay)
        self._draining = True
        await self._listeners.close()
        await self._site.drain(self._settings.drain_timeout)
        await super().stopService()
        await self._pool.closeCachedConnections()
        # The last to go: who asks for our readiness is told to the end.
        await self._admin_listeners.close()
        await self._admin_site.drain(min(_LAST_SECONDS, self._settings.drain_timeout))
        log.info("orchestratord has stopped")

    def _authorize(self, embedded: EmbeddedPrometheus) -> None:
        """Give the embedded Prometheus the first of the tokens that scrape, if there are any."""
        tokens = self._gate_service.tokens(Role.SCRAPE)
        embedded.authorize(tokens[0] if tokens else None)

    async def _stay(self, seconds: float) -> None:
        """Serve on while the load balancers learn that this daemon is not ready any more."""
        log.info("not ready any more; the ports close in {seconds:g} s", seconds=seconds)
        self._staying = Deferred()
        timer = self._reactor.callLater(seconds, self.hurry)
        await self._staying
        if timer.active():
            timer.cancel()

    def _unready(self) -> str | None:
        if self._leaving:
            return "draining"
        return None if self.running else "starting"

    def _own_address(self) -> str:
        return self._listeners.own_address()


def _boot() -> str:
    """Return what names the time since the machine was started, and the clock that goes on in it; or nothing.

    The clock, because earlier versions wrote CLOCK_MONOTONIC, which is behind by all suspensions.
    """
    try:
        return "boottime " + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _watch(
    telemetry: SelfMetrics,
    settings: Settings,
    connections: ConnectionLimit,
    readers: SlowReaders,
    *,
    limit: ConcurrencyLimit,
    answers: MemoryBudget,
    arriving: MemoryBudget,
) -> None:
    telemetry.watch("orchestrator_nodes_limit", "Nodes that the table holds at most.", lambda: settings.max_nodes)
    telemetry.watch(
        "orchestrator_stale_after_seconds",
        "Seconds without a report after which a node is gone.",
        lambda: settings.stale_after,
    )
    telemetry.watch("orchestrator_connections", "Connections of clients.", lambda: connections.open)
    telemetry.watch("orchestrator_connections_tls", "Connections of clients in TLS.", lambda: connections.tls_open)
    telemetry.watch(
        "orchestrator_connections_tls_limit",
        "Connections in TLS that there may be: --max-connections, or what fits into a quarter of the memory limit.",
        lambda: connections.tls_limit,
    )
    telemetry.watch(
        "orchestrator_connections_refused",
        "Connections refused because there were --max-connections, or as many in TLS as there may be.",
        lambda: connections.refused,
        counter=True,
    )
    telemetry.watch(
        "orchestrator_slow_readers",
        "Connections whose clients read more slowly than they are answered.",
        lambda: len(readers),
    )
    telemetry.watch(
        "orchestrator_slow_readers_cut",
        "Connections cut because their clients read too slowly, at their deadline or to make room for others.",
        lambda: readers.cut,
        counter=True,
    )
    telemetry.watch("orchestrator_queries_in_flight", "Queries that Prometheus is at.", lambda: limit.taken)
    telemetry.watch("orchestrator_queries_waiting", "Queries that wait for their turn.", lambda: limit.waiting)
    telemetry.watch("orchestrator_answers_held_bytes", "Answers being passed on, in bytes.", lambda: answers.held)
    telemetry.watch("orchestrator_arriving_held_bytes", "Requests arriving, in bytes.", lambda: arriving.held)


def _embedded(reactor: Any, settings: Settings, address: str) -> EmbeddedPrometheus:
    programs = find_programs(settings.prometheus_binary)
    return EmbeddedPrometheus(reactor, programs, prepare(settings.data_dir), address, settings.prometheus_retention)
