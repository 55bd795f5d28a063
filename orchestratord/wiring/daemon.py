"""From Settings to the whole daemon: its services, what has to happen before the ports open, and its listeners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client.twisted import MetricsResource

from orchestratord.http_client.agent import connection_pool
from orchestratord.http_client.resolver import ResolverService
from orchestratord.nodes.directory import TableDirectory
from orchestratord.promql.embedded_prometheus import free_address
from orchestratord.runtime.file_reload import FileReloader
from orchestratord.telemetry.self_metrics import SelfMetrics
from orchestratord.web.server.header_names import remember_short_names_only
from orchestratord.wiring.access import Access, make_gate_service
from orchestratord.wiring.http import (
    Backend,
    Condition,
    make_http,
    make_listeners,
    make_registries,
    make_scrape,
    make_server_tls,
)
from orchestratord.wiring.limits import fit_connections, make_limits, watch_limits
from orchestratord.wiring.nodes import NodeSource, make_nodes
from orchestratord.wiring.one_machine import make_embedded, make_profiler
from orchestratord.wiring.queries import make_client, make_upstreams
from orchestratord.wiring.remote_write import RemoteWrite, ReportDelivery
from orchestratord.wiring.runtime import make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.application.service import IService
    from twisted.web.client import HTTPConnectionPool

    from orchestratord.config.settings import Settings
    from orchestratord.promql.embedded_prometheus import EmbeddedPrometheus
    from orchestratord.runtime.clock import Clocks
    from orchestratord.security.gate_service import GateService
    from orchestratord.web.server.listeners import Listeners
    from orchestratord.web.server.site import OrchestratorSite


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """The daemon in parts, which `orchestratord.service` starts, drains and stops.

    `services` are in the order in which they start. `before_ports` are called, in order, before a port opens; they may
    block. `embedded` and `profiler` start last, since they need the daemon's own address; `profiler` makes the
    profiler that reports to a HOST:PORT. `drain_delay` and `drain_timeout` are in seconds.
    """

    services: Sequence[IService]
    before_ports: Sequence[Callable[[], None]]
    listeners: Listeners
    admin_listeners: Listeners
    site: OrchestratorSite
    admin_site: OrchestratorSite
    #: Kept connections to Prometheus.
    pool: HTTPConnectionPool
    gate_service: GateService
    embedded: EmbeddedPrometheus | None
    profiler: Callable[[str], IService] | None
    drain_delay: float
    drain_timeout: float
    #: For the log: the Prometheus servers, the store that reports are delivered to, whether clients need certificates.
    upstreams: Sequence[str]
    remote_write: str | None
    mutual_tls: bool


def make_daemon(
    reactor: Any,
    settings: Settings,
    clocks: Clocks,
    *,
    unready: Callable[[], str | None],
    draining: Callable[[], bool],
) -> Daemon:
    """Return the daemon's parts; no port is open and nothing runs yet.

    Nodes age by `clocks`. `unready` and `draining` are as in Condition. Raises FilesError if certificates, keys or
    credentials are not good, EmbeddedError if the embedded Prometheus cannot be started.
    """
    remember_short_names_only()
    gate_service = make_gate_service(reactor, settings, clocks.time)
    embedded, bases = None, settings.prometheus
    if settings.embedded:
        address = free_address()
        embedded, bases = make_embedded(reactor, settings, address), (f"http://{address}",)
    runtime = make_runtime(reactor, clocks)
    telemetry = SelfMetrics()
    nodes = make_nodes(reactor, settings, telemetry, clocks)
    limits = make_limits(reactor, settings)
    watch_limits(telemetry, settings, limits)
    pool = connection_pool(reactor, settings.max_queries)
    upstreams = make_upstreams(reactor, settings, bases, pool, telemetry=telemetry, limits=limits)
    remote_write = None
    if settings.remote_write is not None:
        remote_write = RemoteWrite(runtime, settings, settings.remote_write, nodes.store, upstreams)
    table = TableDirectory(nodes.store, clocks)
    backend = Backend(
        runtime=runtime,
        nodes=nodes,
        source=NodeSource(table, table.forget) if remote_write is None else remote_write.source,
        client=make_client(runtime, settings, upstreams, nodes.store, limits.answers),
        telemetry=telemetry,
        limits=limits,
        access=Access(gate_service.gate, gate_service.redacted),
        condition=Condition(nodes.sweep.unhealthy, unready, draining),
        delivery=ReportDelivery() if remote_write is None else remote_write.delivery,
    )
    own, everything = make_registries(settings, backend)
    http = make_http(settings, backend, make_scrape(settings, backend, own, fallback=MetricsResource(everything)))
    tls = make_server_tls(settings, telemetry)
    listeners, admin_listeners = make_listeners(reactor, settings, http, limits, tls)
    services: tuple[IService | None, ...] = (
        gate_service,
        nodes.sweep,
        nodes.snapshots,
        ResolverService(reactor),
        upstreams.health,
        remote_write,
        http.activity,
        None if tls is None else FileReloader(reactor, [(tls.context, lambda: None)]),
    )
    before_ports: list[Callable[[], None]] = [partial(fit_connections, settings, limits, len(bases))]
    if remote_write is not None:
        before_ports.insert(0, remote_write.open)
    if nodes.snapshots is not None:
        before_ports.insert(0, nodes.snapshots.load)
    return Daemon(
        services=[service for service in services if service is not None],
        before_ports=before_ports,
        listeners=listeners,
        admin_listeners=admin_listeners,
        site=http.site,
        admin_site=http.admin_site,
        pool=pool,
        gate_service=gate_service,
        embedded=embedded,
        profiler=partial(make_profiler, reactor, gate_service) if settings.all_in_one else None,
        drain_delay=settings.drain_delay,
        drain_timeout=settings.drain_timeout,
        upstreams=bases,
        remote_write=settings.remote_write,
        mutual_tls=settings.tls_client_ca is not None,
    )
