"""From Settings to what answers queries: Prometheus, asked once for equal queries, and the table of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.promql.coalescing import CACHE_BYTES, CoalescingClient
from orchestratord.promql.memory import MemoryClient
from orchestratord.promql.upstream_health import PROBE_UP_EVERY
from orchestratord.promql.upstreams import Upstreams, plain_agent
from orchestratord.web.api.queries import FEW, MANY, Queries
from orchestratord.wiring.outbound import authorization, trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.web.client import HTTPConnectionPool

    from orchestratord.config.settings import Settings
    from orchestratord.nodes.store import NodeStore
    from orchestratord.promql.client import QueryClient
    from orchestratord.runtime.memory_budget import MemoryBudget
    from orchestratord.telemetry.self_metrics import SelfMetrics
    from orchestratord.wiring.limits import Limits
    from orchestratord.wiring.runtime import Runtime


def make_upstreams(
    reactor: Any,
    settings: Settings,
    bases: Sequence[str],
    pool: HTTPConnectionPool,
    *,
    telemetry: SelfMetrics,
    limits: Limits,
) -> Upstreams:
    """Return the Prometheus servers at these URLs. Raises FilesError if certificates or credentials are not good."""
    return Upstreams(
        reactor,
        plain_agent(reactor, pool, trust(settings, "prometheus", bases)),
        bases,
        telemetry,
        headers=settings.prometheus_header,
        authorization=authorization(settings, "prometheus", bases),
        query_timeout=settings.query_timeout,
        limit=limits.queries,
        max_answer_bytes=settings.max_answer_bytes,
        budget=limits.answers,
        # An embedded Prometheus starts when the daemon does.
        first_probe_after=PROBE_UP_EVERY if settings.embedded else 0.0,
    )


def make_client(
    runtime: Runtime, settings: Settings, upstreams: Upstreams, nodes: NodeStore, answers: MemoryBudget
) -> QueryClient:
    """Return what answers every query: the upstreams, once for equal queries, and memory where the settings say so."""
    shared = CoalescingClient(
        runtime.reactor,
        upstreams,
        query_timeout=settings.query_timeout,
        cache_seconds=settings.query_cache,
        cache_bytes=min(CACHE_BYTES, settings.max_answers_bytes // 2),
    )
    if settings.latest_from_memory == "never":
        return shared
    return MemoryClient(
        runtime.slices,
        shared,
        nodes,
        settings.families,
        clocks=runtime.clocks,
        mode=settings.latest_from_memory,
        budget=answers,
        reachable=upstreams.health.answering,
    )


def make_queries(settings: Settings, client: QueryClient) -> Queries:
    """Return what the query routes answer with."""
    at_hand = settings.latest_from_memory == "always" or settings.query_cache > 0
    return Queries(
        client,
        max_length=settings.max_query_length,
        remembered=MANY if at_hand else FEW,
        written_to=settings.remote_write is not None,
    )
