"""Answers from memory beside those of a real Prometheus that has scraped the same table."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlencode

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


#: Queries as nobody writes them, some right and some wrong: text after `page_faults`.
ODD = [
    '{node_id=~"a)|(b"}',
    '{node_id=~"a)(b"}',
    '{node_id!~"a)|(b"}',
    '{node_id=~"("}',
    '{node_id=~"n**"}',
    '{node_id=~"n{1001}"}',
    '{node_id=~"n{,2}"}',
    '{node_id=~"(?P<x>n)1"}',
    '{node_id=~"(?<x>n)1"}',
    '{node_id=~"(?i:N)1"}',
    '{node_id=~"(?=n)"}',
    '{node_id=~"\\\\C+"}',
    '{node_id=~"\\\\pL.*"}',
    '{node_id=~"\\\\p{Nothing}"}',
    '{node_id=~"\\\\Qa.b\\\\E"}',
    '{node_id=~"n1\\\\z"}',
    '{node_id=~"n1\\\\Z"}',
    '{node_id=~"[[:alpha:]]1"}',
    '{node_id=~"[n-a]1"}',
    '{node_id=~"a[.-]b"}',
    "{node_id=~`a\\.b`}",
    "{node_id=~`a\\-b|a\\_b`}",
    '{node_id=~"a.b|n."}',
    '{node_id=~"a.b|..",node_id!~"N1|n2"}',
    '{node_id=~"(a|b)|c)"}',
    '{node_id=~"|"}',
    '{node_id=~"n1||n2"}',
    '{node_id=""}',
    '{node_id!=""}',
    '{node_id=~""}',
    '{node_id!~""}',
    '{node_id=~".*"}',
    '{node_id!~".+"}',
    "{}",
    "{,}",
    "{node_id='n1',}",
    "{node_id='n1',,}",
    "{,node_id='n1'}",
    "{node_id=='n1'}",
    "{node_id='n1' node_id='n1'}",
    "{node_id = \t'n1'\r\n}",
    "{node_id=\f'n1'}",
    "\f",
    "\v{}",
    "\u00a0",
    "\u2003{}",
    "\0",
    "{node_id='n1'}\0",
    "{node_id='n\0'}",
    "# a comment",
    "# a comment\r{node_id='n1'}",
    "{node_id='n1' # a comment\n}",
    "{# é \0\nnode_id='n1'}",
    "{node_id='n1#'}",
    "{node_id='n1'",
    "{node_id='n1}",
    '{node_id="n\n1"}',
    "{node_id=`n\n1`}",
    '{node_id="\\x6e1"}',
    '{node_id="\\156\\u0031"}',
    '{node_id="\\q"}',
    '{node_id="a\\.b"}',
    """{node_id="\\'"}""",
    """{node_id='\\''}""",
    '{node_id="\\""}',
    '{node_id="\ufffd"}',
    '{node_id="é"}',
    '{"node_id"="n1"}',
    "{node_id}",
    "{NODE_ID='n1'}",
    "{__name__='page_faults'}",
    "{__name__='x'}",
    "{node_id='n1' or node_id='n2'}",
    ":",
    " == 'a'",
    "+page_faults" * 1000,
    '{node_id=~"(?:[!-~]?){1000}"}',
    '{node_id=~"' + "(?:[!-~]?){1000}" * 40 + '"}',
    " offset NaN",
    "[1e300]",
    ";",
    ".",
]
#: The same without the name.
NAMELESS = [
    "",
    "{}",
    '{node_id=""}',
    '{node_id=~".*"}',
    '{node_id!~".+"}',
    '{node_id="n1"}',
    "Page_faults",
    "((((",
    "\f",
]
TIMEOUTS = [
    "",
    "5s",
    "1m30s",
    "7",
    "abc",
    "1e400",
    "1e10",
    "300y",
    "9y",
    "1e",
    "1 s",
    "5s ",
    "1.5s",
    "0x7p1",
    "+7",
    "inf",
]
RAW = [
    "query=page_faults&query=up",
    "query=up&query=page_faults",
    "query=page_faults&time=",
    "query=page_faults&time=soon",
    "query=page_faults%ff",
    "query=page_faults{node_id=%22%ff%22}",
    "query=page_faults%",
    "query=page_faults;",
    "query=page_faults&timeout=5s&timeout=abc",
    "query=page_faults&timeout=abc&timeout=5s",
    "query=&query=page_faults",
    "query=page_faults+",
    "query=page_faults%2B",
    "query=%70age_faults",
    "",
]


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


def test_what_memory_answers_is_valid_by_prometheus_rules(start: Callable[..., Daemon], prometheus: Prometheus) -> None:
    """The same status and the same nodes, whatever is asked; without it, what it refuses is not answered 200."""
    daemon = start("--prometheus", prometheus.url, "--latest-from-memory", "always")
    nodes = [*NODES, "b", "nn"]
    daemon.post([report(node, page_faults=1) for node in nodes]).raise_for_status()
    prometheus.start(int(daemon.url.rpartition(":")[2]))
    alone = start("--prometheus", f"http://127.0.0.1:{free_port()}", "--latest-from-memory", "fallback")
    alone.post([report(node, page_faults=1) for node in nodes]).raise_for_status()
    until(lambda: len(prometheus.instant("page_faults")) == len(nodes), "a scrape of every node")
    asked = [urlencode({"query": query}) for query in [f"page_faults{more}" for more in ODD] + NAMELESS]
    asked += [urlencode({"query": "page_faults", "timeout": timeout}) for timeout in TIMEOUTS]
    urls = [f"/api/v1/query?{url}" for url in asked + RAW]
    # Beside each other: Twisted takes 0.3 s to give a refused connection up.
    with ThreadPoolExecutor(16) as threads:
        answers_of = [
            list(threads.map(lambda url, base=base: requests.get(base + url, timeout=PATIENCE), urls))
            for base in (prometheus.url, daemon.url, alone.url)
        ]
    answered_here = 0
    for url, expected, ours, without in zip(urls, *answers_of, strict=True):
        assert ours.status_code == expected.status_code, url
        if expected.status_code == 200:
            assert node_ids(ours) == node_ids(expected), url
        answered_here += "X-Orchestrator-Source" in ours.headers
        if without.status_code == 200:
            assert expected.status_code == 200, url
            assert node_ids(without) == node_ids(expected), url
        else:
            assert without.status_code in {400, 502}, url
    assert answered_here > 30


def node_ids(answer: requests.Response) -> list[str | None]:
    """Return the nodes of an answer, sorted."""
    return sorted(item["metric"].get("node_id", "") for item in result(answer))


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
