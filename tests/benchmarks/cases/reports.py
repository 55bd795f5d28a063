"""How many reports are taken, and what one costs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.benchmarks import machine, payloads
from tests.benchmarks.http11 import send_all
from tests.benchmarks.load import LoadError, wrk
from tests.benchmarks.table import Figure, SampleRow, above, at_least, at_most, stated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

_NODES = 5_000
_CONNECTIONS = 32
_WARM_UP = 1
_BATCH = 100
#: Seconds of a look at the cost of a report.
_SHORT = 1
#: Seconds after which nodes report again, so that they stay fresh.
_FRESH = 30.0
#: Connections that are opened for other reasons, or never served: how far their count may be from that of the requests.
_STRAY = 0.05


def ingest(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Send reports over 32 kept connections, of 5,000 nodes."""
    reports = payloads.write(payloads.reports(_NODES), plan.home / "reports")
    pushes = payloads.write(payloads.pushes(_NODES), plan.home / "pushes")
    sides = {
        "ours": rate(plan, servers.daemon(), reports),
        "floor": rate(plan, servers.floor(), reports),
        "Flask": rate(plan, servers.flask(), reports),
        "Flask, gunicorn -w 2": rate(plan, servers.gunicorn(), reports),
        "Pushgateway, all nodes stored": rate(plan, _filled_pushgateway(plan, servers), pushes),
        "Pushgateway, no check": rate(plan, servers.pushgateway(check=False), pushes),
    }
    figures = _figures(plan.interleave("ingest", sides), "reports/s")
    ours = figures.pop("ours")
    musts = {
        "floor": 0.7,
        "Flask": 8,
        "Flask, gunicorn -w 2": 8,
        "Pushgateway, all nodes stored": 100,
        "Pushgateway, no check": 0.8,
    }
    return [at_least("reports, keep-alive", ours, peer, musts[name]) for name, peer in figures.items()]


def connections(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Send reports over a connection each, as `requests.post` sends them."""
    reports = payloads.write(payloads.reports(_NODES, close=True), plan.home / "closing-reports")
    sides = {
        "ours": counted_rate(plan, servers.daemon(), reports),
        "floor": counted_rate(plan, servers.floor(), reports),
        "Flask": counted_rate(plan, servers.flask(), reports),
        "Flask, gunicorn -w 2": counted_rate(plan, servers.gunicorn(), reports),
    }
    figures = _figures(plan.interleave("connections", sides), "reports/s")
    ours = figures.pop("ours")
    musts = {"floor": 0.7, "Flask": 5, "Flask, gunicorn -w 2": 5}
    return [at_least("reports, a connection each", ours, peer, musts[name]) for name, peer in figures.items()]


def batches(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Send arrays of 100 reports, against one node a request at VictoriaMetrics."""
    arrays = payloads.write(payloads.batches(_NODES, _BATCH), plan.home / "batches")
    imports = payloads.write(payloads.imports(_NODES), plan.home / "imports")
    ours, victoria = servers.daemon(), servers.victoria_metrics()
    in_arrays = rate(plan, ours, arrays)
    sides = {
        "ours": lambda: _BATCH * in_arrays(),
        "VictoriaMetrics, one node a request": rate(plan, victoria, imports),
    }
    figures = _figures(plan.interleave("batches", sides), "nodes/s")
    ours_figure = figures.pop("ours")
    (peer,) = figures.values()
    return [above("batches of 100", ours_figure, 60_000), at_least("batches of 100", ours_figure, peer, 2)]


def growth(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the processor time of a report while the table holds few nodes or many.

    Beside it the floor, which has no table, with the same requests: what it grows by is the clients' part, whose
    requests of 100,000 nodes are in no cache of the processor either.
    """
    sizes = (plan.nodes // 100, plan.nodes // 10, plan.nodes)
    floor = servers.floor()
    sides = {f"{size:,} nodes": _cost(plan, servers.daemon(), size) for size in sizes}
    sides |= {f"floor, {size:,} nodes": _cost(plan, floor, size, table=False) for size in (sizes[0], sizes[2])}
    # The middle of many short looks is steadier than that of a few long ones.
    short = replace(plan, rounds=plan.rounds * 3)
    small, middle, large, floor_small, floor_large = _figures(short.interleave("growth", sides), "us of CPU").values()
    return [
        stated(f"a report with {sizes[1]:,} nodes in the table", middle, small),
        at_most(f"a report with {sizes[2]:,} nodes in the table", large, small, 1.15),
        stated(f"the floor with the requests of {sizes[2]:,} nodes", floor_large, floor_small),
    ]


def _figures(measured: dict[str, list[float]], unit: str) -> dict[str, Figure]:
    return {name: Figure(name, unit, values) for name, values in measured.items()}


def rate(plan: Plan, server: Server, requests: Path) -> Callable[[], float]:
    """Return what measures requests per second, after a warm-up that makes the server know the nodes."""
    wrk(server, requests, connections=_CONNECTIONS, seconds=_WARM_UP)
    return lambda: wrk(server, requests, connections=_CONNECTIONS, seconds=plan.seconds).per_second


def _filled_pushgateway(plan: Plan, servers: Servers) -> Server:
    """Start a Pushgateway that knows all nodes, as the others do after their warm-up.

    Its check would make that last minutes, so another one without it writes the file that this one starts from.
    """
    store = plan.home / "pushgateway-store"
    filler = servers.pushgateway(check=False, store=store)
    send_all(filler.port, payloads.pushes(_NODES))
    servers.stop(filler)
    return servers.pushgateway(store=store)


def counted_rate(plan: Plan, server: Server, requests: Path) -> Callable[[], float]:
    """Do the same, and check by the kernel's count that each request did come over a connection of its own."""
    wrk(server, requests, connections=_CONNECTIONS, seconds=_WARM_UP)

    def measure() -> float:
        before = machine.connections_taken()
        load = wrk(server, requests, connections=_CONNECTIONS, seconds=plan.seconds)
        taken = machine.connections_taken() - before
        if taken < (1 - _STRAY) * load.requests:
            raise LoadError(f"{server.name} answered {load.requests} requests over {taken} connections")
        return load.per_second

    return measure


def _cost(plan: Plan, server: Server, size: int, *, table: bool = True) -> Callable[[], float]:
    """Return what measures the processor time of a report, in microseconds, at a table of `size` fresh nodes.

    Each look goes on in the requests where the last one ended, so that all nodes come in turn.
    """
    arrays = payloads.batches(size, _BATCH) if table else []
    requests = payloads.write(payloads.reports(size, shuffled=True), plan.home / f"reports-{size}")
    sent, refreshed = 0, float("-inf")

    def measure() -> float:
        nonlocal sent, refreshed
        if time.monotonic() - refreshed > _FRESH:
            send_all(server.port, arrays)
            refreshed = time.monotonic()
        before = machine.cpu_seconds(server.pid)
        load = wrk(server, requests, connections=_CONNECTIONS, seconds=_SHORT, first=sent % size)
        sent += load.requests
        return (machine.cpu_seconds(server.pid) - before) / load.requests * 1e6

    return measure
