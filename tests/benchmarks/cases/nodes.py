"""What the table of nodes costs: memory, the end of nodes that went silent; and how soon the daemon is there."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.benchmarks import http11, machine, payloads
from tests.benchmarks.load import LoadError, paced
from tests.benchmarks.plan import progress
from tests.benchmarks.table import Figure, SampleRow, below, stated
from tests.benchmarks.turns import long_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Servers

_KB = 1000
#: Nodes go stale soon, and the next sweep is late enough to find all of them so, and nothing else to wait for.
_STALE_AFTER, _EXPIRE_EVERY = 5.0, 12.0
_PROBES_A_SECOND = 500
#: Enough that no probe waits for another's answer: what is looked for is the longest turn, not the sum of many.
_PROBE_CONNECTIONS = 16
_SNAPSHOT_EVERY = 2.0
_STARTS = 5
_START_SECONDS = 20.0


def memory(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the resident memory of a node; each reports twice, so that what the first report took is used again."""
    arrays = payloads.batches(plan.nodes)
    probe = payloads.reports(1)

    def ours() -> float:
        server = servers.daemon()
        http11.send_all(server.port, probe)
        empty = machine.resident_bytes(server.pid)
        for _ in range(2):
            http11.send_all(server.port, arrays)
        used = machine.resident_bytes(server.pid) - empty
        servers.stop(server)
        progress("memory", f"empty daemon {empty / 1e6:.1f} MB")
        return used / plan.nodes / _KB

    def pushgateway() -> float:
        server = servers.pushgateway(check=False)
        empty = machine.resident_bytes(server.pid)
        http11.send_all(server.port, payloads.pushes(count))
        used = machine.resident_bytes(server.pid) - empty
        servers.stop(server)
        return used / count / _KB

    count = plan.nodes // 20
    sides = {"ours": ours, f"Pushgateway, {count:,} nodes": pushgateway}
    figure, peer = (Figure(name, "kB a node", values) for name, values in plan.interleave("memory", sides).items())
    return [
        below(f"RSS at {plan.nodes:,} nodes over the empty daemon, sent in batches of 100", figure, 2.5),
        stated("the same beside Pushgateway", figure, peer),
    ]


def expiry(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the reactor's longest turn while all nodes are removed, and the longest wait for an answer.

    The wait counts what the machine gives to others meanwhile; so it is measured before, too, while nothing happens.
    """
    arrays = payloads.batches(plan.nodes)
    quiet: list[float] = []
    waits: list[float] = []

    def measure() -> float:
        turns = plan.home / "turns"
        server = servers.daemon(
            "--stale-after", str(_STALE_AFTER), "--limits.expire_every", str(_EXPIRE_EVERY), turns=turns
        )
        began = time.monotonic()
        http11.send_all(server.port, arrays)
        loaded = time.monotonic()
        if loaded + _STALE_AFTER > began + _EXPIRE_EVERY - 1:
            raise LoadError(f"loading took {loaded - began:.1f} s: not all nodes would be stale at the sweep")
        time.sleep(_STALE_AFTER)
        # The sweeps began a little before the daemon was ready.
        probed = paced(
            server.port,
            [payloads.get("/-/healthy")],
            per_second=_PROBES_A_SECOND,
            seconds=began + _EXPIRE_EVERY + 3 - time.monotonic(),
            connections=_PROBE_CONNECTIONS,
        )
        expired = http11.metric(server.port, "orchestrator_nodes_expired_total")
        if expired != plan.nodes:
            raise LoadError(f"{expired:.0f} of {plan.nodes} nodes were removed")
        servers.stop(server)
        sweep = began + _EXPIRE_EVERY - 1.5
        quiet.append(max(each.milliseconds for each in probed if each.due < sweep))
        waits.append(max(each.milliseconds for each in probed if each.due >= sweep))
        # Up to the last probe: what comes after it is the stop.
        end = max(each.due for each in probed)
        return max((took * 1000 for ended, took in long_turns(turns) if sweep <= ended <= end), default=0.0)

    (values,) = plan.interleave("expiry", {"longest turn, ms": measure}).values()
    return [
        below(f"the reactor's longest turn while {plan.nodes:,} nodes expire", Figure("ours", "ms", values), 20),
        stated("longest wait for an answer then", Figure("ours", "ms", waits), Figure("before", "ms", quiet)),
    ]


def snapshot(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the reactor's longest turn, and the longest wait for an answer, while the table is written to disk."""
    arrays = payloads.batches(plan.nodes)
    waits: list[float] = []
    turns = plan.home / "turns"

    def measure() -> float:
        server = servers.daemon("--snapshot-every", str(_SNAPSHOT_EVERY), turns=turns)
        http11.send_all(server.port, arrays)
        began = time.monotonic()
        # Reports all the while, or the table would be as it was written before.
        probed = paced(
            server.port,
            payloads.reports(1_000),
            per_second=_PROBES_A_SECOND,
            seconds=2.5 * _SNAPSHOT_EVERY,
            connections=_PROBE_CONNECTIONS,
        )
        written = http11.metric(server.port, "orchestrator_snapshot_bytes")
        if written < plan.nodes:
            raise LoadError(f"the snapshot of {plan.nodes} nodes is of {written:.0f} bytes")
        servers.stop(server)
        waits.append(max(each.milliseconds for each in probed))
        end = max(each.due for each in probed)
        return max((took * 1000 for ended, took in long_turns(turns) if began <= ended <= end), default=0.0)

    (values,) = plan.interleave("snapshot", {"longest turn, ms": measure}).values()
    return [
        below(
            f"the reactor's longest turn while {plan.nodes:,} nodes are written to disk",
            Figure("ours", "ms", values),
            20,
        ),
        stated("longest wait for an answer then, the machine's pauses included", Figure("ours", "ms", waits)),
    ]


def start(_: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the time from the start of twistd to the first report that is taken."""
    seconds: list[float] = []
    for number in range(_STARTS):
        seconds.append(_start_seconds(servers, payloads.reports(1)))
        progress("start", f"start {number + 1} of {_STARTS}: {seconds[-1]:.2f} s")
    figure = Figure("ours", "s", seconds)
    return [SampleRow(f"ready for reports, {_STARTS} starts", figure, must="median < 1 s", met=figure.median < 1.0)]


def _start_seconds(servers: Servers, report: Sequence[bytes]) -> float:
    began = time.perf_counter()
    server = servers.daemon(ready=None)
    while time.perf_counter() - began < _START_SECONDS:
        with suppress(ConnectionRefusedError):
            http11.send_all(server.port, report)
            taken = time.perf_counter() - began
            servers.stop(server)
            return taken
        server.check()
        time.sleep(0.005)
    raise LoadError(f"no report was taken within {_START_SECONDS:g} s: {json.dumps(server.log.read_text()[-500:])}")
