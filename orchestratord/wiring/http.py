"""From Settings to the HTTP side: the resources of the routes, the sites that serve them, and the listeners."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector

from orchestratord.nodes.exposition import Exposition, NodeCollector
from orchestratord.nodes.report_decoder import ReportDecoder
from orchestratord.security.tls import ServerFiles, ServerTls
from orchestratord.web.api.admin import Admin
from orchestratord.web.api.metrics import ScrapeResource
from orchestratord.web.api.report_remarks import ReportRemarks
from orchestratord.web.api.reports import AT_ONCE, ReportsResource
from orchestratord.web.klein_app import AdminRoot, Api, Root, hot_leaves
from orchestratord.web.pages.activity import ActivityRecorder
from orchestratord.web.pages.resource import Pages
from orchestratord.web.routes import HOT_QUERIES
from orchestratord.web.server.context import ServerContext
from orchestratord.web.server.fast_path import FastPath
from orchestratord.web.server.listeners import Listeners
from orchestratord.web.server.site import OrchestratorSite
from orchestratord.wiring.queries import make_queries
from orchestratord.wiring.remote_write import ReportDelivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.resource import Resource

    from orchestratord.config.settings import Settings
    from orchestratord.promql.client import QueryClient
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.web.api.queries import Queries
    from orchestratord.wiring.access import Access
    from orchestratord.wiring.limits import Limits
    from orchestratord.wiring.nodes import Nodes, NodeSource
    from orchestratord.wiring.runtime import Runtime


class Condition(NamedTuple):
    """How the daemon does. `unhealthy` and `unready` return the reason, or None while all is well.

    `draining` returns whether the daemon takes nothing new any more.
    """

    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]
    draining: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What the routes answer from, and what they count with."""

    runtime: Runtime
    nodes: Nodes
    source: NodeSource
    client: QueryClient
    telemetry: SelfMetrics
    limits: Limits
    access: Access
    condition: Condition
    delivery: ReportDelivery = field(default_factory=ReportDelivery)


class Http(NamedTuple):
    """The two sites, and what they are made of.

    `site` serves everything, except the probes and DELETE /nodes/<id> with `--admin-listen`; `admin_site` serves only
    these. `activity` is a service that records for the pages.
    """

    site: OrchestratorSite
    admin_site: OrchestratorSite
    fast_path: FastPath
    queries: Queries
    activity: ActivityRecorder


def make_http(settings: Settings, backend: Backend, scrape: Resource) -> Http:
    """Return the sites; `scrape` answers /metrics."""
    queries = make_queries(settings, backend.client)
    nodes, condition = backend.nodes, backend.condition
    admin = Admin(
        partial(nodes.departed.forget, forget=backend.source.forget),
        unhealthy=condition.unhealthy,
        unready=condition.unready,
    )
    runtime = backend.runtime
    activity = ActivityRecorder(runtime.reactor, backend.telemetry, nodes.store, runtime.clocks.monotonic, HOT_QUERIES)
    api = Api(
        backend.source.directory,
        settings.families,
        queries,
        departed=nodes.departed,
        pages=_pages(settings, backend, activity),
        in_thread=runtime.in_thread,
        admin=None if settings.admin_listen else admin,
    )
    reports = _reports(settings, backend)
    max_body = min(AT_ONCE, settings.max_report_bytes)
    fast_path = FastPath(reports, queries, backend.telemetry, backend.access.gate, max_body=max_body)
    return Http(
        site=_site(
            settings,
            backend,
            Root(api, scrape),
            hot=hot_leaves(reports, queries),
            fast_path=fast_path,
        ),
        admin_site=_site(settings, backend, AdminRoot(admin), hot={}, fast_path=None),
        fast_path=fast_path,
        queries=queries,
        activity=activity,
    )


def make_registries(settings: Settings, backend: Backend) -> tuple[CollectorRegistry, CollectorRegistry]:
    """Return the daemon's own metrics, and these together with the nodes' families, as far as they are exposed."""
    own, everything = CollectorRegistry(), CollectorRegistry()
    store, clocks = backend.nodes.store, backend.runtime.clocks
    if settings.nodes_exposed:
        everything.register(NodeCollector(settings.families, lambda: store.snapshot(clocks.monotonic())))
    for registry in (everything, own):
        for collector in (backend.telemetry, *backend.delivery.collectors):
            registry.register(collector)
        ProcessCollector(registry=registry)
    return own, everything


def make_scrape(settings: Settings, backend: Backend, own: CollectorRegistry, *, fallback: Any) -> ScrapeResource:
    """Return what answers /metrics: the nodes' families, and the metrics in the registry `own`.

    `fallback`, a web resource, answers what is rare, such as `?name[]=`.
    """
    return ScrapeResource(
        backend.runtime.slices,
        backend.nodes.store,
        Exposition(settings.families, own, nodes=settings.nodes_exposed),
        backend.telemetry,
        backend.runtime.clocks,
        fallback=fallback,
    )


def make_listeners(
    reactor: Any, settings: Settings, http: Http, limits: Limits, tls: ServerTls | None
) -> tuple[Listeners, Listeners]:
    """Return the listeners of `--listen` and of `--admin-listen`; no port is open yet."""
    return (
        Listeners(reactor, settings.listen, http.site, tls, limits.connections),
        Listeners(reactor, settings.admin_listen, http.admin_site, tls, limits.connections),
    )


def make_server_tls(settings: Settings, telemetry: SelfMetrics) -> ServerTls | None:
    """Return what `tls:` listeners serve with; None without a certificate. Raises FilesError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = ServerFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return ServerTls(time.monotonic, files, telemetry.certificate_not_after)


def _reports(settings: Settings, backend: Backend) -> ReportsResource:
    families, delivery, runtime = settings.families, backend.delivery, backend.runtime
    return ReportsResource(
        runtime.reactor,
        ReportDecoder(families, backend.nodes.render, max_batch=settings.max_batch, pack=delivery.pack),
        backend.nodes.store,
        backend.telemetry,
        runtime.clocks,
        remarks=ReportRemarks(families.names, settings.stale_after, backend.access.redacted),
        max_bytes=settings.max_report_bytes,
        draining=backend.condition.draining,
        slices=runtime.slices,
        flush=delivery.flush,
    )


def _pages(settings: Settings, backend: Backend, activity: ActivityRecorder) -> Pages:
    runtime, condition = backend.runtime, backend.condition
    return Pages(
        runtime.reactor,
        backend.source.directory,
        settings.families,
        backend.client,
        runtime.clocks,
        telemetry=backend.telemetry,
        history=activity,
        departed=backend.nodes.departed,
        in_thread=runtime.in_thread,
        unhealthy=condition.unhealthy,
        unready=condition.unready,
        undelivered=backend.delivery.trouble,
        max_nodes=settings.max_nodes,
        max_length=settings.max_query_length,
    )


def _site(
    settings: Settings,
    backend: Backend,
    resource: Resource,
    *,
    hot: dict[bytes, Resource],
    fast_path: FastPath | None,
) -> OrchestratorSite:
    access, limits = backend.access, backend.limits
    context = ServerContext(
        backend.telemetry,
        backend.runtime.reactor,
        hot=hot,
        fast_path=fast_path,
        gate=access.gate,
        redacted=access.redacted,
        max_body=settings.max_report_bytes,
        arriving=limits.arriving,
        connections=limits.connections,
        readers=limits.readers,
        request_timeout=settings.request_timeout,
        idle_timeout=settings.idle_timeout,
        answer_timeout=settings.answer_timeout,
        access_log=settings.access_log,
        flush=backend.delivery.flush,
    )
    return OrchestratorSite(resource, context)
