"""`k8s/overlays/scale-out`: many orchestrators side by side, whose spools outlive their pods."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import yaml

from orchestratord.remote_write.delivery import LAST_SECONDS
from orchestratord.runtime.memory_limit import CLEAR_BYTES
from orchestratord.tap import Options
from orchestratord.web.server.slow_readers import WAITING_BYTES
from tests.deployment.test_manifests import DATA_DIR, ROOT, rendered
from tests.deployment.test_manifests_overlays import (
    OPERATOR,
    PRODUCTION,
    SCALE_OUT,
    measured,
    of_kind,
    pods,
    selected,
    selects,
)

if TYPE_CHECKING:
    import pytest

    from orchestratord.config.settings import Settings

Objects = dict[str, dict[str, Any]]

NAME = "StatefulSet/orchestrator"
#: A reference in a value, as Kubernetes has it: `$(NAME)`, or `$$` for a dollar sign.
REFERENCE = re.compile(r"\$(?:(\$)|\((\w+)\))")
GIB = 2**30


def expanded(container: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return a container's arguments and variables with the references in them followed, as the kubelet does.

    A variable may refer to those before it, an argument to all; a reference to none of them stays as it is written.
    """
    env: dict[str, str] = {}

    def follow(text: str) -> str:
        return REFERENCE.sub(lambda found: "$" if found[1] else env.get(found[2], found[0]), text)

    for entry in container.get("env", ()):
        if "value" in entry:
            env[entry["name"]] = follow(entry["value"])
    return [follow(argument) for argument in container["args"]], env


def started(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that the daemon makes of its command line and variables, as it would in the container."""
    for variable in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "PROMETHEUS_"))]:
        monkeypatch.delenv(variable)
    (container,) = pods(objects)[NAME]["containers"]
    arguments, env = expanded(container)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    options = Options()
    options.parseOptions(arguments)
    assert options.settings is not None
    return options.settings


def test_references_are_followed_as_kubernetes_does() -> None:
    """What these tests take for Kubernetes' way: in the order of definition, once, and only to what there is."""
    entries = [("B", "$(A)"), ("A", "a"), ("C", "$(A)/$(B)/$$(A)/$(NONE)")]
    container = {"env": [{"name": name, "value": value} for name, value in entries], "args": ["--x=$(B)", "$(C)"]}
    arguments, env = expanded(container)
    assert env == {"B": "$(A)", "A": "a", "C": "a/$(A)/$(A)/$(NONE)"}
    assert arguments == ["--x=$(A)", "a/$(A)/$(A)/$(NONE)"]


def test_one_variable_says_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing and asking both follow STORE, and nothing on the command line goes before them."""
    objects = rendered(SCALE_OUT)
    text = yaml.safe_dump(objects[NAME])
    assert text.count("http://") == 1
    told = started(objects, monkeypatch)
    store = "http://prometheus-service:9090"
    assert told.remote_write == f"{store}/api/v1/write"
    assert told.prometheus == (store,)
    # By which rules and alerts take what is delivered and what is scraped for the same.
    assert told.external_label == (("job", "orchestrator"),)


def test_what_is_the_bases_stays() -> None:
    """But for what the overlay is there for, a replica is what the one orchestrator of production is."""
    single = pods(rendered(PRODUCTION))["Deployment/orchestrator"]
    many = pods(rendered(SCALE_OUT))[NAME]
    changed = {
        "containers",
        "securityContext",
        "terminationGracePeriodSeconds",
        "topologySpreadConstraints",
        "volumes",
    }
    assert {key for key in single | many if single.get(key) != many.get(key)} == changed
    (one,), (other,) = single["containers"], many["containers"]
    assert {key for key in one | other if one.get(key) != other.get(key)} == {"args", "env", "resources"}


def test_replicas() -> None:
    """Three at least; the autoscaler alone says how many, adds soon, and takes away slowly, one at a time."""
    objects = rendered(SCALE_OUT)
    (scaler,) = [item["spec"] for item in of_kind(objects, "HorizontalPodAutoscaler")]
    reference = scaler["scaleTargetRef"]
    assert f"{reference['kind']}/{reference['name']}" == NAME
    assert reference["apiVersion"] == objects[NAME]["apiVersion"]
    # A number there would be set again by each `kubectl apply`.
    assert "replicas" not in objects[NAME]["spec"]
    assert scaler["minReplicas"] == 3
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] == "cpu"
    target = int(metric["resource"]["target"]["averageValue"].removesuffix("m"))
    # A process has one core: with one of three gone, the other two have room.
    assert target * 3 / 2 <= 900
    down = scaler["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 1800
    assert [(policy["type"], policy["value"]) for policy in down["policies"]] == [("Pods", 1)]
    assert scaler["behavior"]["scaleUp"]["stabilizationWindowSeconds"] <= 60


def test_drains_and_places() -> None:
    """A drain takes one replica at a time and is never stuck; they keep apart where they can."""
    objects = rendered(SCALE_OUT)
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert selected(objects, budget["spec"]["selector"]) == {NAME}
    # Two budgets over one pod, and it is never evicted: this one takes the place of production's.
    (other,) = of_kind(rendered(PRODUCTION), "PodDisruptionBudget")
    assert budget["metadata"]["name"] == other["metadata"]["name"]
    constraints = pods(objects)[NAME]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in constraints] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert selected(objects, constraint["labelSelector"]) == {NAME}


def test_an_update_refuses_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """One replica at a time goes: it serves on while the cluster learns of it, and has time to send what it has."""
    spec = rendered(SCALE_OUT)[NAME]["spec"]
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    assert spec["minReadySeconds"] >= 10
    told = started(rendered(SCALE_OUT), monkeypatch)
    (container,) = spec["template"]["spec"]["containers"]
    probe = container["readinessProbe"]
    assert told.drain_delay >= probe["periodSeconds"] + probe["timeoutSeconds"]
    # For answers, and then for what is in the spool.
    needed = told.drain_delay + 2 * told.drain_timeout + LAST_SECONDS
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= needed + 5


def test_the_spool_outlives_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on a volume that is kept, and fits into it: with snapshots beside it, and room for the file system."""
    spec = rendered(SCALE_OUT)[NAME]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    (container,) = spec["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[DATA_DIR] == claim["metadata"]["name"]
    assert claim["metadata"]["name"] not in {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["podManagementPolicy"] == "Parallel"
    told = started(rendered(SCALE_OUT), monkeypatch)
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert told.spool_max_bytes + 200 * told.max_nodes <= 0.85 * int(size.removesuffix("Gi")) * GIB
    # 130,000 nodes at three replicas, for two hours.
    assert told.spool_max_bytes >= 100 * 13_000 / 3 * 7200


def test_memory_by_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica's table may have all nodes: a full one fits what is requested, and all at its bound the limit."""
    (container,) = pods(rendered(SCALE_OUT))[NAME]["containers"]
    told = started(rendered(SCALE_OUT), monkeypatch)
    table = told.max_nodes * measured("RSS at 100,000 nodes over the empty daemon") * 1000
    assert container["resources"]["requests"]["memory"] == "512Mi"
    assert 60e6 + table <= 512 * 2**20
    bounded = told.max_arriving_bytes + told.max_answers_bytes + told.max_answer_bytes
    bounded += told.max_connections * CLEAR_BYTES + 10 * 4_000_000 + WAITING_BYTES
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert 1.5 * (60e6 + table + bounded) <= 2 * GIB
    # As docs/SCALING.md says.
    assert "the memory limit does for 300,000" in " ".join((ROOT / "docs/SCALING.md").read_text().split())
    assert 60e6 + 2 * table + 1.5 * bounded <= 2 * GIB


def test_every_replica_is_found() -> None:
    """By the set's own service, ready or not, which a ServiceMonitor does not take for the other one."""
    objects = rendered(SCALE_OUT)
    service = objects[f"Service/{objects[NAME]['spec']['serviceName']}"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert selected(objects, {"matchLabels": service["spec"]["selector"]}) == {NAME}
    (monitor,) = of_kind(rendered(OPERATOR), "ServiceMonitor")
    assert selects(monitor["spec"]["selector"], objects["Service/orchestrator-service"]["metadata"]["labels"])
    assert not selects(monitor["spec"]["selector"], service["metadata"]["labels"])
