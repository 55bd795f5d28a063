"""From Settings to the running daemon: which concrete things are plugged together, and nothing else."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.twisted import MetricsResource
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from orchestratord import __version__
from orchestratord.coalescing import Coalescing
from orchestratord.embedded import EmbeddedPrometheus, find_programs, free_port, prepare
from orchestratord.expiry import Sweep
from orchestratord.exposition import Exposition, NodeCollector, SampleRenderer
from orchestratord.latest import LatestFromMemory
from orchestratord.nodes import NodeStore
from orchestratord.profiler.agent import ProfilerSettings, host_node_id, profiler_service
from orchestratord.report import ReportDecoder
from orchestratord.signals import StopOnSignals
from orchestratord.telemetry import Telemetry
from orchestratord.upstream import Upstreams, connection_pool, http_client
from orchestratord.web.api import Api, Root
from orchestratord.web.express import Express
from orchestratord.web.queries import HOT_QUERIES, Queries, QueryResource
from orchestratord.web.reports import AT_ONCE, ReportsResource
from orchestratord.web.scrape import ScrapeResource
from orchestratord.web.site import OrchestratorSite

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

    from orchestratord.settings import Settings
    from orchestratord.upstream import QueryClient

log = Logger()


class Orchestrator(MultiService):
    """The daemon: what it serves is ready while it runs, and drains when it stops."""

    def __init__(self, reactor: Any, settings: Settings) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._ports: list[IListeningPort] = []
        self._draining = False
        self._embedded: EmbeddedPrometheus | None = None
        bases = settings.prometheus
        if settings.embedded:
            programs = find_programs(settings.prometheus_binary)
            port = free_port()
            home = prepare(settings.data_dir)
            self._embedded = EmbeddedPrometheus(reactor, programs, home, port, settings.prometheus_retention)
            bases = (f"http://127.0.0.1:{port}",)
        self._bases = bases

        nodes = NodeStore(stale_after=settings.stale_after, max_nodes=settings.max_nodes)
        telemetry = Telemetry()
        telemetry.limits(max_nodes=settings.max_nodes, stale_after=settings.stale_after)
        everything, own = CollectorRegistry(), CollectorRegistry()
        everything.register(NodeCollector(settings.catalogue, lambda: nodes.snapshot(time.monotonic())))
        for registry in (everything, own):
            registry.register(telemetry)
            ProcessCollector(registry=registry)
        scrape = ScrapeResource(
            reactor, nodes, Exposition(settings.catalogue, own), telemetry, time, fallback=MetricsResource(everything)
        )
        decoder = ReportDecoder(settings.catalogue, SampleRenderer(settings.catalogue), max_batch=settings.max_batch)
        self._sweep = Sweep(reactor, nodes, telemetry, time.monotonic, settings.expire_every)
        self._sweep.setServiceParent(self)
        self._pool = connection_pool(reactor, settings.max_queries)
        upstreams = Upstreams(
            reactor,
            http_client(reactor, self._pool),
            bases,
            telemetry,
            headers=settings.prometheus_header,
            query_timeout=settings.query_timeout,
            max_queries=settings.max_queries,
            max_answer_bytes=settings.max_answer_bytes,
        )
        shared = Coalescing(
            reactor, upstreams, query_timeout=settings.query_timeout, cache_seconds=settings.query_cache
        )
        client: QueryClient = shared
        if settings.latest_from_memory != "never":
            client = LatestFromMemory(
                reactor, shared, nodes, settings.catalogue, clocks=time, mode=settings.latest_from_memory
            )
        queries = Queries(client, max_length=settings.max_query_length)
        api = Api(
            nodes,
            settings.catalogue,
            queries,
            time,
            in_thread=lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
            unhealthy=self._sweep.unhealthy,
            unready=self._unready,
        )
        reports = ReportsResource(
            reactor,
            decoder,
            nodes,
            telemetry,
            time,
            max_bytes=settings.max_report_bytes,
            draining=lambda: self._draining,
        )
        self._site = OrchestratorSite(
            Root(api, scrape),
            telemetry,
            reactor,
            hot={
                b"/update_metrics": reports,
                **{path.encode(): QueryResource(queries, path) for path in HOT_QUERIES},
            },
            express=Express(reports, queries, telemetry, max_body=min(AT_ONCE, settings.max_report_bytes)),
            max_body=settings.max_report_bytes,
            request_timeout=settings.request_timeout,
            idle_timeout=settings.idle_timeout,
            access_log=settings.access_log,
        )
        StopOnSignals(reactor).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Open the ports, while there may still be the right to low ones; SystemExit if one cannot be opened."""
        for description in self._settings.listen:
            listening = serverFromString(self._reactor, description).listen(self._site)
            listening.addCallbacks(
                self._ports.append, lambda failure, where=description: _cannot_listen(where, failure)
            )
            outcome = listening.result if listening.called else None
            if isinstance(outcome, SystemExit):
                raise outcome
        super().privilegedStartService()

    def startService(self) -> None:
        """Start everything; what needs to know our port starts last."""
        super().startService()
        # What is there now stays: a full collection would look at all of it again, holding the reactor each time.
        gc.collect()
        gc.freeze()
        log.info(
            "orchestratord {version} serves on {addresses}; queries go to {upstreams}",
            version=__version__,
            addresses=", ".join(_address(port) for port in self._ports),
            upstreams=", ".join(self._bases),
        )
        if self._embedded is not None:
            self._embedded.scrape(self._own_address())
            self._embedded.setServiceParent(self)
        if self._settings.all_in_one:
            profiler = ProfilerSettings(orchestrator=f"http://{self._own_address()}", node_id=host_node_id())
            profiler_service(self._reactor, profiler).setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        """Take nothing new, finish what is in flight, end the children."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._draining = True
        for port in self._ports:
            closed = port.stopListening()
            if closed is not None:
                await closed
        await self._site.drain(self._settings.drain_timeout)
        await super().stopService()
        await self._pool.closeCachedConnections()
        log.info("orchestratord has stopped")

    def _unready(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self.running else "starting"

    def _own_address(self) -> str:
        """Return `HOST:PORT` under which this very machine reaches the first TCP listener."""
        for port in self._ports:
            host: Any = port.getHost()
            if getattr(host, "type", None) == "TCP":
                local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.host)  # noqa: S104 - read, not bound
                name = local or (f"[{host.host}]" if ":" in host.host else host.host)
                return f"{name}:{host.port}"
        raise RuntimeError("settings promise a tcp: listener")  # pragma: no cover - checked at the start


def _cannot_listen(description: str, failure: Any) -> SystemExit:
    error = failure.value
    reason = str(error.socketError.strerror if isinstance(error, CannotListenError) else error)
    return SystemExit(f"orchestratord: cannot listen on {description}: {reason}")


def _address(port: IListeningPort) -> str:
    host: Any = port.getHost()
    if hasattr(host, "port"):
        return f"{host.host}:{host.port}"
    return str(getattr(host, "name", host))
