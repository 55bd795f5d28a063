"""What `kubectl apply -k` would create of every folder in k8s/: valid, secure, and consistent with itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator_models
from kubernetes_validate.utils import all_versions

from orchestratord.config import loader
from orchestratord.runtime.memory_limit import CLEAR_BYTES, TLS_PART
from orchestratord.web.server.slow_readers import WAITING_BYTES
from tests.deployment.test_manifests import ROOT, program, rendered
from tests.deployment.test_manifests_tokens import with_components

PRODUCTION, OPERATOR, DEV, PROFILER, SCALE_OUT = (
    f"k8s/overlays/{name}" for name in ("production", "operator", "dev", "profiler", "scale-out")
)
FOLDERS = ("k8s", "k8s/base", "k8s/prometheus", "k8s/profiler", DEV, OPERATOR, PRODUCTION, PROFILER, SCALE_OUT)
#: What is applied together in production, with a Prometheus of ours.
TOGETHER = (PRODUCTION, PROFILER)
LAST_THREE = sorted(set(all_versions()), key=lambda text: [int(part) for part in text.split(".")])[-3:]
#: Of the Prometheus Operator, not of Kubernetes.
OPERATORS_KINDS = {"ServiceMonitor", "PrometheusRule"}
CLUSTER_WIDE = {"PriorityClass"}

Pod = dict[str, Any]
Objects = dict[str, dict[str, Any]]


def of_kind(objects: Objects, kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind."""
    return [item for item in objects.values() if item["kind"] == kind]


def templates(objects: Objects) -> dict[str, dict[str, Any]]:
    """Return the template of each workload's pods."""
    return {name: item["spec"]["template"] for name, item in objects.items() if "template" in item.get("spec", {})}


def pods(objects: Objects) -> dict[str, Pod]:
    """Return the specification of each workload's pods; those of a StatefulSet as its first one has them."""
    found: dict[str, Pod] = {}
    for name, template in templates(objects).items():
        claims = [one["metadata"]["name"] for one in objects[name]["spec"].get("volumeClaimTemplates", ())]
        own = [{"name": one, "persistentVolumeClaim": {"claimName": f"{one}-orchestrator-0"}} for one in claims]
        found[name] = {**template["spec"], "volumes": [*template["spec"].get("volumes", ()), *own]}
    return found


def orchestrator(objects: Objects) -> Pod:
    """Return the specification of the orchestrator's pods, one or many."""
    (found,) = [pod for name, pod in pods(objects).items() if name.endswith("/orchestrator")]
    return found


def together(*folders: str) -> Objects:
    """Return what several folders create, one after the other."""
    objects: Objects = {}
    for folder in folders:
        objects |= rendered(folder)
    return objects


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a label selector, of equalities and `In`, is true of labels."""
    assert {expression["operator"] for expression in selector.get("matchExpressions", ())} <= {"In"}
    return labels.items() >= selector.get("matchLabels", {}).items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", ())
    )


def selected(objects: Objects, selector: dict[str, Any]) -> set[str]:
    """Return the workloads whose pods a selector selects."""
    return {name for name, template in templates(objects).items() if selects(selector, template["metadata"]["labels"])}


def test_every_folder_is_looked_at() -> None:
    """A kustomization that is new is tested by being named here."""
    files = (ROOT / "k8s").rglob("kustomization.yaml")
    found = {str(file.parent.relative_to(ROOT)) for file in files if "kind: Kustomization" in file.read_text()}
    assert found == set(FOLDERS)


@pytest.mark.parametrize("version", LAST_THREE)
@pytest.mark.parametrize("folder", FOLDERS)
def test_schemas(folder: str, version: str) -> None:
    """Each of the last three Kubernetes accepts every object, with no field that it does not know."""
    assert len(LAST_THREE) == 3
    for item in rendered(folder).values():
        if item["kind"] not in OPERATORS_KINDS:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("kind", sorted(OPERATORS_KINDS))
def test_the_operators_kinds(kind: str) -> None:
    """The operator's own definitions accept ours, and know every field that we set."""
    (item,) = of_kind(rendered(OPERATOR), kind)
    model = getattr(operator_models, kind).model_validate(item)
    assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == item


@pytest.mark.parametrize("folder", FOLDERS)
def test_namespace(folder: str) -> None:
    """Everything is where the programs in the field look for it."""
    for item in rendered(folder).values():
        assert item["metadata"].get("namespace") == (None if item["kind"] in CLUSTER_WIDE else "default")


@pytest.mark.parametrize("folder", FOLDERS)
def test_another_namespace(folder: str, tmp_path: Path) -> None:
    """`namespace:` in an overlay moves all of it: no value names the one that it was written for."""
    overlay = {"namespace": "elsewhere", "resources": [os.path.relpath(ROOT / folder, tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    text = subprocess.run(
        [program("kubectl", "kubernetes-client"), "kustomize", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for item in yaml.safe_load_all(text):
        assert item["metadata"].get("namespace") == (None if item["kind"] in CLUSTER_WIDE else "elsewhere")
    # The API server's own service stays where it is.
    assert re.findall(r".*\bdefault\.svc\b.*", text.replace("kubernetes.default.svc", "")) == []
    assert re.findall(r"^ *namespace: default$", text, re.MULTILINE) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_restricted(folder: str) -> None:
    """Every pod keeps to the "restricted" profile of the Pod Security Standards; the profiler only where it must not.

    bpftrace insists on root, and needs two capabilities and the node's tracepoints. On a laptop it also may read /proc.
    """
    for name, pod in pods(rendered(folder)).items():
        profiler = name == "DaemonSet/orchestrator-profiler"
        assert pod["securityContext"]["seccompProfile"]["type"] in {"RuntimeDefault", "Localhost"}
        forbidden = {"hostNetwork", "hostIPC", "hostPID", "initContainers", "ephemeralContainers"} & pod.keys()
        assert forbidden == ({"hostPID"} if profiler and folder == DEV else set())
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert kinds - allowed == ({"hostPath"} if profiler else set())
        if not profiler:
            assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert not context.get("privileged", False)
            assert context["capabilities"]["drop"] == ["ALL"]
            added = ({"BPF", "PERFMON"} | ({"SYS_PTRACE"} if folder == DEV else set())) if profiler else set()
            assert set(context["capabilities"].get("add", ())) == added
            assert "seccompProfile" not in context
            assert not any("hostPort" in port for port in container.get("ports", ()))
            # More than the profile asks for.
            assert context["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"].keys() == {"memory"}


@pytest.mark.parametrize("folder", [PRODUCTION, OPERATOR, SCALE_OUT])
def test_tokens(folder: str) -> None:
    """Each role is shut."""
    arguments = orchestrator(rendered(folder))["containers"][0]["args"]
    shut = {argument.split("=")[1] for argument in arguments if argument.startswith("--token-file=")}
    assert shut == {"report", "query", "scrape", "admin"}
    assert pods(rendered(PROFILER))["DaemonSet/orchestrator-profiler"]["containers"][0]["args"][-1].startswith(
        "--token-file="
    )


def test_every_pod_has_a_policy() -> None:
    """In production, with the profiler, no pod is open to all, or may reach all."""
    objects = together(*TOGETHER)
    for way in ("Ingress", "Egress"):
        guarded: set[str] = set()
        for policy in of_kind(objects, "NetworkPolicy"):
            if way in policy["spec"]["policyTypes"]:
                guarded |= selected(objects, policy["spec"]["podSelector"])
        assert guarded == pods(objects).keys()


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("Deployment/orchestrator", "Deployment/prometheus", 9090),
        ("Deployment/prometheus", "Deployment/orchestrator", 5000),
        ("DaemonSet/orchestrator-profiler", "Deployment/orchestrator", 5000),
    ],
)
def test_the_ways_that_are_needed(source: str, target: str, port: int) -> None:
    """The policies let through what works without them: out at one end, in at the other."""
    objects = together(*TOGETHER)
    (container,) = pods(objects)[target]["containers"]
    (name,) = [one["name"] for one in container["ports"] if one["containerPort"] == port]

    def lets(who: str, way: str, other: str) -> bool:
        rules = [
            rule
            for policy in of_kind(objects, "NetworkPolicy")
            if who in selected(objects, policy["spec"]["podSelector"])
            for rule in policy["spec"].get(way, ())
        ]
        peers = {"ingress": "from", "egress": "to"}[way]
        return any(
            {"port": name, "protocol": "TCP"} in rule["ports"]
            and (peers not in rule or any(other in selected(objects, peer["podSelector"]) for peer in rule[peers]))
            for rule in rules
        )

    assert lets(source, "egress", target)
    assert lets(target, "ingress", source)


def test_names_are_found() -> None:
    """Every policy for outward ways, but those that only add one, lets DNS through."""
    for policy in of_kind(together(*TOGETHER), "NetworkPolicy"):
        if "Ingress" in policy["spec"]["policyTypes"]:
            names = [{"port": port, "protocol": protocol} for port in (53, 5353) for protocol in ("UDP", "TCP")]
            assert {"ports": names} in policy["spec"]["egress"]


def test_nobody_but_the_orchestrator_asks_prometheus() -> None:
    """What is shut at the orchestrator is not open next door."""
    objects = together(*TOGETHER)
    rules = [
        rule
        for policy in of_kind(objects, "NetworkPolicy")
        if "Deployment/prometheus" in selected(objects, policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", ())
    ]
    reached = [selected(objects, peer["podSelector"]) for rule in rules for peer in rule["from"]]
    assert reached == [{"Deployment/orchestrator"}]


@pytest.mark.parametrize("folder", [PRODUCTION, OPERATOR])
def test_drains(folder: str) -> None:
    """A drain takes one of orchestrator and Prometheus at a time, and is never stuck: each has one pod."""
    objects = together(folder, PROFILER)
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    both = {name for name in pods(objects) if name.startswith("Deployment/")}
    assert selected(objects, budget["spec"]["selector"]) == both
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]
    assert {objects[name]["spec"]["replicas"] for name in both} == {1}


@pytest.mark.parametrize("folder", [PRODUCTION, OPERATOR])
def test_spread_and_priority(folder: str) -> None:
    """Orchestrator and Prometheus keep apart where they can, are placed first, and give a silent node up soon."""
    objects = together(folder, PROFILER)
    (priority,) = of_kind(objects, "PriorityClass")
    for name, pod in pods(objects).items():
        assert pod["priorityClassName"] == priority["metadata"]["name"]
        if name.startswith("Deployment/"):
            for constraint in pod["topologySpreadConstraints"]:
                # Something that only waits for a place would be worse than two in one place.
                assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
                assert selected(objects, constraint["labelSelector"]) == {
                    other for other in pods(objects) if other.startswith("Deployment/")
                }
    waits = [entry["tolerationSeconds"] for entry in pods(objects)["Deployment/orchestrator"]["tolerations"]]
    assert waits == [30, 30]


def measured(pattern: str) -> float:
    """Return a figure of our own from BENCHMARKS.md: the second column of the first row that begins so."""
    (figure, *_) = re.findall(rf"^\| {pattern}[^|]*\| ([\d,.]+) ", (ROOT / "BENCHMARKS.md").read_text(), re.MULTILINE)
    return float(figure.replace(",", ""))


@pytest.mark.parametrize("folder", [PRODUCTION, OPERATOR])
def test_resources_by_the_benchmarks(folder: str) -> None:
    """The request is twice what 5,000 nodes take by BENCHMARKS.md; a full table fits, with room for answers."""
    (container,) = pods(rendered(folder))["Deployment/orchestrator"]["containers"]
    nodes = 5000
    load = (
        nodes / 10 / measured("reports, a connection each")
        + measured("scrape, 5,000 nodes") / 1000 / 5
        + 50 / measured("/query, distinct, 16 connections")
    )
    assert 1000 * load * 2 <= int(container["resources"]["requests"]["cpu"].removesuffix("m"))
    (most,) = [int(one.split("=")[1]) for one in container["args"] if one.startswith("--max-nodes=")]
    assert most >= 2 * nodes
    table = most * measured("RSS at 100,000 nodes over the empty daemon") * 1000
    assert container["resources"]["requests"]["memory"] == "256Mi"
    assert 60e6 + table <= 256 * 2**20 / 2
    # All that docs/SECURITY.md lists, at its bound: what arrives, answers and one more, connections, scrapes. And
    # as much again, for what Python keeps.
    bounds = loader.load({}, {})
    bounded = bounds.max_arriving_bytes + bounds.max_answers_bytes + bounds.max_answer_bytes
    bounded += bounds.max_connections * CLEAR_BYTES + 10 * 4_000_000 + WAITING_BYTES
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert 2 * (60e6 + table + bounded) <= 2**30
    # With a listener in TLS, which none of ours has, another quarter is for its connections.
    assert 1.5 * (60e6 + table + bounded) <= (1 - 1 / TLS_PART) * 2**30


def test_prometheus_keeps_its_data() -> None:
    """On a claim of its own, which two never have at a time, and whose size it stays under."""
    objects = rendered(PRODUCTION)
    claim = objects["PersistentVolumeClaim/prometheus-data"]["spec"]
    pod = pods(objects)["Deployment/prometheus"]
    (volume,) = [one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"--storage.tsdb.path={mounts[volume]}" in container["args"]
    assert objects["Deployment/prometheus"]["spec"]["strategy"] == {"type": "Recreate"}
    (size,) = [one.split("=")[1] for one in container["args"] if one.startswith("--storage.tsdb.retention.size=")]
    assert int(size.removesuffix("GB")) <= 0.8 * int(claim["resources"]["requests"]["storage"].removesuffix("Gi"))


@pytest.mark.parametrize("folder", [PRODUCTION, OPERATOR, SCALE_OUT])
def test_node_tokens_go_with_it(folder: str) -> None:
    """Uncommented, `node-tokens` brings its options, and the way to the API server that the policy would shut."""
    text = (ROOT / folder / "kustomization.yaml").read_text()
    assert text.count("  # - ../../node-tokens\n") == 1
    objects = with_components(folder, ("../../node-tokens",), begun=True)
    variables = {
        variable["name"]: variable.get("value", "") for variable in orchestrator(objects)["containers"][0]["env"]
    }
    assert variables["ORCHESTRATOR_OIDC_JWKS"] == "https://kubernetes.default.svc/openid/v1/jwks"
    ports = [
        {port["port"] for port in rule["ports"]} for rule in objects["NetworkPolicy/orchestrator"]["spec"]["egress"]
    ]
    assert {443, 6443} in ports


def test_the_rules_are_one() -> None:
    """The operator gets the rules that were tested: `make rules` brings them over."""
    (item,) = of_kind(rendered(OPERATOR), "PrometheusRule")
    assert item["spec"] == yaml.safe_load((ROOT / "etc/prometheus/rules.yml").read_text()), "run `make rules`"


def test_the_operator_scrapes() -> None:
    """The ServiceMonitor finds the service and its port, has the token, and names the job as the rules do."""
    objects = rendered(OPERATOR)
    (monitor,) = of_kind(objects, "ServiceMonitor")
    service = objects["Service/orchestrator-service"]
    assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]}[endpoint["port"]] == 5000
    assert (endpoint["interval"], endpoint["path"]) == ("5s", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "orchestrator-client-tokens", "key": "scrape"}
    (label,) = endpoint["relabelings"]
    assert f'{label["targetLabel"]}="{label["replacement"]}"' in (ROOT / "etc/prometheus/rules.yml").read_text()


def test_the_operators_prometheus_is_reached() -> None:
    """The upstream's namespace and port are those that the policy lets through."""
    objects = rendered(OPERATOR)
    arguments = pods(objects)["Deployment/orchestrator"]["containers"][0]["args"]
    upstream = arguments[arguments.index("--prometheus") + 1]
    (rule,) = objects["NetworkPolicy/orchestrator-to-prometheus"]["spec"]["egress"]
    (peer,) = rule["to"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    match = re.fullmatch(rf"http://[a-z-]+\.{namespace}\.svc\.cluster\.local:(\d+)", upstream)
    assert match
    assert rule["ports"] == [{"port": int(match[1]), "protocol": "TCP"}]


def test_dev_runs_anywhere() -> None:
    """On the one node of a laptop: no node is asked for, and /proc will do where there are no tracepoints."""
    objects = rendered(DEV)
    assert "affinity" not in pods(objects)["Deployment/orchestrator"]
    (profiler,) = pods(objects)["DaemonSet/orchestrator-profiler"]["containers"]
    assert profiler["args"][profiler["args"].index("--source") + 1] == "auto"
    requests = sum(
        int(pod["containers"][0]["resources"]["requests"]["memory"].removesuffix("Mi"))
        for pod in pods(objects).values()
    )
    assert requests <= 512


@pytest.mark.parametrize("folder", ["k8s", DEV, PRODUCTION])
def test_prometheus_configurations(folder: str, tmp_path: Path) -> None:
    """Promtool accepts each of them, with the tested rules and the token where the configuration looks for them."""
    objects = rendered(folder)
    (rules,) = [item["data"] for name, item in objects.items() if name.startswith("ConfigMap/prometheus-rules")]
    text = objects["ConfigMap/prometheus-config"]["data"]["prometheus.yml"]
    for mounted, content in (("/etc/prometheus-rules", rules), ("/etc/prometheus-token", {"scrape": "x" * 16})):
        here = tmp_path / Path(mounted).name
        here.mkdir()
        text = text.replace(mounted, str(here))
        for name, data in content.items():
            (here / name).write_text(data)
    (tmp_path / "prometheus.yml").write_text(text)
    check = [program("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yml")]
    run = subprocess.run(check, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 rule files found" in run.stdout
