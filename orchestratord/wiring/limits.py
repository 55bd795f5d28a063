"""From Settings to the limits that several parts share, and the metrics that show how full they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from orchestratord.runtime.concurrency_limit import ConcurrencyLimit
from orchestratord.runtime.file_descriptors import connections_that_fit
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.memory_limit import memory_limit, tls_connections_that_fit
from orchestratord.web.server.connection_limit import ConnectionLimit
from orchestratord.web.server.slow_readers import SlowReaders

if TYPE_CHECKING:
    from orchestratord.config.settings import Settings
    from orchestratord.telemetry.self_metrics import SelfMetrics


class Limits(NamedTuple):
    """The limits that several parts share. They belong to the reactor thread; any thread may read their numbers.

    `queries` bounds the queries that Prometheus works on. `answers` and `arriving` are budgets in bytes: for answers
    that are being sent, and for requests that are still arriving. `connections` counts the connections of all
    listeners; `readers` are the clients among them that read slowly.
    """

    queries: ConcurrencyLimit
    answers: MemoryBudget
    arriving: MemoryBudget
    connections: ConnectionLimit
    readers: SlowReaders


def make_limits(reactor: Any, settings: Settings) -> Limits:
    """Return the limits. An answer that finds no memory cuts slow readers first."""
    readers = SlowReaders(reactor)
    return Limits(
        queries=ConcurrencyLimit(settings.max_queries, settings.query_queue),
        answers=MemoryBudget(settings.max_answers_bytes, readers.free_memory),
        arriving=MemoryBudget(settings.max_arriving_bytes),
        connections=ConnectionLimit(settings.max_connections),
        readers=readers,
    )


def fit_connections(settings: Settings, limits: Limits, upstreams: int) -> None:
    """Lower the limit of connections to what the process may open, and that of TLS to what fits into the memory.

    `upstreams` is the number of Prometheus servers that queries are sent to. Logs a line for each limit that is
    lowered.
    """
    connections = limits.connections
    connections.limit = fit = connections_that_fit(settings.max_connections, settings.max_queries * upstreams)
    serves_tls = settings.tls_certificate is not None
    connections.tls_limit = tls_connections_that_fit(fit, memory_limit(), serves_tls=serves_tls)


def watch_limits(telemetry: SelfMetrics, settings: Settings, limits: Limits) -> None:
    """Export how full each limit is."""
    queries, answers, arriving, connections, readers = limits
    watch = telemetry.watch
    watch("orchestrator_nodes_limit", "Nodes that the table holds at most.", lambda: settings.max_nodes)
    watch(
        "orchestrator_stale_after_seconds",
        "Seconds without a report after which a node is gone.",
        lambda: settings.stale_after,
    )
    watch("orchestrator_connections", "Connections of clients.", lambda: connections.open)
    watch("orchestrator_connections_tls", "Connections of clients in TLS.", lambda: connections.tls_open)
    watch(
        "orchestrator_connections_tls_limit",
        "Connections in TLS that there may be: --max-connections, or what fits into a quarter of the memory limit.",
        lambda: connections.tls_limit,
    )
    watch(
        "orchestrator_connections_refused",
        "Connections refused because there were --max-connections, or as many in TLS as there may be.",
        lambda: connections.refused,
        counter=True,
    )
    watch(
        "orchestrator_slow_readers",
        "Connections whose clients read more slowly than they are answered.",
        lambda: len(readers),
    )
    watch(
        "orchestrator_slow_readers_cut",
        "Connections cut because their clients read too slowly, at their deadline or to make room for others.",
        lambda: readers.cut,
        counter=True,
    )
    watch("orchestrator_queries_in_flight", "Queries that Prometheus is at.", lambda: queries.taken)
    watch("orchestrator_queries_waiting", "Queries that wait for their turn.", lambda: queries.waiting)
    watch("orchestrator_answers_held_bytes", "Answers being passed on, in bytes.", lambda: answers.held)
    watch("orchestrator_arriving_held_bytes", "Requests arriving, in bytes.", lambda: arriving.held)
