"""The command lines of `k8s/overlays/scale-out`, and of docs/SCALING.md's Prometheus as its store, really run."""

from __future__ import annotations

from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.deployment.test_manifests import rendered
from tests.deployment.test_manifests_overlays import SCALE_OUT, orchestrator, pods
from tests.documents.test_scaling_document import PLAIN, example
from tests.integration.daemon import LOOPBACK, PATIENCE, Daemon, Server, free_port, report, until
from tests.integration.test_manifests_run import bearer, configured, mapped, probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


def replica(objects: dict[str, dict[str, Any]], store: str, home: Path) -> Daemon:
    """Return a replica as its container starts it, but for the value of STORE and the port."""
    pod = orchestrator(objects)
    (container,) = pod["containers"]
    (entry,) = [entry for entry in container["env"] if entry["name"] == "STORE"]
    env = [{**one, "value": store} if one is entry else one for one in container["env"]]
    arguments, variables = mapped({**pod, "containers": [{**container, "env": env}]}, home)
    return Daemon(home / "daemon", *arguments, env=variables, listen=LOOPBACK)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Daemon]:
    """Give a replica whose store is away."""
    daemon = replica(rendered(SCALE_OUT), f"http://127.0.0.1:{free_port()}", tmp_path)
    try:
        yield daemon.started()
    finally:
        daemon.close()


def test_a_replica_runs_without_its_store(alone: Daemon) -> None:
    """Probes succeed, reports are taken, /metrics leaves the nodes out, and at SIGTERM it serves on for a while."""
    pod = orchestrator(rendered(SCALE_OUT))
    (container,) = pod["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert probe(alone, container, name) == 200
    body = report("node-1", page_faults=7)
    assert alone.post(body).status_code == 401
    assert alone.post(body, headers=bearer(pod, "report")).status_code == 200
    scrape = alone.get("/metrics", headers=bearer(pod, "scrape"))
    assert scrape.status_code == 200
    assert 'node_id="node-1"' not in scrape.text
    alone.signal(SIGTERM)
    until(lambda: probe(alone, container, "readinessProbe") == 503, "not ready any more")
    assert probe(alone, container, "livenessProbe") == 200
    assert alone.post(body, headers=bearer(pod, "report")).status_code == 200
    # A second signal cuts the drain delay short, which has a test of its own.
    alone.signal(SIGTERM)
    alone.stop()


def test_prometheus_as_the_store_runs(tmp_path: Path) -> None:
    """Prometheus' command line starts, it has what was reported, and scrapes a replica with its token."""
    objects = example(PLAIN)
    port = free_port()
    daemon = replica(objects, f"http://127.0.0.1:{port}", tmp_path)
    home = tmp_path / "prometheus"
    home.mkdir()
    prometheus = None
    try:
        daemon.started()
        arguments, _ = mapped(pods(objects)["Deployment/prometheus"], home)
        configured(objects, home, daemon.port)
        url = f"http://127.0.0.1:{port}"
        prometheus = Server(("prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"), home / "run")

        def is_up() -> bool:
            try:
                answer = requests.get(f"{url}/api/v1/query", {"query": "up == 1"}, timeout=PATIENCE)
            except requests.ConnectionError:
                return False
            return answer.status_code == 200 and len(answer.json()["data"]["result"]) == 1

        until(is_up, f"a scrape: {prometheus.output()}", 60)
        pod = orchestrator(objects)
        assert daemon.post(report("node-1", page_faults=7), headers=bearer(pod, "report")).status_code == 200

        def delivered() -> list[Any]:
            answer = daemon.get("/query", {"q": 'page_faults{job="orchestrator"}'}, headers=bearer(pod, "query"))
            return [sample["value"][1] for sample in answer.json()["data"]["result"]]

        assert until(delivered, f"a report in the store: {daemon.output()}") == ["7"]
        assert daemon.get("/nodes", headers=bearer(pod, "query")).json() == {"nodes": ["node-1"]}
        answer = daemon.get("/query", {"q": 'up{job="orchestrator"}'}, headers=bearer(pod, "query"))
        assert [sample["value"][1] for sample in answer.json()["data"]["result"]] == ["1"]
        daemon.signal(SIGTERM)
        daemon.signal(SIGTERM)
        daemon.stop()
    finally:
        daemon.close()
        if prometheus is not None:
            prometheus.close()
