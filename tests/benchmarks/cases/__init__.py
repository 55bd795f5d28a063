"""The cases, by the name that `--case` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.cases import delivery, nodes, queries, reports, scrapes, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Servers
    from tests.benchmarks.table import SampleRow

CASES: dict[str, Callable[[Plan, Servers], list[SampleRow]]] = {
    "ingest": reports.ingest,
    "connections": reports.connections,
    "batches": reports.batches,
    "growth": reports.growth,
    "scrape": scrapes.scrape,
    "stall": scrapes.stall,
    "memory": nodes.memory,
    "expiry": nodes.expiry,
    "snapshot": nodes.snapshot,
    "query": queries.distinct,
    "same-query": queries.same,
    "latest": queries.latest,
    "start": nodes.start,
    "tokens": tokens.tokens,
    "delivery": delivery.delivery,
}
