"""Delivery to a store: how soon a report can be asked for, how many samples one core delivers, and what that costs."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from statistics import quantiles
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.benchmarks import http11, machine, payloads
from tests.benchmarks.load import LoadError, paced, wrk
from tests.benchmarks.plan import progress
from tests.benchmarks.servers import free_port
from tests.benchmarks.table import Figure, SampleRow, at_most, stated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

#: Nodes that are looked for, reports of them in a second, and seconds between two looks at what the store answers.
_PROBED, _PROBES_A_SECOND, _LOOK_EVERY = 200, 50, 0.02
#: Seconds after which nothing comes any more.
_PATIENCE = 30.0
_NODES = 5_000
#: How often each of them reports, for the rate.
_TIMES = 6
_FAMILY = next(iter(payloads.FAMILIES))
#: The families, and the time of the last report.
_SAMPLES_A_REPORT = len(payloads.FAMILIES) + 1
_CONNECTIONS = 32
#: Reports in a second, as 20,000 nodes send them; the other cost is that of as many as are taken.
_CALM = 2_000
_PROMETHEUS, _VICTORIA = "Prometheus", "VictoriaMetrics"
_SCRAPING, _DIRECT = "Prometheus, scraping every 5 s", "VictoriaMetrics itself"
#: Seconds within which a report is to be in an answer.
_SOON = 1.0


@dataclass(frozen=True)
class _Side:
    """What reports are sent to, and asked for them: a daemon, which delivers or is scraped; a store itself."""

    name: str
    server: Server
    direct: bool = False

    def report(self, number: int, value: float) -> bytes:
        """Return the report of a node that has this value in one family."""
        if self.direct:
            sample = f'{_FAMILY}{{node_id="{self.node_id(number)}"}} {value}\n'
            return payloads.post("/api/v1/import/prometheus", sample.encode(), kind="text/plain")
        report = payloads.report(number) | {_FAMILY: value}
        return payloads.post("/update_metrics", json.dumps(report).encode())

    def ask(self, more: str = "") -> dict[str, float]:
        """Return the value of each node that is in an answer."""
        path = "/api/v1/query?nocache=1&query=" if self.direct else "/query?q="
        query = f'{_FAMILY}{{node_id=~"{self.node_id(0)[:-6]}.*"{more}}}'
        status, _, body = http11.get(self.server.port, path + quote(query))
        if status != 200:
            raise LoadError(f"{self.name} answered {status}: {body[:300]!r}")
        series = json.loads(body)["data"]["result"]
        return {each["metric"]["node_id"]: float(each["value"][1]) for each in series}

    def node_id(self, number: int) -> str:
        """Return the name of a node: those of a store itself must not be those that are delivered there."""
        return f"direct-{number:06}" if self.direct else payloads.node_id(number)


def delivery(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure all three, with the same daemons."""
    victoria = servers.victoria_metrics()
    stores = {_PROMETHEUS: servers.receiver(), _VICTORIA: victoria}
    delivering = [_Side(name, _delivering(servers, store)) for name, store in stores.items()]
    port = free_port()
    scraped = _Side(_SCRAPING, servers.daemon("--prometheus", f"http://127.0.0.1:{port}"))
    scraping = servers.prometheus(scraped.server.port, port)
    rows = _freshness(plan, [*delivering, scraped, _Side(_DIRECT, victoria, direct=True)])
    servers.stop(scraping)
    rows += _rates(plan, delivering)
    return rows + _costs(plan, scraped.server, delivering[0].server)


def _delivering(servers: Servers, store: Server) -> Server:
    url = f"http://127.0.0.1:{store.port}"
    return servers.daemon("--prometheus", url, "--remote-write", f"{url}/api/v1/write")


def _freshness(plan: Plan, sides: list[_Side]) -> list[SampleRow]:
    """Look at all sides at the same time: they wait most of it."""
    p50s: dict[str, list[float]] = {side.name: [] for side in sides}
    p99s: dict[str, list[float]] = {side.name: [] for side in sides}
    with ThreadPoolExecutor(len(sides)) as pool:
        looks = list(pool.map(_Looks, sides))
        for number in range(plan.rounds):
            for side, seconds in zip(sides, pool.map(_Looks.seconds, looks), strict=True):
                percentiles = quantiles(seconds, n=100)
                p50s[side.name].append(percentiles[49])
                p99s[side.name].append(percentiles[98])
                shown = f"p50 {percentiles[49]:.2f} s, p99 {percentiles[98]:.2f} s"
                progress("delivery", f"round {number + 1} of {plan.rounds}, {side.name}: {shown}")
    rows: list[SampleRow] = []
    for what, measured in (("p50", p50s), ("p99", p99s)):
        figures = {name: Figure(name, "s", values) for name, values in measured.items()}
        for name, peer in ((_PROMETHEUS, _SCRAPING), (_VICTORIA, _SCRAPING), (_VICTORIA, _DIRECT)):
            row = stated(f"from a report to an answer with it, {what}, {name}", figures[name], figures[peer])
            if what == "p99" and peer == _SCRAPING:
                row = replace(row, must=f"< {_SOON:g} s", met=max(row.ours.values) < _SOON)
            rows.append(row)
    return rows


class _Looks:
    """Reports, and looks every 20 ms until all of them are in the answer to a query."""

    def __init__(self, side: _Side) -> None:
        self._side = side
        self._values = count(1)
        self._reporting = http11.Connection(side.server.port)
        for number in range(_PROBED):
            self._report(number)
        deadline = time.monotonic() + _PATIENCE
        # Another query each time: VictoriaMetrics remembers for some seconds which series one had.
        while len(side.ask(f',node_id!="{next(self._values)}"')) < _PROBED:
            self._check(deadline)
            time.sleep(0.2)

    def seconds(self) -> list[float]:
        """Report for each node, and return how long each report took from its POST to an answer that has it."""
        waiting: dict[str, tuple[float, float]] = {}
        found: list[float] = []
        began = time.monotonic()
        sent = 0
        while len(found) < _PROBED:
            self._check(began + _PATIENCE)
            while sent < _PROBED and time.monotonic() >= began + sent / _PROBES_A_SECOND:
                posted = time.monotonic()
                waiting[self._side.node_id(sent)] = (self._report(sent), posted)
                sent += 1
            looked = time.monotonic()
            answered = self._side.ask()
            now = time.monotonic()
            arrived = [node for node, (value, _) in waiting.items() if answered.get(node) == value]
            found += [now - waiting.pop(node)[1] for node in arrived]
            time.sleep(max(0.0, looked + _LOOK_EVERY - time.monotonic()))
        return found

    def _report(self, number: int) -> float:
        """Send a report with a value that no other has, and return it."""
        value = next(self._values)
        self._reporting.exchange(self._side.report(number, value))
        return value

    def _check(self, deadline: float) -> None:
        self._side.server.check()
        if time.monotonic() > deadline:
            raise LoadError(f"not all reports are in the answers after {_PATIENCE:g} s: {self._side.name}")


def _rates(plan: Plan, sides: list[_Side]) -> list[SampleRow]:
    """Measure how fast samples are accepted, from the first report of many until the last one is delivered."""
    arrays = payloads.batches(_NODES) * _TIMES
    wanted = _NODES * _TIMES * _SAMPLES_A_REPORT
    busy: dict[str, list[float]] = {side.name: [] for side in sides}

    def rate(side: _Side) -> Callable[[], float]:
        def measure() -> float:
            name = "orchestrator_remote_write_samples_total"
            before, used = http11.metric(side.server.port, name), machine.cpu_seconds(side.server.pid)
            began = time.monotonic()
            http11.send_all(side.server.port, arrays)
            _delivered(side.server)
            took = time.monotonic() - began
            busy[side.name].append(wanted / (machine.cpu_seconds(side.server.pid) - used))
            accepted = http11.metric(side.server.port, name) - before
            if accepted != wanted:
                raise LoadError(f"{side.name} has accepted {accepted:.0f} samples of {wanted}")
            return accepted / took

        return measure

    measured = plan.interleave("delivery", {side.name: rate(side) for side in sides})
    return [
        stated(
            f"delivered by one core, reports in batches of 100, {store}",
            Figure("ours", "samples/s", values),
            Figure("by the processor time of it", "samples/s", busy[store]),
        )
        for store, values in measured.items()
    ]


def _costs(plan: Plan, without: Server, delivering: Server) -> list[SampleRow]:
    """Measure the processor time of a report with delivery and without, until the last one is delivered."""
    requests = payloads.reports(_NODES)
    path = payloads.write(requests, plan.home / "reports")

    def full(server: Server) -> int:
        return wrk(server, path, connections=_CONNECTIONS, seconds=1).requests

    def calm(server: Server) -> int:
        return len(paced(server.port, requests, per_second=_CALM, seconds=1))

    def cost(server: Server, load: Callable[[Server], int]) -> Callable[[], float]:
        def measure() -> float:
            used = machine.cpu_seconds(server.pid)
            sent = load(server)
            _delivered(server)
            return (machine.cpu_seconds(server.pid) - used) / sent * 1e6

        return measure

    servers = {"without": without, "ours": delivering}
    rows: list[SampleRow] = []
    for what, load in (("as many as it takes", full), (f"{_CALM:,} a second", calm)):
        sides = {f"{name}, {what}": cost(server, load) for name, server in servers.items()}
        # The middle of many short looks is steadier than that of a few long ones.
        looks = replace(plan, rounds=plan.rounds + 2) if load is full else plan
        measured = looks.interleave("delivery", sides)
        peer, ours = (Figure(name, "us of CPU", values) for name, values in measured.items())
        text = f"a report with delivery, {what}"
        rows.append(at_most(text, ours, peer, 1.6) if load is full else stated(text, ours, peer))
    return rows


def _delivered(server: Server) -> None:
    """Return when a daemon has delivered all that it has been sent; at once if it does not deliver."""
    deadline = time.monotonic() + _PATIENCE
    while http11.metric(server.port, "orchestrator_spool_oldest_seconds"):
        server.check()
        if time.monotonic() > deadline:
            raise LoadError(f"not all reports are delivered after {_PATIENCE:g} s")
        time.sleep(0.05)
