"""The container's own command line, as each overlay has it: started, probed as the kubelet would, and ended."""

from __future__ import annotations

import json
import re
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from tests.deployment.test_manifests import rendered
from tests.deployment.test_manifests_overlays import DEV, OPERATOR, PRODUCTION, PROFILER, pods
from tests.deployment.test_manifests_scale_out import expanded
from tests.deployment.test_manifests_tokens import with_components
from tests.integration.daemon import LOOPBACK, PATIENCE, ROOT, TWISTD, Daemon, Server, free_port, report, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

TOKENS = {role: f"{role}-0123456789abcdef" for role in ("report", "query", "scrape", "admin")}
ENTRY = re.compile(r"^ENTRYPOINT (\[.*\])$", re.MULTILINE)


def bearer(pod: dict[str, Any], role: str) -> dict[str, str]:
    """Return the headers of a client of this role: none where there are no tokens."""
    shut = any(argument.startswith("--token-file=") for argument in pod["containers"][0]["args"])
    return {"Authorization": f"Bearer {TOKENS[role]}"} if shut else {}


def filled(volume: dict[str, Any], folder: Path) -> None:
    """Put into a folder what the kubelet would: a Secret's values, or nothing yet."""
    folder.mkdir()
    (kind,) = volume.keys() - {"name"}
    if kind == "secret":
        roles = [item["key"] for item in volume[kind].get("items", ())] or TOKENS
        assert volume[kind]["secretName"] == f"orchestrator{'-client' if 'items' in volume[kind] else ''}-tokens"
        for role in roles:
            (folder / role).write_text(f"{TOKENS[role]}\n")
    else:
        assert kind in {"configMap", "emptyDir", "persistentVolumeClaim"}


def mapped(pod: dict[str, Any], home: Path) -> tuple[list[str], dict[str, str]]:
    """Return a container's arguments and variables, with a folder here for each of its mounts."""
    (container,) = pod["containers"]
    arguments, env = expanded(container)
    # What the image itself sets.
    env["ORCHESTRATOR_DATA_DIR"] = "/var/lib/orchestratord"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    folders = {mount["mountPath"]: home / mount["name"] for mount in container["volumeMounts"]}
    for mount in container["volumeMounts"]:
        filled(volumes[mount["name"]], folders[mount["mountPath"]])
    path = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, folders))})(?=/|$)")

    def here(text: str) -> str:
        return path.sub(lambda found: str(folders[found[1]]), text)

    arguments = [here(argument) for argument in arguments]
    env = {name: here(value) for name, value in env.items()}
    return arguments, env


@pytest.fixture(params=["k8s", DEV, OPERATOR, PRODUCTION])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Daemon, dict[str, Any]]]:
    """Give the daemon as the container has it, and its pod: each mount is a folder here, and the port is free."""
    pod = pods(rendered(request.param))["Deployment/orchestrator"]
    arguments, env = mapped(pod, tmp_path)
    daemon = Daemon(tmp_path / "daemon", *arguments, env=env, listen=LOOPBACK)
    try:
        yield daemon.started(), pod
    finally:
        daemon.close()


def probe(daemon: Daemon, container: dict[str, Any], name: str) -> int:
    """Ask what the kubelet asks, and return the status."""
    settings = container[name]
    return requests.get(daemon.url + settings["httpGet"]["path"], timeout=settings["timeoutSeconds"]).status_code


def test_the_entry_point_is_what_daemons_are_started_with() -> None:
    """The image's command line is the one that these tests start."""
    entries = [json.loads(entry) for entry in ENTRY.findall((ROOT / "Dockerfile").read_text())]
    assert entries[-1] == ["twistd", "--nodaemon", "--pidfile=", "orchestrator"]
    daemon_py = (ROOT / "tests/integration/daemon.py").read_text()
    assert 'TWISTD, "--nodaemon", "--pidfile=", "orchestrator", *listening, *flags' in daemon_py


def test_it_runs(running: tuple[Daemon, dict[str, Any]]) -> None:
    """Every probe succeeds, reports and scrapes work with the tokens and only so, and a stop drains as it is told."""
    daemon, pod = running
    (container,) = pod["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert probe(daemon, container, name) == 200
    body = report("node-1", page_faults=7)
    assert daemon.post(body, headers=bearer(pod, "report")).status_code == 200
    scrape = daemon.get("/metrics", headers=bearer(pod, "scrape"))
    assert scrape.status_code == 200
    assert 'page_faults{node_id="node-1"} 7' in scrape.text
    if bearer(pod, "report"):
        assert daemon.post(body).status_code == 401
        assert daemon.get("/metrics").status_code == 401
        # Prometheus cannot be reached from here: what is in the table is answered all the same.
        answer = daemon.get("/query", {"q": "page_faults"}, headers=bearer(pod, "query"))
        assert answer.status_code == 200
        assert [sample["metric"]["node_id"] for sample in answer.json()["data"]["result"]] == ["node-1"]
    daemon.signal(SIGTERM)
    until(lambda: probe(daemon, container, "readinessProbe") == 503, "not ready any more")
    assert probe(daemon, container, "livenessProbe") == 200
    # A second signal cuts the drain delay short, which has a test of its own.
    daemon.signal(SIGTERM)
    daemon.stop()


@pytest.mark.parametrize(("folder", "orchestrator"), [(DEV, DEV), (PROFILER, PRODUCTION)])
def test_the_profiler_runs(folder: str, orchestrator: str, tmp_path: Path, start: Callable[..., Daemon]) -> None:
    """The profiler's command line measures this machine and reports it, with the token where there are tokens."""
    pod = pods(rendered(orchestrator))["Deployment/orchestrator"]
    daemon = start(*(f"--token-file={role}={path}" for role, path in token_files(pod, tmp_path).items()))
    (container,) = pods(rendered(folder))["DaemonSet/orchestrator-profiler"]["containers"]
    arguments = [argument.replace("$(NODE_NAME)", "node-1") for argument in container["args"]]
    place = arguments.index("--orchestrator") + 1
    assert arguments[place] == "http://orchestrator-service:5000"
    arguments[place] = daemon.url
    for mount in container["volumeMounts"]:
        if mount["name"] == "token":
            arguments = [argument.replace(mount["mountPath"], str(tmp_path / "tokens")) for argument in arguments]
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    command = (TWISTD, "--nodaemon", "--pidfile=", "profiler", *arguments, "--interval", "1")
    profiler = Server(command, tmp_path / "profiler", env)
    try:
        until(lambda: daemon.get("/nodes", headers=bearer(pod, "query")).json() == {"nodes": ["node-1"]}, "a report")
        values = daemon.get("/nodes/node-1", headers=bearer(pod, "query")).json()["metrics"]
        assert values["ctx_switches_graceful"] > 0
        profiler.signal(SIGTERM)
        assert profiler.wait() == 0, profiler.output()
    finally:
        profiler.close()


def configured(objects: dict[str, dict[str, Any]], home: Path, port: int) -> str:
    """Put Prometheus' files where `mapped` has its mounts, with a daemon at that port to scrape; return its rules."""
    config = {name: item["data"] for name, item in objects.items() if "data" in item}
    (rules,) = [data["rules.yml"] for name, data in config.items() if name.startswith("ConfigMap/prometheus-rules")]
    (home / "rules" / "rules.yml").write_text(rules)
    text = config["ConfigMap/prometheus-config"]["prometheus.yml"]
    for name in ("rules", "token"):
        text = text.replace(f"/etc/prometheus-{name}", str(home / name))
    parsed = yaml.safe_load(text)
    # Rather than after five seconds, which is longer than all the rest here.
    parsed["global"]["scrape_interval"] = "1s"
    # In the place of the SRV record.
    del parsed["scrape_configs"][0]["dns_sd_configs"]
    parsed["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (home / "config" / "prometheus.yml").write_text(yaml.safe_dump(parsed))
    return str(rules)


@pytest.mark.parametrize("folder", ["k8s", DEV, PRODUCTION])
def test_prometheus_runs(folder: str, tmp_path: Path) -> None:
    """Prometheus' command line starts, it scrapes with its token, has the rules, and answers the orchestrator."""
    objects = rendered(folder)
    pod, other = (pods(objects)[f"Deployment/{name}"] for name in ("orchestrator", "prometheus"))
    arguments, env = mapped(pod, tmp_path)
    port = free_port()
    place = arguments.index("--prometheus") + 1
    assert arguments[place] == "http://prometheus-service:9090"
    arguments[place] = f"http://127.0.0.1:{port}"
    daemon = Daemon(tmp_path / "daemon", *arguments, env=env)
    home = tmp_path / "prometheus"
    home.mkdir()
    prometheus = None
    try:
        daemon.started()
        its, _ = mapped(other, home)
        rules = configured(objects, home, daemon.port)
        prometheus = Server(("prometheus", *its, f"--web.listen-address=127.0.0.1:{port}"), home / "run")
        daemon.post(report("node-1", page_faults=7), headers=bearer(pod, "report"))

        def asked() -> bool:
            # A sum is no plain selector, which memory would answer.
            answer = daemon.get("/query", {"q": "sum(page_faults)"}, headers=bearer(pod, "query"))
            return answer.status_code == 200 and [x["value"][1] for x in answer.json()["data"]["result"]] == ["7"]

        until(asked, f"an answer: {prometheus.output()}", 60)
        groups = requests.get(f"http://127.0.0.1:{port}/api/v1/rules", timeout=PATIENCE).json()["data"]["groups"]
        assert {group["name"] for group in groups} == {group["name"] for group in yaml.safe_load(rules)["groups"]}
        daemon.signal(SIGTERM)
        daemon.signal(SIGTERM)
        daemon.stop()
    finally:
        daemon.close()
        if prometheus is not None:
            prometheus.close()


def token_files(pod: dict[str, Any], home: Path) -> dict[str, Path]:
    """Return the tokens' files by role, those of the roles that a pod shuts."""
    if not bearer(pod, "report"):
        return {}
    filled({"name": "tokens", "secret": {"secretName": "orchestrator-tokens"}}, home / "tokens")
    return {role: home / "tokens" / role for role in TOKENS}


@pytest.mark.parametrize("folder", ["k8s", PRODUCTION, OPERATOR])
def test_node_tokens_are_read(folder: str, tmp_path: Path) -> None:
    """With `node-tokens`, the start gets as far as the issuer's certificate, which the kubelet would have put there."""
    begun = folder != "k8s"
    objects = with_components(folder, ("../../node-tokens" if begun else "node-tokens",), begun=begun)
    (container,) = pods(objects)["Deployment/orchestrator"]["containers"]
    (mount,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "issuer"]
    arguments = [argument for argument in container["args"] if not argument.startswith("--token-file")]
    environ = {one["name"]: one["value"].replace(mount, str(tmp_path / "none")) for one in container["env"]}
    daemon = Daemon(tmp_path, *arguments, env=environ)
    try:
        assert daemon.wait(PATIENCE) == 1
        (line,) = [line for line in daemon.output().splitlines() if "oidc." in line]
        assert str(tmp_path / "none") in line
    finally:
        daemon.close()
