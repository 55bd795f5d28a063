"""The container's own command line, as each overlay has it: started, probed as the kubelet would, and ended."""

from __future__ import annotations

import json
import re
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.daemon import LOOPBACK, PATIENCE, ROOT, TWISTD, Daemon, Server, report, until
from tests.test_manifests import rendered
from tests.test_manifests_overlays import DEV, OPERATOR, PRODUCTION, PROFILER, pods
from tests.test_manifests_tokens import with_components

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
    """Put into a folder what the kubelet would: a Secret's values, an empty folder, an issuer's."""
    folder.mkdir()
    (kind,) = volume.keys() - {"name"}
    if kind == "secret":
        assert volume[kind]["secretName"] == "orchestrator-tokens"
        for role, token in TOKENS.items():
            (folder / role).write_text(f"{token}\n")
    else:
        assert kind == "emptyDir"


@pytest.fixture(params=["k8s", DEV, OPERATOR, PRODUCTION])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Daemon, dict[str, Any]]]:
    """Give the daemon as the container has it, and its pod: each mount is a folder here, and the port is free."""
    pod = pods(rendered(request.param))["Deployment/orchestrator"]
    (container,) = pod["containers"]
    arguments = list(container["args"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    env = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    # What the image itself sets.
    env["ORCHESTRATOR_DATA_DIR"] = "/var/lib/orchestratord"
    for mount in container["volumeMounts"]:
        folder = tmp_path / mount["name"]
        filled(volumes[mount["name"]], folder)
        arguments = [argument.replace(mount["mountPath"], str(folder)) for argument in arguments]
        env = {name: value.replace(mount["mountPath"], str(folder)) for name, value in env.items()}
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
    assert 'TWISTD, "--nodaemon", "--pidfile=", "orchestrator", *listening, *options' in daemon_py


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
    assert arguments[place] == "http://orchestrator-service.default.svc.cluster.local:5000"
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
    daemon = Daemon(tmp_path, *(argument.replace(mount, str(tmp_path / "none")) for argument in arguments))
    try:
        assert daemon.wait(PATIENCE) == 1
        (line,) = [line for line in daemon.output().splitlines() if "--report-oidc" in line]
        assert str(tmp_path / "none") in line
    finally:
        daemon.close()
