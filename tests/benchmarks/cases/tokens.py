"""What tokens cost: ours with tokens for every role, beside ours without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.benchmarks import http11, payloads
from tests.benchmarks.cases import queries, reports
from tests.benchmarks.servers import free_port
from tests.benchmarks.table import Figure, SampleRow, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.plan import Plan
    from tests.benchmarks.servers import Server, Servers

_ROLES = ("report", "query", "scrape", "admin")
_TOKEN = "0123456789abcdef0123456789abcdef"
_OLDER = "an-older-one-that-is-still-taken"
_NODES = 5_000
#: Nodes that are asked for, and times as many queries.
_ASKED = 1_000
#: No worse by more than a tenth.
_LEAST = 0.9
_FROM_MEMORY = "/query?q="
#: The same times one: no plain selector, and so Prometheus' business.
_PASSED_ON = "/query?q=1*"


@dataclass(frozen=True)
class _Side:
    """A daemon, and what makes requests as it has to be sent them."""

    server: Server
    sent: Callable[[list[bytes]], list[bytes]]


def tokens(plan: Plan, servers: Servers) -> list[SampleRow]:
    """Measure the hot paths with and without, in turn."""
    plan = replace(plan, rounds=plan.rounds + 2)  # what is looked for is smaller than what two seconds differ by
    port = free_port()
    common = ("--prometheus", f"http://127.0.0.1:{port}", "--latest-from-memory", "always")
    files = [plan.home / f"{role}.tokens" for role in _ROLES]
    for file in files:
        file.write_text(f"{_OLDER}\n{_TOKEN}\n")
    locked = [word for role, file in zip(_ROLES, files, strict=True) for word in ("--token-file", f"{role}={file}")]
    sides = {
        "without": _Side(servers.daemon(*common), list),
        "with tokens": _Side(servers.daemon(*common, *locked), lambda requests: payloads.authorized(requests, _TOKEN)),
    }
    prometheus = servers.prometheus(sides["without"].server.port, port)
    return [
        _reports(plan, sides, "reports, keep-alive", payloads.reports(_NODES)),
        _reports(plan, sides, "reports, a connection each", payloads.reports(_NODES, close=True)),
        _reports(plan, sides, "batches of 100", payloads.batches(_NODES)),
        _scrapes(plan, sides),
        _queries(plan, sides, prometheus, "/query, distinct, 16 connections", _PASSED_ON),
        _queries(plan, sides, prometheus, "latest value from memory, 16 connections", _FROM_MEMORY),
    ]


def _reports(plan: Plan, sides: dict[str, _Side], what: str, requests: list[bytes]) -> SampleRow:
    def rate(name: str, side: _Side) -> Callable[[], float]:
        path = payloads.write(side.sent(requests), plan.home / f"{what} {name}".replace(" ", "-"))
        return reports.rate(plan, side.server, path)

    measured = plan.interleave("tokens", {name: rate(name, side) for name, side in sides.items()})
    return _no_slower(what, measured)


def _scrapes(plan: Plan, sides: dict[str, _Side]) -> SampleRow:
    arrays = payloads.batches(_NODES)

    def timed(side: _Side) -> Callable[[], float]:
        def measure() -> float:
            http11.send_all(side.server.port, side.sent(arrays))
            return min(http11.scrape(side.server.port, _TOKEN) for _ in range(5)) * 1000

        return measure

    measured = plan.interleave("tokens", {name: timed(side) for name, side in sides.items()})
    without, locked = (Figure(name, "ms", values) for name, values in measured.items())
    return at_most(f"scrape, {_NODES:,} nodes, with tokens", locked, without, round(1 / _LEAST, 2))


def _queries(plan: Plan, sides: dict[str, _Side], prometheus: Server, what: str, path: str) -> SampleRow:
    asked, arrays = payloads.queries(_ASKED, path), payloads.batches(_ASKED)

    def rate(name: str, side: _Side) -> Callable[[], float]:
        field = queries.Field(side.server, prometheus, side.sent(arrays))
        file = payloads.write(side.sent(asked), plan.home / f"queries-{name}".replace(" ", "-"))
        load = queries.load_of(plan, field, side.server, file)
        return lambda: load().per_second

    measured = plan.interleave("tokens", {name: rate(name, side) for name, side in sides.items()})
    return _no_slower(what, measured)


def _no_slower(what: str, measured: dict[str, list[float]]) -> SampleRow:
    without, locked = (Figure(name, "a second", values) for name, values in measured.items())
    return at_least(f"{what}, with tokens", locked, without, _LEAST)
