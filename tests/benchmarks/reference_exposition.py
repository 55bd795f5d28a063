"""Prints the seconds that prometheus_client takes for a scrape: `generate_latest`, and gzip as `make_wsgi_app` does it.

Started as `reference_exposition.py NODES`. The families are made before the clock starts.
"""

from __future__ import annotations

import gzip
import sys
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tests.benchmarks.payloads import FAMILIES, node_id, values

if TYPE_CHECKING:
    from collections.abc import Iterator


class ReadyMade(Collector):
    """Families that are made once."""

    def __init__(self, nodes: int) -> None:
        self._families = [GaugeMetricFamily(name, f"Help of {name}.", labels=["node_id"]) for name in FAMILIES]
        for number in range(nodes):
            for family, value in zip(self._families, values(number), strict=True):
                family.add_metric([node_id(number)], value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return them."""
        return iter(self._families)


def main() -> None:
    """Measure one scrape."""
    registry = CollectorRegistry()
    registry.register(ReadyMade(int(sys.argv[1])))
    started = time.perf_counter()
    gzip.compress(generate_latest(registry))
    print(time.perf_counter() - started)  # noqa: T201 - a program's output


if __name__ == "__main__":
    main()
