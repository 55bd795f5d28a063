"""How many queries are passed on, and answered from memory, beside Prometheus itself and a plain proxy."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from tests.benchmarks import http11, machine, payloads
from tests.benchmarks.load import Load, LoadError, wrk
from tests.benchmarks.servers import free_port
from tests.benchmarks.table import Figure, SampleRow, at_least, at_most, below, stated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

_NODES = 1_000
_CONNECTIONS = 16
_SAME_CONNECTIONS = 64
_A_FEW = 4
_PROMETHEUS_SECONDS = 30.0
#: What Python's `requests` and Go's clients get, who accept gzip unless told otherwise.
_GZIP = "Prometheus, gzip accepted"
_OURS, _DIRECT = "/query?q=", "/api/v1/query?query="
_ONE = 'mem_bytes_allocated{node_id="node-000001"}'


@dataclass(frozen=True)
class Field:
    """Our daemon with some nodes, the Prometheus that scrapes it, and the nodes' reports."""

    daemon: Server
    prometheus: Server
    arrays: list[bytes]

    def refresh(self) -> None:
        """Let no node go stale."""
        http11.send_all(self.daemon.port, self.arrays)


def distinct(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Ask for each node's families, in turn, over 16 connections; and over a single one for the way itself."""
    field = field_of(servers)
    plain = servers.plain_proxy(field.prometheus.port)
    ours = payloads.write(payloads.queries(_NODES, _OURS), plan.home / "queries")
    direct = payloads.write(payloads.queries(_NODES, _DIRECT), plan.home / "direct-queries")
    sides = {
        "ours": load_of(plan, field, field.daemon, ours),
        "plain Klein + treq.get": load_of(plan, field, plain, ours),
        "Prometheus": load_of(plan, field, field.prometheus, direct),
        _GZIP: load_of(plan, field, field.prometheus, _gzip_queries(plan)),
        "ours, one connection": load_of(plan, field, field.daemon, ours, 1),
        "Prometheus, one connection": load_of(plan, field, field.prometheus, direct, 1),
    }
    measured = plan.interleave("query", sides)
    rates = {name: _rate(name, loads) for name, loads in measured.items()}
    p50s = {name: Figure(name, "ms", [load.p50_ms for load in loads]) for name, loads in measured.items()}
    ours_one, direct_one = p50s["ours, one connection"], p50s["Prometheus, one connection"]
    overhead = [mine - theirs for mine, theirs in zip(ours_one.values, direct_one.values, strict=True)]
    return [
        at_least("/query, distinct, 16 connections", rates["ours"], rates["plain Klein + treq.get"], 1.5),
        stated("/query, distinct, 16 connections", rates["ours"], rates["Prometheus"]),
        stated("/query, distinct, 16 connections", rates["ours"], rates[_GZIP]),
        stated("/query, p50, 1 connection", ours_one, direct_one),
        stated("/query, p50 over that of Prometheus, 1 connection", Figure("ours", "ms", overhead)),
    ]


def same(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Send one query from 64 clients at once."""
    field = field_of(servers)
    ours = payloads.write([payloads.get(_OURS + quote(_ONE))], plan.home / "query")
    direct = payloads.write([payloads.get(_DIRECT + quote(_ONE))], plan.home / "direct-query")
    in_flight: list[float] = []
    upstream: list[float] = []
    through = load_of(plan, field, field.daemon, ours, _SAME_CONNECTIONS)

    def counted() -> Load:
        name = "orchestrator_upstream_requests_total"
        before = http11.metric(field.daemon.port, name)
        with _Connections(field.prometheus.port) as connections:
            load = through()
        in_flight.append(connections.most)
        upstream.append((http11.metric(field.daemon.port, name) - before) / load.requests)
        return load

    sides = {"ours": counted, "Prometheus": load_of(plan, field, field.prometheus, direct, _SAME_CONNECTIONS)}
    rates = {name: _rate(name, loads) for name, loads in plan.interleave("same-query", sides).items()}
    return [
        at_least("/query, the same from 64 clients", rates["ours"], rates["Prometheus"], 1),
        below("upstream requests in flight for it, at most", Figure("ours", "connections", in_flight), _A_FEW + 1),
        stated("upstream requests for an answer", Figure("ours", "requests", upstream)),
    ]


def latest(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Ask for the latest values of single nodes, answered from memory, over 16 connections."""
    field = field_of(servers, "--latest-from-memory", "always")
    status, headers, body = http11.get(field.daemon.port, _OURS + quote(_ONE))
    if status != 200 or headers.get("x-orchestrator-source") != "memory":
        raise LoadError(f"not answered from memory: {status} {headers} {body[:300]!r}")
    if _value(body) != _value(http11.get(field.prometheus.port, _DIRECT + quote(_ONE))[2]):
        raise LoadError("memory and Prometheus tell different values")
    ours = payloads.write(payloads.queries(_NODES, _OURS), plan.home / "queries")
    direct = payloads.write(payloads.queries(_NODES, _DIRECT), plan.home / "direct-queries")
    sides = {
        "ours": load_of(plan, field, field.daemon, ours),
        "Prometheus": load_of(plan, field, field.prometheus, direct),
        _GZIP: load_of(plan, field, field.prometheus, _gzip_queries(plan)),
    }
    measured = plan.interleave("latest", sides)
    rates = [_rate(name, loads) for name, loads in measured.items()]
    p99s = [Figure(name, "ms", [load.p99_ms for load in loads]) for name, loads in measured.items()]
    return [
        at_least("latest value from memory, 16 connections", rates[0], rates[1], 1),
        stated("latest value from memory, 16 connections", rates[0], rates[2]),
        at_most("latest value from memory, p99", p99s[0], p99s[1], 1),
    ]


def field_of(servers: Servers, *options: str) -> Field:
    """Start both, and wait until Prometheus knows the nodes."""
    prometheus_port = free_port()
    daemon = servers.daemon("--prometheus", f"http://127.0.0.1:{prometheus_port}", *options)
    field = Field(daemon, servers.prometheus(daemon.port, prometheus_port), payloads.batches(_NODES))
    field.refresh()
    deadline = time.monotonic() + _PROMETHEUS_SECONDS
    while not _value(http11.get(prometheus_port, _DIRECT + quote(f"count({_ONE.partition('{')[0]})"))[2]):
        if time.monotonic() > deadline:
            raise LoadError(f"Prometheus knew no node after {_PROMETHEUS_SECONDS:g} s")
        time.sleep(0.2)
    return field


def load_of(
    plan: Plan, field: Field, server: Server, requests: Path, connections: int = _CONNECTIONS
) -> Callable[[], Load]:
    """Return what sends the requests of a file to a server as fast as it answers."""
    wrk(server, requests, connections=connections, seconds=1)

    cores = machine.SERVER if server is field.prometheus else machine.ALL

    def measure() -> Load:
        field.refresh()
        machine.pin(field.prometheus.pid, cores)
        return wrk(server, requests, connections=connections, seconds=plan.seconds)

    return measure


def _gzip_queries(plan: Plan) -> Path:
    return payloads.write(payloads.queries(_NODES, _DIRECT, gzip=True), plan.home / "gzip-queries")


def _rate(name: str, loads: list[Load]) -> Figure:
    return Figure(name, "queries/s", [load.per_second for load in loads])


def _value(body: bytes) -> str | None:
    results = json.loads(body)["data"]["result"]
    return results[0]["value"][1] if results else None


class _Connections:
    """Watches how many connections are open to a port: HTTP/1.1 carries one request on each at a time."""

    def __init__(self, port: int) -> None:
        self.most = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, machine.connections_to(self._port))
