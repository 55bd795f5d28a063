"""This version of the daemon beside an earlier one: whether anything has become slower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmarks import http11, machine, payloads
from tests.benchmarks.load import wrk
from tests.benchmarks.servers import free_port
from tests.benchmarks.table import Figure, SampleRow, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

_NODES = 5_000
#: Connections at once; fewer for large answers, of which the daemon makes only some at a time.
_CONNECTIONS, _FEW = 16, 4
_LARGE = ("scrape", "GET /nodes", "latest values of 5,000")
#: Rounds of each row: many short ones, since the machine's speed drifts.
_ROUNDS = 11
_SECONDS = 1
_STARTS = 5
_MEMORY = "/query?q="
#: Not a plain selector, so Prometheus answers it.
_SENT_ON = "/query?q=1*"
#: A twentieth more or less is within the demand.
_LEAST, _MOST = 0.95, 1.05
_TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class _Side:
    """One of the two versions: a server, and its figures, a value a round."""

    server: Server
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Pair:
    """Both versions, started with the same options."""

    now: _Side
    before: _Side

    @property
    def sides(self) -> tuple[_Side, _Side]:
        """Both, the newer first."""
        return self.now, self.before


class Before:
    """Compares the daemon of this checkout with the `twistd` at a path, both on the servers' core, in turn."""

    def __init__(self, twistd: Path) -> None:
        self._twistd = twistd

    def __call__(self, plan: Plan, servers: Servers) -> list[SampleRow]:
        """Measure the hot paths of both."""
        port = free_port()
        tokens = plan.home / "report.tokens"
        tokens.write_text(f"{_TOKEN}\n")
        common = ("--prometheus", f"http://127.0.0.1:{port}")
        pair = self._pair(servers, *common, "--latest-from-memory", "always")
        locked = self._pair(servers, "--token-file", f"report={tokens}")
        servers.prometheus(pair.now.server.port, port, ready=None)
        fill, authorized = payloads.batches(_NODES), payloads.authorized(payloads.reports(_NODES), _TOKEN)
        cases: list[tuple[str, _Pair, list[bytes]]] = [
            ("reports, keep-alive", pair, payloads.reports(_NODES)),
            ("reports, a connection each", pair, payloads.reports(_NODES, close=True)),
            ("reports, keep-alive, with tokens", locked, authorized),
            ("batches of 100", pair, fill),
            ("scrape of 5,000 nodes", pair, [payloads.get("/metrics", gzip=True)]),
            ("GET /nodes of 5,000 nodes", pair, [payloads.get("/nodes")]),
            ("/query, distinct", pair, payloads.queries(1_000, _SENT_ON)),
            ("/query, the same", pair, payloads.queries(1, _SENT_ON)[:1]),
            ("latest value from memory", pair, payloads.queries(1_000, _MEMORY)),
            ("latest values of 20 nodes from memory", pair, payloads.ranked(_NODES, 20, _MEMORY)),
            ("latest values of 5,000 nodes from memory", pair, payloads.ranked(1, 0, _MEMORY)),
        ]
        rows: list[SampleRow] = []
        for number, (what, sides, requests) in enumerate(cases):
            refreshed = fill if sides is pair else []
            rows += _compared(plan, what, sides, payloads.write(requests, plan.home / f"before-{number}"), refreshed)
        return [*rows, self._memory(plan, servers), self._starts(plan, servers)]

    def _pair(self, servers: Servers, *options: str) -> _Pair:
        return _Pair(_Side(servers.daemon(*options)), _Side(servers.daemon(*options, program=self._twistd)))

    def _memory(self, plan: Plan, servers: Servers) -> SampleRow:
        """Return the row of what 20,000 nodes take; each reports twice, so that memory is used again."""
        arrays = payloads.batches(20_000)

        def resident(program: Path | None) -> Callable[[], float]:
            def measure() -> float:
                server = servers.daemon(program=program)
                empty = machine.resident_bytes(server.pid)
                for _ in range(2):
                    http11.send_all(server.port, arrays)
                used = machine.resident_bytes(server.pid) - empty
                servers.stop(server)
                return used / 1e6

            return measure

        return self._at_most(plan, "memory of 20,000 nodes", "MB", resident)

    def _starts(self, plan: Plan, servers: Servers) -> SampleRow:
        def cpu(program: Path | None) -> Callable[[], float]:
            def measure() -> float:
                server = servers.daemon(program=program)
                used = machine.cpu_seconds(server.pid)
                servers.stop(server)
                return used

            return measure

        return self._at_most(plan, "a start", "s of CPU", cpu)

    def _at_most(
        self, plan: Plan, what: str, unit: str, measure: Callable[[Path | None], Callable[[], float]]
    ) -> SampleRow:
        sides = {"now": measure(None), "before": measure(self._twistd)}
        measured: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(_STARTS):
            for name, values in plan.interleave_once(what, sides).items():
                measured[name].append(values)
        now, before = (Figure(name, unit, values) for name, values in measured.items())
        return at_most(what, now, before, _MOST)


def _compared(plan: Plan, what: str, pair: _Pair, requests: Path, fill: list[bytes]) -> list[SampleRow]:
    """Return the rows of requests a second and of processor time a request; the sides take turns in each round."""
    connections = _FEW if what.startswith(_LARGE) else _CONNECTIONS
    for side in pair.sides:
        side.rates, side.cpu = [], []
        http11.send_all(side.server.port, fill)
        wrk(side.server, requests, connections=connections, seconds=_SECONDS)

    def measure(side: _Side) -> float:
        http11.send_all(side.server.port, fill)
        used = machine.cpu_seconds(side.server.pid)
        load = wrk(side.server, requests, connections=connections, seconds=_SECONDS)
        side.rates.append(load.per_second)
        side.cpu.append((machine.cpu_seconds(side.server.pid) - used) / load.requests * 1e6)
        return load.per_second

    for number in range(_ROUNDS):
        order = pair.sides if number % 2 else pair.sides[::-1]
        plan.interleave_once(what, {side.server.name: (lambda side=side: measure(side)) for side in order})  # type: ignore[misc]
    now, before = pair.sides
    return [
        at_least(what, Figure("now", "a second", now.rates), Figure("before", "a second", before.rates), _LEAST),
        at_most(what, Figure("now", "us of CPU", now.cpu), Figure("before", "us of CPU", before.cpu), _MOST),
    ]
