"""Answers from memory beside those of a real Prometheus that has scraped the same table."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import requests

from tests.integration.daemon import FAMILIES, PATIENCE, free_port, report, until
from tests.integration.stores import Prometheus, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.daemon import Daemon

pytestmark = pytest.mark.integration

NODES = ["n1", "n2", "n10", "N1", "a.b", "a-b", "a:b", "a_b", "node-1.example", "x" * 253]
VALUES = [0, 1, 2**53 + 1, 2**64 - 1, 0.1, 1e-7, 1e-300, 123456789.125, 1e15, 1.5e18]
PATTERNS = [
    "n.*",
    "n1|n2",
    "N1",
    "a.b",
    "a\\\\.b",
    "(?i)n1",
    "n[0-9]+",
    ".+",
    ".*",
    "",
    "x+",
    "[^n].*",
    "n1|",
    "\\\\D+",
    "n1$",
]


def selectors() -> list[str]:
    """Return selectors of every kind, the same in each run."""
    chance = random.Random(17)
    made = []
    for _ in range(150):
        matchers = []
        for _ in range(chance.randint(0, 2)):
            operator = chance.choice(["=", "!=", "=~", "!~"])
            value = chance.choice(PATTERNS if "~" in operator else [*NODES, "", "gone"])
            matchers.append(f'node_id{operator}"{value}"')
        made.append(f"{chance.choice(FAMILIES)}{{{','.join(matchers)}}}" if matchers else chance.choice(FAMILIES))
    return made


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that is not started yet."""
    server = Prometheus(tmp_path / "prometheus")
    try:
        yield server
    finally:
        server.close()


def pairs(answer: requests.Response) -> dict[str, str]:
    """Return the values by node."""
    return {item["metric"]["node_id"]: item["value"][1] for item in result(answer)}


def test_memory_and_prometheus_answer_the_same(start: Callable[..., Daemon], prometheus: Prometheus) -> None:
    """The same nodes with the same values, to the letter, for selectors of every kind; the source is told."""
    daemon = start("--prometheus", prometheus.url, "--latest-from-memory", "always")
    reports = [
        report(
            node, **{name: VALUES[(index + shift) % len(VALUES)] for shift, name in enumerate(FAMILIES[: index + 1])}
        )
        for index, node in enumerate(NODES)
    ]
    daemon.post(reports).raise_for_status()
    prometheus.start(int(daemon.url.rpartition(":")[2]))
    direct = f"{prometheus.url}/api/v1/query"

    def scraped() -> bool:
        answer = requests.get(direct, {"query": "count(mem_bytes_allocated)"}, timeout=PATIENCE)
        return [item["value"][1] for item in result(answer)] == [str(len(NODES))]

    until(scraped, "a scrape of every node")
    for promql in selectors():
        expected = pairs(requests.get(direct, {"query": promql}, timeout=PATIENCE))
        for path, name in (("/query", "q"), ("/api/v1/query", "query")):
            answer = daemon.get(path, {name: promql})
            assert answer.headers["X-Orchestrator-Source"] == "memory", promql
            assert pairs(answer) == expected, promql
    aggregated = daemon.get("/query", {"q": "sum(page_faults)"})
    assert "X-Orchestrator-Source" not in aggregated.headers
    assert result(aggregated)


def test_memory_answers_when_no_prometheus_does(start: Callable[..., Daemon]) -> None:
    """With `fallback`, a warning and the source; without, 502 as ever."""
    dead = f"http://127.0.0.1:{free_port()}"
    daemon = start("--prometheus", dead, "--latest-from-memory", "fallback")
    daemon.post(report("n1", page_faults=3)).raise_for_status()
    answer = daemon.get("/query", {"q": 'page_faults{node_id="n1"}'})
    assert answer.headers["X-Orchestrator-Source"] == "memory"
    assert "no Prometheus could be reached" in answer.json()["warnings"][0]
    assert pairs(answer) == {"n1": "3"}
    assert daemon.get("/query", {"q": "sum(page_faults)"}).status_code == 502
    plain = start("--prometheus", dead)
    assert plain.get("/query", {"q": "page_faults"}).status_code == 502


def test_an_answer_is_kept(start: Callable[..., Daemon], prometheus: Prometheus) -> None:
    """With `--query-cache`, the very same answer comes again, with its age."""
    daemon = start("--prometheus", prometheus.url, "--query-cache", "60")
    prometheus.start(int(daemon.url.rpartition(":")[2]))
    first = daemon.get("/query", {"q": "vector(time())"})
    again = daemon.get("/query", {"q": "vector(time())"})
    assert "Age" not in first.headers
    assert again.headers["Age"].isdigit()
    assert again.content == first.content
