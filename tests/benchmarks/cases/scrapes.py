"""How long a scrape takes, and what it does to the reports that come meanwhile."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from statistics import median, quantiles
from typing import TYPE_CHECKING

from tests.benchmarks import http11, machine, payloads
from tests.benchmarks.load import LoadError, paced
from tests.benchmarks.plan import progress
from tests.benchmarks.servers import HERE
from tests.benchmarks.table import Figure, SampleRow, at_most, below, faster, stated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

_PUSHGATEWAY_NODES = 5_000
_SCRAPES = 5
#: Scrapes of one kind in one round stop at that.
_SECONDS = 3.0
#: How far the time of a node at 100,000 may be from that at 20,000 for the growth to count as linear.
_LINEAR = 1.25
_REPORTS_A_SECOND = 200
_SCRAPE_EVERY = 5.0


def scrape(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Time scrapes, gzip and text 0.0.4, of tables of several sizes."""
    sizes = (plan.nodes // 100, plan.nodes // 20, plan.nodes // 5, plan.nodes)
    sides = {f"ours, {size:,} nodes": _refreshed(servers.daemon(), payloads.batches(size)) for size in sizes}
    pushgateway = servers.pushgateway(check=False)
    http11.send_all(pushgateway.port, payloads.pushes(_PUSHGATEWAY_NODES))
    sides[f"Pushgateway, {_PUSHGATEWAY_NODES:,} nodes"] = lambda: _scrape_ms(pushgateway)
    sides[f"generate_latest + gzip, {plan.nodes:,} nodes"] = lambda: _reference_ms(plan.nodes)
    figures = {name: Figure(name, "ms", values) for name, values in plan.interleave("scrape", sides).items()}
    smallest, small, middle, large, gateway, reference = figures.values()
    return [
        stated(f"scrape, {sizes[0]:,} nodes", smallest),
        faster(f"scrape, {sizes[1]:,} nodes", small, gateway, 10),
        stated(f"scrape, {sizes[2]:,} nodes", middle),
        faster(f"scrape, {sizes[3]:,} nodes", large, reference, 15),
        at_most("scrape, linear", _a_node(large, sizes[3]), _a_node(middle, sizes[2]), _LINEAR),
    ]


def stall(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Send reports at an even pace while a large table is scraped every 5 s."""
    server = servers.daemon()
    arrays = payloads.batches(plan.nodes)
    chance = random.Random(0)
    some = [payloads.report_of(chance.randrange(plan.nodes)) for _ in range(5_000)]
    seconds = max(_SCRAPE_EVERY + 1, plan.seconds * 5)
    longest: dict[str, list[float]] = {"quiet": [], "scraped": []}

    def measure(name: str) -> float:
        http11.send_all(server.port, arrays)
        latencies = [
            timed.milliseconds for timed in paced(server.port, some, per_second=_REPORTS_A_SECOND, seconds=seconds)
        ]
        longest[name].append(max(latencies))
        return quantiles(latencies, n=100)[98]

    def scraped() -> float:
        command = [sys.executable, "-m", "tests.benchmarks.scraper", str(server.port), str(_SCRAPE_EVERY)]
        http11.send_all(server.port, arrays)
        scraper = servers.start("scraper", command, server.port, None, machine.CLIENT)
        try:
            return measure("scraped")
        finally:
            servers.stop(scraper)
            scrapes = scraper.log.read_text().split()
            if not scrapes:
                raise LoadError("no scrape ended within the measurement")
            progress("stall", f"the scrapes took {', '.join(f'{float(each):.0f}' for each in scrapes)} ms")

    sides = {"p99 without scrapes": lambda: measure("quiet"), "p99 with scrapes": scraped}
    quiet, busy = (Figure(name, "ms", values) for name, values in plan.interleave("stall", sides).items())
    return [
        at_most(f"p99 of a report, {plan.nodes:,} nodes scraped every 5 s", busy, quiet, 5),
        below(f"p99 of a report, {plan.nodes:,} nodes scraped every 5 s", busy, 100),
        stated("the longest of them", *(Figure(f"{name}", "ms", longest[name]) for name in ("scraped", "quiet"))),
    ]


def _refreshed(server: Server, arrays: Sequence[bytes]) -> Callable[[], float]:
    def measure() -> float:
        http11.send_all(server.port, arrays)
        return _scrape_ms(server)

    return measure


def _a_node(figure: Figure, nodes: int) -> Figure:
    return Figure(figure.name, "us a node", [value * 1000 / nodes for value in figure.values])


def _scrape_ms(server: Server) -> float:
    taken: list[float] = []
    began = time.monotonic()
    while len(taken) < _SCRAPES and (not taken or time.monotonic() - began < _SECONDS):
        taken.append(http11.scrape(server.port) * 1000)
    return median(taken)


def _reference_ms(nodes: int) -> float:
    core = ["taskset", "-c", ",".join(map(str, sorted(machine.SERVER)))]
    command = [*core, sys.executable, "-m", "tests.benchmarks.reference_exposition", str(nodes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=HERE.parent.parent)
    return float(done.stdout) * 1000
