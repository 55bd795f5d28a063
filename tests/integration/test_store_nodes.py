"""/nodes and the pages answered from real stores, into which the test has written what replicas would."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from orchestratord.nodes.families import LAST_REPORT
from orchestratord.remote_write.sample_row import STALE
from tests.integration.daemon import PATIENCE, free_port, report, until
from tests.integration.samples import Sample, write
from tests.integration.stores import Prometheus, VictoriaMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.daemon import Daemon
    from tests.integration.stores import Store

pytestmark = pytest.mark.integration

CLUSTER = 'b"l\\ue'
VALUES = {"page_faults": 52103.0, "fs_write_size_kb": 5210.5, "mem_bytes_allocated": 2.0**63}


def tell(store: Store, node_id: str, at: float, value: float | bytes | None = None, **more: str) -> None:
    """Write a node's samples, or the same value for all of them."""
    samples = [
        Sample({"__name__": name, "node_id": node_id, "cluster": CLUSTER, **more}, own if value is None else value, at)
        for name, own in {**VALUES, LAST_REPORT: round(at * 1000) / 1000}.items()
    ]
    write(store.receiver, samples)


@pytest.fixture(params=[Prometheus, VictoriaMetrics])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each of the stores."""
    store: Store = request.param(tmp_path / "store")
    try:
        store.start()
        yield store
    finally:
        store.close()


def test_nodes_are_what_the_store_knows(start: Callable[..., Daemon], store: Store) -> None:
    """From every replica the same: the fresh ones of this cluster, not scraped ones, and ended ones not any more."""
    options = ("--prometheus", store.url, "--remote-write", store.receiver, "--stale-after", "280")
    label = ("--external-label", f"cluster={CLUSTER}")
    replicas = [start(*options, *label), start(*options, *label)]
    now = round(time.time(), 3)
    for node_id, at in (("a.b", now - 200), ("ended", now - 2), ("n2", now - 1.5), ("stale", now - 281)):
        tell(store, node_id, at)
    tell(store, "elsewhere", now, cluster="green")
    tell(store, "scraped", now, job="orchestrator", instance="x")
    until(lambda: replicas[0].nodes() == ["a.b", "ended", "n2"], "the nodes that were written")
    assert replicas[1].nodes() == ["a.b", "ended", "n2"]
    for replica in replicas:
        (first, *_) = nodes = replica.get("/nodes?details=true").json()["nodes"]
        assert [node["node_id"] for node in nodes] == ["a.b", "ended", "n2"]
        assert math.isclose(first["last_report"], now - 200, abs_tol=0.002)
        assert 200 <= first["age_seconds"] < 200 + PATIENCE
        assert first["metrics"] == VALUES
        one = replica.get("/nodes/a.b").json()
        assert {**one, "age_seconds": 0, "expires_in_seconds": 0} == {
            **first,
            "age_seconds": 0,
            "expires_in_seconds": 0,
        }
        assert replica.get("/nodes/a-b").status_code == 404
        page = replica.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, 'href="/nodes/a.b"' in page.text) == (200, True)
    tell(store, "ended", time.time(), STALE)
    until(lambda: replicas[0].nodes() == ["a.b", "n2"], "the node to be gone at once")
    assert replicas[1].get("/nodes/ended").status_code == 404
    store.close()
    for path in ("/nodes", "/nodes?details=true", "/nodes/n2"):
        answer = replicas[0].get(path)
        assert (answer.status_code, list(answer.json())) == (502, ["error"])

    def told() -> bool:
        page = replicas[0].get("/", headers={"Accept": "text/html"})
        assert page.status_code == 200
        return "The store does not list the nodes" in page.text

    until(told, "a page that says why there is no picture")


def test_a_long_stale_limit(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Longer than an instant query looks back by itself: VictoriaMetrics is told, which Prometheus 2.42 cannot be."""
    store = VictoriaMetrics(tmp_path / "store")
    try:
        store.start()
        daemon = start(
            *("--prometheus", store.url, "--remote-write", store.receiver, "--stale-after", "900"),
            *("--external-label", f"cluster={CLUSTER}"),
        )
        now = time.time()
        tell(store, "old", now - 800)
        tell(store, "stale", now - 901)
        until(lambda: daemon.nodes() == ["old"], "a node that reported 800 s ago")
    finally:
        store.close()


@pytest.mark.parametrize(("expose", "exposed"), [("auto", False), ("always", True)])
def test_what_is_delivered_is_not_scraped(start: Callable[..., Daemon], expose: str, exposed: bool) -> None:
    """The nodes' families are in no form of /metrics, unless that is wanted; how many there are is."""
    dead = f"http://127.0.0.1:{free_port()}"
    daemon = start("--prometheus", dead, "--remote-write", f"{dead}/api/v1/write", "--expose-nodes", expose)
    daemon.post(report("n1", page_faults=3)).raise_for_status()
    for params, accept in (({}, "*/*"), ({"name[]": "page_faults"}, "*/*"), ({}, "application/openmetrics-text")):
        text = daemon.get("/metrics", params, headers={"Accept": accept}).text
        assert ("page_faults" in text) is exposed
    text = daemon.get("/metrics").text
    assert (LAST_REPORT in text) is exposed
    assert "\norchestrator_nodes 1.0\n" in text
