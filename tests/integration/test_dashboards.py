"""The rules and the dashboards in a real Prometheus that scrapes a real daemon: each query of theirs finds its data."""

from __future__ import annotations

import math
import os
import re
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
import yaml

from tests.certificates import Authority
from tests.grafana import DASHBOARDS, Ask, asks, load, metric_names
from tests.integration.daemon import (
    FAMILIES,
    LOOPBACK,
    PATIENCE,
    ROOT,
    Daemon,
    asked,
    free_port,
    full_report,
    run,
    until,
)
from tests.integration.stores import Prometheus, result

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

RULES = ROOT / "etc/prometheus/rules.yml"
#: What Grafana would put in the place of a variable; the intervals are those of a scrape every second.
VARIABLES = {"job": "orchestrator|replicas", "instance": ".+", "node": "n1", "__rate_interval": "5s"}

#: The commands that can be tried here; those for systemd and Kubernetes are in blocks of no language.
COMMANDS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/OPERATIONS.md").read_text(), re.MULTILINE | re.DOTALL)

#: Of the role `admin`, which the traffic below does not show.
ADMIN_TOKEN = "a-token-that-nobody-shows"

#: What the traffic below is a reason for: a node goes, a certificate has ten days left, an upstream is dead, and so on.
REASONS = {
    f"Orchestrator{name}"
    for name in (
        "FleetShrinking",
        "ReportsAhead",
        "ReportsSuperseded",
        "UnknownMetrics",
        "UpstreamDown",
        "Unauthorized",
        "CertificateExpiring",
        "MixedSources",
    )
}
OF_A_BUSY_MACHINE = {f"Orchestrator{name}" for name in ("CpuSaturated", "ReportsSlow", "QueriesSlow", "ScrapeSlow")}


class House(NamedTuple):
    """A Prometheus, the daemon that it scrapes, and two side by side that deliver to it, of the job "replicas"."""

    daemon: Daemon
    prometheus: Prometheus
    replicas: tuple[Daemon, ...]


class Traffic:
    """Everything that a dashboard shows happens to these daemons, again and again, until it is closed."""

    def __init__(self, daemon: Daemon, replicas: tuple[Daemon, ...]) -> None:
        self.failures: list[str] = []
        self._daemon = daemon
        self._replicas = replicas
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(0.3):
            turn += 1
            try:
                self._happen(turn)
            except (requests.RequestException, AssertionError) as error:
                self.failures.append(repr(error))

    def _happen(self, turn: int) -> None:
        now = time.time()
        told = {"interval_seconds": 1, "profiler_version": "0.1.0", "timestamp": now}
        sources = {"n1": "ebpf-tracepoint", "n2": "ebpf-tracepoint", "n3": "procfs"}
        for number, (name, source) in enumerate(sources.items(), 1):
            self._took(full_report(name, 1000 * number) | told | {"source": source}, 200)
        # Gone again and again, for it is stale after 2 s; superseded; unknown; refused.
        if turn % 12 == 1:
            self._took(full_report("passing") | {"timestamp": now}, 200)
        self._took({"node_id": "n1", "timestamp": now - 30}, 200)
        # Two nodes that come to one replica and to the other by turns, so that both tables have them.
        for name in ("r1", "r2"):
            answer = self._replicas[turn % 2].post(full_report(name) | {"timestamp": now})
            assert answer.status_code == 200, answer.text
        self._took({"node_id": "n4", "page_faults": 1, "no_such_metric": 1}, 200)
        self._took({"node_id": "n5", "timestamp": now + 7200}, 400)
        assert asked("DELETE", f"{self._daemon.url}/nodes/n1").status_code == 401
        assert self._daemon.get("/query", {"q": "page_faults"}).status_code == 200
        assert self._daemon.get("/api/v1/query", {"query": f"page_faults * {turn}"}).status_code == 200
        assert self._daemon.get("/query", {"q": "page_faults["}).status_code == 400

    def _took(self, report: dict[str, Any], status: int) -> None:
        answer = self._daemon.post(report)
        assert answer.status_code == status, answer.text


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a Prometheus with our rules that scrapes a daemon with all kinds of traffic and a dead upstream."""
    home = tmp_path_factory.mktemp("dashboards")
    rules = home / "rules.yml"
    rules.write_text(re.sub(r"^ *interval: .*\n", "", RULES.read_text(), flags=re.MULTILINE))
    prometheus = Prometheus(home / "prometheus", rules)
    upstreams = ("--prometheus", f"http://127.0.0.1:{free_port()}", "--prometheus", prometheus.url)
    authority = Authority(home)
    authority.issue("server", "127.0.0.1")
    tls = ("--tls.cert_file", str(authority.certificate("server")), "--tls.key_file", str(authority.key("server")))
    (home / "admin").write_text(f"{ADMIN_TOKEN}\n")
    trust = ("--listen", f"tls:{LOOPBACK}", *tls, "--token-file", f"admin={home / 'admin'}")
    intervals = ("--stale-after", "2", "--limits.expire_every", "0.5", "--snapshot-every", "1")
    daemon = Daemon(home / "daemon", *upstreams, *trust, *intervals, "--data-dir", str(home / "data"))
    side_by_side = ("--prometheus", prometheus.url, "--remote-write", prometheus.receiver)
    labels = ("--external-label", "job=replicas")
    replicas = tuple(
        Daemon(home / name, *side_by_side, *labels, "--data-dir", str(home / name / "data")) for name in ("one", "two")
    )
    try:
        prometheus.start(daemon.started().port, replicas=[replica.started().port for replica in replicas])
        traffic = Traffic(daemon, replicas)
        try:
            until(lambda: "node:page_faults:avg1m" in names(prometheus), "a first scrape, and what is recorded of it")
            yield House(daemon, prometheus, replicas)
        finally:
            traffic.close()
        assert traffic.failures == []
        for one in (daemon, *replicas):
            one.stop()
    finally:
        for one in (daemon, *replicas):
            one.close()
        prometheus.close()


@pytest.fixture
def prometheus(house: House) -> Prometheus:
    """Give its Prometheus."""
    return house.prometheus


def ask(prometheus: Prometheus, query: Ask) -> bool:
    """Return whether the query, asked as Grafana does, has data; a value that is no number is none."""
    now = time.time()
    if query.is_range:
        parameters = {"query": query.expr, "start": f"{now - 30}", "end": f"{now}", "step": "1"}
        answer = requests.post(f"{prometheus.url}/api/v1/query_range", data=parameters, timeout=PATIENCE)
        samples = [value for series in result(answer) for _, value in series["values"]]
    else:
        answer = requests.post(f"{prometheus.url}/api/v1/query", data={"query": query.expr}, timeout=PATIENCE)
        samples = [series["value"][1] for series in result(answer)]
    return any(math.isfinite(float(sample)) for sample in samples)


def names(prometheus: Prometheus) -> set[str]:
    """Return the names of all metrics that it has."""
    answer = requests.get(f"{prometheus.url}/api/v1/label/__name__/values", timeout=PATIENCE).json()
    assert answer["status"] == "success"
    return set(answer["data"])


def test_every_query_of_the_dashboards_returns_data(prometheus: Prometheus) -> None:
    """Each panel's, and each annotation's, with its variables filled in, of every family where there is a choice."""
    boards = [load(path) for path in DASHBOARDS]
    pending = {query for board in boards for family in FAMILIES for query in asks(board, family=family, **VARIABLES)}
    # That it restarted is not to be seen here, and is no fault.
    pending = {query for query in pending if not query.where.endswith("Restarts")}
    assert len(pending) > 60

    def answered() -> bool:
        pending.difference_update([query for query in pending if ask(prometheus, query)])
        return not pending

    try:
        until(answered, "data for each query", 40)
    except AssertionError:
        pytest.fail("no data for:\n" + "\n".join(f"{query.where}: {query.expr}" for query in sorted(pending)))


def test_every_variable_of_the_dashboards_has_values(prometheus: Prometheus) -> None:
    """What is offered for choice is there: the job, the nodes, the instances."""
    found = 0
    for board in map(load, DASHBOARDS):
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert match, variable
                selector = match[1].replace("$job", VARIABLES["job"])
                url = f"{prometheus.url}/api/v1/label/{match[2]}/values"
                until(
                    lambda url=url, selector=selector: requests.get(  # type: ignore[misc]
                        url, {"match[]": selector}, timeout=PATIENCE
                    ).json()["data"],
                    f"values of {selector}",
                )
                found += 1
    assert found >= 3


def test_every_metric_of_the_rules_exists(prometheus: Prometheus) -> None:
    """What rules, alerts and dashboards read is scraped from the daemon, recorded by a rule, or Prometheus' own."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    exprs = [rule["expr"] for rule in rules]
    exprs += [query.expr for path in DASHBOARDS for query in asks(load(path), family="page_faults", **VARIABLES)]
    wanted = set().union(*map(metric_names, exprs)) | {rule["record"] for rule in rules if "record" in rule}
    until(lambda: wanted <= names(prometheus), f"all of {sorted(wanted - names(prometheus))}")


def test_the_limits_are_exported(house: House) -> None:
    """What the table may hold, and when a node is stale, so that an alert needs not know the settings."""
    assert house.daemon.sample("orchestrator_nodes_limit") == 150_000
    assert house.daemon.sample("orchestrator_stale_after_seconds") == 2


def test_a_node_of_two_replicas_counts_once(house: House) -> None:
    """Each of the two tables has both nodes; the fleet has two, not four."""

    def value(expr: str) -> float:
        answer = requests.get(f"{house.prometheus.url}/api/v1/query", {"query": expr}, timeout=PATIENCE)
        return sum(float(series["value"][1]) for series in result(answer))

    until(lambda: value('sum(orchestrator_nodes{job="replicas"})') == 4, "both nodes at both replicas")
    until(lambda: value('job:orchestrator_nodes:sum{job="replicas"}') == 2, "each of them once")


def evaluated(prometheus: Prometheus) -> list[dict[str, Any]]:
    """Return the rules as Prometheus last evaluated them."""
    groups = requests.get(f"{prometheus.url}/api/v1/rules", timeout=PATIENCE).json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_no_rule_fails(prometheus: Prometheus) -> None:
    """Prometheus evaluates each of them without an error, such as two series that match one."""
    until(lambda: all(rule["health"] != "unknown" for rule in evaluated(prometheus)), "an evaluation of each rule")
    assert [rule for rule in evaluated(prometheus) if rule["health"] != "ok"] == []


def test_alerts_see_what_happens(prometheus: Prometheus) -> None:
    """By the daemon's real metrics those alerts are pending or firing that this traffic gives reason to, no others."""

    def active() -> set[str]:
        return {rule["name"] for rule in evaluated(prometheus) if rule.get("state") in {"pending", "firing"}}

    until(lambda: active() >= REASONS, f"alerts for all of {REASONS}")
    assert active() - REASONS - OF_A_BUSY_MACHINE == set()


#: What a command prints if it does what the document says, by a part of the command; the first that is in it counts.
PRINTED = (
    ("/-/healthy $ORCHESTRATOR/-/ready", r"healthy\s*ready"),
    ("grep", r"(?m)^(orchestrator_|process_|Date:|date:|\"lastError\")"),
    ("$ORCHESTRATOR/update_metrics", r'"status":"Metrics updated","accepted":1'),
    ("-X DELETE $ORCHESTRATOR/nodes/", r"^204$"),
    ("$ORCHESTRATOR/nodes", r'"nodes":\["n1"'),
    ("$ORCHESTRATOR/query", r'"status":"success"'),
    ("-o /dev/null", r"real\s+0m\d"),
    ("$PROMETHEUS/api/v1/query", r'"status":"success"'),
    ("$ORCHESTRATOR/-/healthy", "healthy"),
    ("$PROMETHEUS/-/ready", "Ready"),
    ("promtool check rules", "SUCCESS"),
    (" offset 15m ", r"^\n$"),  # nobody was there so long ago
    ("deriv(orchestrator_spool_bytes", r"^\n$|=> \S+ @\["),  # only while the spool grows
    ("promtool query instant", r"(?m)=> \S+ @\["),
)


@pytest.mark.parametrize("block", COMMANDS)
def test_commands_of_the_runbooks(house: House, block: str) -> None:
    """What docs/OPERATIONS.md says to type works as it stands: exit code 0, and each line prints what it is for."""
    daemon = house.replicas[0] if re.search("_remote_write_|_spool_", block) else house.daemon
    env = {**os.environ, "ORCHESTRATOR": daemon.url, "PROMETHEUS": house.prometheus.url}
    for line in block.splitlines():
        # As the document says, for where tokens are configured; only this role has any here.
        command = line.replace("-X DELETE", f"-X DELETE -H 'Authorization: Bearer {ADMIN_TOKEN}'")
        done = run("bash", "-euo", "pipefail", "-c", command, cwd=ROOT, env=env)
        printed = done.stdout + done.stderr
        assert done.returncode == 0, (line, done)
        wanted = next(pattern for part, pattern in PRINTED if part in line)
        assert re.search(wanted, printed), (line, printed)
        assert '"error"' not in printed, (line, printed)
