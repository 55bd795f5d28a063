"""The daemon together with a real Prometheus that scrapes it: what a scheduler and an operator live on."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest
import requests
from prometheus_api_client import PrometheusConnect

from orchestratord.web.routes import cleaned
from tests.integration.daemon import FAMILIES, PATIENCE, Daemon, Wire, free_port, full_report, report, run, until
from tests.integration.stores import Prometheus, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

NODES = ("n1", "n2", "n3")
STALE_AFTER = 3.0
SELECTOR = 'mem_bytes_allocated{node_id=~"n1|n2|n3"}'


class House(NamedTuple):
    """A daemon with its Prometheus, to which n1, n2 and n3 report without end."""

    daemon: Daemon
    prometheus: Prometheus


class Reporter:
    """Stands for the profilers of n1, n2 and n3, which report 1000, 2000 and 3000 bytes and so on, twice a second."""

    def __init__(self, daemon: Daemon) -> None:
        self.failures: list[str] = []
        self._daemon = daemon
        self._stop = Event()
        self._thread = Thread(target=self._keep_reporting, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(PATIENCE)

    def _keep_reporting(self) -> None:
        while not self._stop.wait(0.5):
            try:
                for number, name in enumerate(NODES, 1):
                    self._daemon.post(full_report(name, 1000 * number)).raise_for_status()
            except requests.RequestException as error:
                self.failures.append(str(error))


@contextmanager
def opened(home: Path) -> Iterator[House]:
    """Open a house, which has no data yet; all that was done in it must have gone well."""
    prometheus = Prometheus(home / "prometheus")
    options = ("--prometheus", prometheus.url, "--stale-after", str(STALE_AFTER), "--query-timeout", "5")
    daemon = Daemon(home / "daemon", *options)
    try:
        prometheus.start(daemon.started().port)
        reporter = Reporter(daemon)
        try:
            yield House(daemon, prometheus)
        finally:
            reporter.close()
        assert reporter.failures == []
        daemon.stop()
    finally:
        daemon.close()
        prometheus.close()


@pytest.fixture(scope="module", autouse=True)
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house to whose Prometheus bad things may happen; it is opened early, for a first scrape takes 5 s."""
    with opened(tmp_path_factory.mktemp("victim")) as victim:
        yield victim


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house whose data have been there for some seconds."""
    with opened(tmp_path_factory.mktemp("house")) as house:
        until(lambda: len(points(house.daemon, SELECTOR)) >= 3, "three scrapes of n1")
        yield house


def points(daemon: Daemon, query: str) -> list[Any]:
    """Return the raw samples of the first series of the last minute; none while Prometheus cannot answer."""
    answer = daemon.get("/query", {"q": f"{query}[1m]"})
    series = result(answer) if answer.status_code == 200 else []
    values: list[Any] = series[0]["values"] if series else []
    return values


def values(answer: requests.Response) -> dict[str, str]:
    """Return the instant values by node."""
    return {series["metric"]["node_id"]: series["value"][1] for series in result(answer)}


def test_a_report_comes_back(house: House) -> None:
    """A report posted with `requests` is scraped, and comes back as an instant value, as an average and as a range."""
    daemon = house.daemon
    requests.post(
        f"{daemon.url}/update_metrics",
        json=report("visitor", mem_bytes_allocated=4321, page_faults=0),
        timeout=PATIENCE,
    ).raise_for_status()
    query = 'mem_bytes_allocated{node_id="visitor"}'
    until(lambda: values(daemon.get("/query", {"q": query})), "an instant value")
    assert values(daemon.get("/query", {"q": query})) == {"visitor": "4321"}
    (series,) = result(daemon.get("/query", {"q": query}))
    assert series["metric"]["__name__"] == "mem_bytes_allocated"
    assert series["metric"]["node_id"] == "visitor"
    average = 'avg_over_time(mem_bytes_allocated{node_id="visitor"}[1m])'
    assert values(daemon.get("/query", {"q": average})) == {"visitor": "4321"}
    now = time.time()
    ranged = daemon.get("/query", {"q": query, "start": now - 10, "end": now, "step": "1s"})
    (series,) = result(ranged)
    assert {value for _, value in series["values"]} == {"4321"}
    assert values(daemon.get("/query", {"q": 'page_faults{node_id="visitor"}'})) == {"visitor": "0"}
    assert values(daemon.get("/query", {"q": 'fs_read_count{node_id="visitor"}'})) == {}


def test_all_families_of_all_nodes(house: House) -> None:
    """Every family of every node is there, with the label node_id and the value that was reported."""
    for index, family in enumerate(FAMILIES):
        answer = house.daemon.get("/query", {"q": f'{family}{{node_id=~"n1|n2|n3"}}'})
        assert values(answer) == {f"n{number}": str(1000 * number + index) for number in (1, 2, 3)}


def test_a_node_that_stops_reporting(house: House) -> None:
    """A silent node is gone from /nodes, /metrics and instant answers after the stale limit; its past stays."""
    daemon = house.daemon
    query = 'mem_bytes_allocated{node_id="leaver"}'

    def scraped() -> bool:
        daemon.post(report("leaver", mem_bytes_allocated=5)).raise_for_status()
        return values(daemon.get("/query", {"q": query})) == {"leaver": "5"}

    until(scraped, "an instant value of the node that will leave")
    last = time.monotonic()
    assert "leaver" in daemon.nodes()
    until(lambda: "leaver" not in daemon.nodes(), "an end in /nodes")
    assert time.monotonic() - last > STALE_AFTER - 0.5
    assert '"leaver"' not in daemon.get("/metrics").text
    assert daemon.get("/nodes/leaver").status_code == 404
    until(lambda: values(daemon.get("/query", {"q": query})) == {}, "an end of the instant value", 10)
    average = "avg_over_time(mem_bytes_allocated[1m])"
    assert values(daemon.get("/query", {"q": average}))["leaver"] == "5"
    # As the documents write it, of another family.
    recommended = values(daemon.get("/query", {"q": f"{average} and mem_bytes_allocated"}))
    assert "leaver" not in recommended
    assert set(NODES) <= recommended.keys()
    assert set(NODES) <= set(daemon.nodes())


def test_prometheus_killed_and_back(victim: House) -> None:
    """While Prometheus is dead a query is 502 within the deadline, reports and scrapes go on; then it answers again."""
    daemon, prometheus = victim
    up = f'orchestrator_upstream_up{{upstream="{prometheus.url}"}}'
    query = f"max_over_time({SELECTOR}[1m])"
    until(lambda: points(daemon, SELECTOR), "an answer")
    before = daemon.output().count(" is down: ")  # it was, when the daemon began
    prometheus.kill()
    for _ in range(3):
        begun = time.monotonic()
        answer = daemon.get("/query", {"q": query})
        assert time.monotonic() - begun < 5
        assert (answer.status_code, answer.json()["errorType"]) == (502, "unavailable")
        assert daemon.post(report("meanwhile")).status_code == 200
        assert "n1" in daemon.get("/metrics").text
        assert daemon.get("/-/ready").status_code == 200
    assert daemon.sample(up) == 0
    prometheus.start(daemon.port)

    def answered() -> bool:
        answer = daemon.get("/query", {"q": query})
        return answer.status_code == 200 and "n1" in values(answer)

    until(answered, "an answer again")
    assert daemon.sample(up) == 1
    daemon.said(r"upstream \S+ is down.*(?s:.)*upstream \S+ is back")
    assert daemon.output().count(" is down: ") == before + 1


def test_the_first_of_two_is_dead(house: House, start: Callable[..., Daemon]) -> None:
    """With two --prometheus URLs the second answers while the first is dead."""
    dead = f"http://127.0.0.1:{free_port()}"
    daemon = start("--prometheus", dead, "--prometheus", house.prometheus.url)
    for _ in range(3):
        assert values(daemon.get("/query", {"q": SELECTOR})) == {"n1": "1000", "n2": "2000", "n3": "3000"}
    up = f'orchestrator_upstream_up{{upstream="{dead}"}}'
    until(lambda: daemon.sample(up) == 0, "an upstream that is known to be dead")
    assert daemon.sample(f'orchestrator_upstream_up{{upstream="{house.prometheus.url}"}}') == 1
    unreachable = f'orchestrator_upstream_requests_total{{outcome="unreachable",upstream="{dead}"}}'
    wasted = daemon.sample(unreachable)
    assert wasted in {0, 1}  # by then a probe may have found it out
    assert values(daemon.get("/query", {"q": SELECTOR}))
    assert daemon.sample(unreachable) == wasted


def test_promtool_query(house: House) -> None:
    """Debian's promtool asks the daemon as it would ask Prometheus: instant, range, series and labels."""
    url = house.daemon.url
    instant = run("promtool", "query", "instant", url, 'mem_bytes_allocated{node_id="n1"}')
    assert (instant.returncode, instant.stderr) == (0, "")
    assert 'node_id="n1"' in instant.stdout
    assert "=> 1000 @" in instant.stdout
    assert run("promtool", "query", "instant", url, "up").returncode == 0
    end = int(time.time())
    ranged = run(
        *("promtool", "query", "range", f"--start={end - 30}", f"--end={end}", "--step=1s", url),
        'mem_bytes_allocated{node_id="n2"}',
    )
    assert (ranged.returncode, ranged.stderr) == (0, "")
    assert "2000 @[" in ranged.stdout
    series = run("promtool", "query", "series", '--match=page_faults{node_id="n3"}', url)
    assert (series.returncode, series.stderr) == (0, "")
    assert '__name__="page_faults"' in series.stdout
    assert 'node_id="n3"' in series.stdout
    labels = run("promtool", "query", "labels", url, "node_id")
    assert labels.returncode == 0
    assert set(NODES) <= set(labels.stdout.split())
    wrong = run("promtool", "query", "instant", url, "sum(")
    assert wrong.returncode != 0
    assert "parse error" in wrong.stderr


@pytest.mark.parametrize(
    "path", ["//api/v1/query", "/api//v1/./query", "/api/v1/x/../query", "/%2e/api/v1/%2E%2e/v1/query"]
)
def test_paths_are_cleaned(house: House, path: str) -> None:
    """Prometheus redirects to what the daemon serves at once; a posted form is not lost either."""
    for port in (house.prometheus.port, house.daemon.port):
        with Wire(port) as wire:
            wire.get(f"{path}?query=1%2B1")
            answer = wire.answer()
        if port == house.prometheus.port:
            assert answer.status == 301
            assert cleaned(path.encode()) == b"/api/v1/query"
            assert answer.headers["location"] == "/api/v1/query?query=1%2B1"
        else:
            assert (answer.status, answer.json()["data"]["result"][1]) == (200, "2")
    with house.daemon.wire() as wire:
        wire.request("POST", path, "Content-Type: application/x-www-form-urlencoded", body=b"query=1%2B2")
        assert wire.answer().json()["data"]["result"][1] == "3"


@pytest.mark.parametrize("end", ["", "/"])
def test_prometheus_api_client(house: House, end: str) -> None:
    """Python's prometheus-api-client works against the daemon, also with a slash at the end of its URL."""
    with PrometheusConnect(url=house.daemon.url + end) as client:
        assert client.check_prometheus_connection()
        (series,) = client.get_current_metric_value("mem_bytes_allocated", label_config={"node_id": "n1"})
        assert (series["metric"]["node_id"], series["value"][1]) == ("n1", "1000")
        assert {item["value"][1] for item in client.custom_query(SELECTOR)} == {"1000", "2000", "3000"}
        now = datetime.now(UTC)
        since = now - timedelta(seconds=30)
        ranged = client.custom_query_range('page_faults{node_id="n2"}', since, now, "1")
        assert {value for _, value in ranged[0]["values"]} == {"2001"}
        assert set(FAMILIES) <= set(client.all_metrics())
        assert "node_id" in client.get_label_names()
        assert set(NODES) <= set(client.get_label_values("node_id"))
        assert client.get_metric_range_data("fs_read_count", start_time=since, end_time=now)
        assert client.get_metric_metadata("page_faults")


@pytest.mark.parametrize(
    "target",
    [
        '/api/v1/query?query=mem_bytes_allocated{node_id="n1"}',
        '/query?q=mem_bytes_allocated{node_id="n1"}',
        '/api/v1/query?query=mem_bytes_allocated{node_id=~"n1"}',
        "/api/v1/query?query=mem_bytes_allocated%7Bnode_id%3D%22n1%22%7D",
    ],
)
def test_an_extender_with_unescaped_braces(house: House, target: str) -> None:
    """Schedulers of the field send braces and quotes as they are."""
    with house.daemon.wire() as wire:
        wire.get(target)
        answer = wire.answer()
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    (series,) = answer.json()["data"]["result"]
    assert (series["metric"]["node_id"], series["value"][1]) == ("n1", "1000")


def test_an_extender_with_alternatives(house: House) -> None:
    """A regular expression over several nodes, unescaped, finds them all."""
    with house.daemon.wire() as wire:
        wire.get('/api/v1/query?query=page_faults{node_id=~"n1|n2|n3"}')
        found = wire.answer().json()["data"]["result"]
    assert {series["metric"]["node_id"]: series["value"][1] for series in found} == {
        "n1": "1001",
        "n2": "2001",
        "n3": "3001",
    }


def settled(house: House) -> float:
    """Return a time at which there are data, and to which no scrape will add any."""
    last: float = points(house.daemon, 'up{job="orchestrator"}')[-2][0]
    return last


@pytest.mark.parametrize(
    "query",
    [
        SELECTOR,
        "sum(page_faults)",
        "avg_over_time(mem_bytes_allocated[1m])",
        "mem_bytes_allocated[1m]",
        "1 + 1",
        '"text"',
        "time()",
        "absent(nothing)",
        "nothing",
        "0 / 0",
        "sum(",
        "{}",
        "no_such_function(up)",
        "up[",
        "up offset",
        "rate(up)",
        "\u00e9",
        "up # a comment; and a semicolon & an ampersand + a plus % a percent",
    ],
)
def test_instant_answers_are_prometheus_own(house: House, query: str) -> None:
    """Status, Content-Type and body are those of Prometheus itself, byte for byte, for good queries and bad ones."""
    when = settled(house)
    own = ask(f"{house.prometheus.url}/api/v1/query", {"query": query, "time": when})
    params = {"q": query, "time": when}
    assert ask(f"{house.daemon.url}/query", params) == own
    assert ask(f"{house.daemon.url}/query", params, "POST") == own
    params = {"query": query, "time": when}
    assert ask(f"{house.daemon.url}/api/v1/query", params) == own
    assert ask(f"{house.daemon.url}/api/v1/query", params, "POST") == own


@pytest.mark.parametrize("query", [SELECTOR, "sum(max_over_time(page_faults[10s]))", "vector(1)", "sum(", "up[1m]"])
def test_range_answers_are_prometheus_own(house: House, query: str) -> None:
    """So are those of range queries, with 15s for the step where none is given."""
    end = settled(house)
    for step in ("1", "1s", "0.5", None):
        given = {"start": end - 60, "end": end, **({"step": step} if step else {})}
        asked = {"query": query, **given, "step": step or "15s"}
        own = ask(f"{house.prometheus.url}/api/v1/query_range", asked)
        for method in ("GET", "POST"):
            assert ask(f"{house.daemon.url}/query", {"q": query, **given}, method) == own
            assert ask(f"{house.daemon.url}/api/v1/query_range", asked, method) == own


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/api/v1/series", [("match[]", SELECTOR), ("match[]", "up")]),
        ("/api/v1/series", []),
        ("/api/v1/labels", []),
        ("/api/v1/labels", [("match[]", "up")]),
        ("/api/v1/label/node_id/values", []),
        ("/api/v1/label/__name__/values", [("match[]", SELECTOR)]),
        ("/api/v1/label/not-a-label/values", []),
        ("/api/v1/metadata", []),
        ("/api/v1/metadata", [("metric", "page_faults"), ("limit", "1")]),
        ("/api/v1/format_query", [("query", "sum(up)by(job)")]),
        ("/api/v1/format_query", [("query", "sum(")]),
        ("/api/v1/query_exemplars", [("query", "up"), ("start", "1"), ("end", "2")]),
        ("/api/v1/query_exemplars", []),
        ("/api/v1/status/buildinfo", []),
        ("/api/v1/query", []),
        ("/api/v1/query", [("query", "up"), ("time", "noon")]),
        ("/api/v1/query", [("query", "up"), ("timeout", "nonsense")]),
        ("/api/v1/query_range", [("query", "up"), ("start", "2"), ("end", "1"), ("step", "1")]),
        ("/api/v1/query_range", [("query", "up"), ("start", "1"), ("end", "20000"), ("step", "1")]),
    ],
)
def test_the_read_only_api_is_prometheus_own(house: House, path: str, params: list[tuple[str, str]]) -> None:
    """Every read-only route is passed through, by GET and by form POST, refusals included."""
    own = ask(house.prometheus.url + path, params)
    assert ask(house.daemon.url + path, params) == own
    assert ask(house.daemon.url + path, params, "POST") == own


def ask(url: str, params: Any, method: str = "GET") -> tuple[int, str, bytes]:
    """Return the status, the Content-Type and the body."""
    if method == "GET":
        answer = requests.get(f"{url}?{urlencode(params)}", timeout=PATIENCE)
    else:
        answer = requests.post(url, data=params, timeout=PATIENCE)
    return answer.status_code, answer.headers["Content-Type"], answer.content
