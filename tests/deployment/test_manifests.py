"""What `kubectl apply -k k8s/` and `kubectl apply -k k8s/profiler/` would create, rendered by kubectl itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestratord import __version__
from orchestratord.config.loader import load
from orchestratord.profiler import ebpf
from orchestratord.profiler import tap as profiler_tap
from orchestratord.tap import Options

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("k8s", "k8s/profiler")
DATA_DIR = "/var/lib/orchestratord"
PROMETHEUS = "http://prometheus-service:9090"
ORCHESTRATOR = "http://orchestrator-service:5000"
WORKLOADS = ("Deployment/orchestrator", "Deployment/prometheus", "DaemonSet/orchestrator-profiler")


def program(name: str, package: str) -> str:
    """Return the program's path; without it the test fails, since a manifest not looked at is not known good."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"no {name} on PATH; Debian's package {package} brings it")
    return path


@cache
def rendered(folder: str) -> dict[str, dict[str, Any]]:
    """Return every object that `kubectl apply -k FOLDER` would send, as `Kind/name`."""
    kubectl = program("kubectl", "kubernetes-client")
    run = subprocess.run([kubectl, "kustomize", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    objects = list(yaml.safe_load_all(run.stdout))
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in objects}


def workload(name: str) -> dict[str, Any]:
    """Return a workload's whole specification, as it will be applied."""
    spec: dict[str, Any] = (rendered("k8s") | rendered("k8s/profiler"))[name]["spec"]
    return spec


def without_hash(name: str) -> str:
    """Return an object's name without what kustomize adds to that of a generated one."""
    return re.sub(r"-[a-z0-9]{10}$", "", name)


def pod(name: str) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    spec: dict[str, Any] = workload(name)["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """Return the one container of a workload's pods."""
    (only,) = pod(name)["containers"]
    assert isinstance(only, dict)
    return only


def environment(name: str) -> dict[str, str]:
    """Return the variables that the one container is given as they stand."""
    return {entry["name"]: entry["value"] for entry in container(name).get("env", []) if "value" in entry}


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        (
            "k8s",
            {
                "ConfigMap/prometheus-config",
                "ConfigMap/prometheus-rules",
                "Deployment/orchestrator",
                "Deployment/prometheus",
                "Service/orchestrator-service",
                "Service/prometheus-service",
            },
        ),
        ("k8s/profiler", {"DaemonSet/orchestrator-profiler"}),
    ],
)
def test_rendered_objects(folder: str, names: set[str]) -> None:
    """Each kustomization renders to the objects that it is there for, all of them in the namespace of the field."""
    assert {without_hash(name) for name in rendered(folder)} == names
    assert {item["metadata"]["namespace"] for item in rendered(folder).values()} == {"default"}


@pytest.mark.parametrize("folder", ROOTS)
def test_schemas(folder: str) -> None:
    """Every object is accepted by the newest Kubernetes' schema, with no field that it does not know."""
    version = kubernetes_validate.latest_version()
    for item in rendered(folder).values():
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("folder", ROOTS)
def test_labels(folder: str) -> None:
    """Every object, and every pod, carries the recommended labels."""
    for item in rendered(folder).values():
        labelled = [item["metadata"]]
        if "template" in item.get("spec", {}):
            labelled.append(item["spec"]["template"]["metadata"])
        for metadata in labelled:
            assert metadata["labels"].keys() >= {
                "app.kubernetes.io/name",
                "app.kubernetes.io/component",
                "app.kubernetes.io/part-of",
            }


def test_plain_files() -> None:
    """`kubectl apply -f orchestrator-deployment.yaml -f orchestrator-service.yaml` creates what `-k` does."""
    for file, name in (("deployment", "Deployment/orchestrator"), ("service", "Service/orchestrator-service")):
        plain = yaml.safe_load((ROOT / f"k8s/orchestrator-{file}.yaml").read_text())
        assert plain == rendered("k8s")[name]


def test_orchestrator_service() -> None:
    """Ports 5000 and 9090 of `orchestrator-service` both reach the port on which the daemon listens by default."""
    spec = rendered("k8s")["Service/orchestrator-service"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in container("Deployment/orchestrator")["ports"]}
    assert {port["port"]: ports[port["targetPort"]] for port in spec["ports"]} == {5000: 5000, 9090: 5000}
    assert load({}, {}).listen == ("tcp:5000",)


@pytest.mark.parametrize(
    ("service", "deployment"),
    [
        ("Service/orchestrator-service", "Deployment/orchestrator"),
        ("Service/prometheus-service", "Deployment/prometheus"),
    ],
)
def test_selectors(service: str, deployment: str) -> None:
    """A service reaches the pods of its own deployment and of no other workload."""
    wanted = rendered("k8s")[service]["spec"]["selector"].items()
    reached = [name for name in WORKLOADS if workload(name)["template"]["metadata"]["labels"].items() >= wanted]
    assert reached == [deployment]


@pytest.mark.parametrize("name", WORKLOADS)
def test_own_pods(name: str) -> None:
    """A workload owns its own pods and those of no other workload."""
    wanted = workload(name)["selector"]["matchLabels"].items()
    assert [n for n in WORKLOADS if workload(n)["template"]["metadata"]["labels"].items() >= wanted] == [name]


@pytest.mark.parametrize(
    ("name", "port", "probes"),
    [
        (
            "Deployment/orchestrator",
            5000,
            {"startupProbe": "/-/healthy", "livenessProbe": "/-/healthy", "readinessProbe": "/-/ready"},
        ),
        (
            "Deployment/prometheus",
            9090,
            {"startupProbe": "/-/ready", "livenessProbe": "/-/healthy", "readinessProbe": "/-/ready"},
        ),
    ],
)
def test_probes(name: str, port: int, probes: dict[str, str]) -> None:
    """Each probe asks the path that answers its question, on the port that is served."""
    spec = container(name)
    ports = {entry["name"]: entry["containerPort"] for entry in spec["ports"]}
    assert {probe: spec[probe]["httpGet"]["path"] for probe in probes} == probes
    assert {ports[spec[probe]["httpGet"]["port"]] for probe in probes} == {port}


def test_orchestrator_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own Options take the deployment's arguments, which name the Prometheus that the manifests bring."""
    for variable in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "PROMETHEUS_"))]:
        monkeypatch.delenv(variable)
    options = Options()
    options.parseOptions(container("Deployment/orchestrator")["args"])
    assert options.settings == load(
        {"prometheus": [PROMETHEUS], "drain-delay": "3"}, {"HOME": os.environ.get("HOME", "")}
    )
    assert rendered("k8s")["Service/prometheus-service"]["spec"]["ports"][0]["port"] == 9090


def test_profiler_options() -> None:
    """The profiler's own Options take the daemon set's arguments: the service of the field, and the node's name."""
    spec = container("DaemonSet/orchestrator-profiler")
    fields = {entry["name"]: entry["valueFrom"] for entry in spec["env"] if "valueFrom" in entry}
    assert fields == {"NODE_NAME": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    options = profiler_tap.Options(environ={}, machine=ebpf.Machine(euid=0, which=lambda name: f"/usr/bin/{name}"))
    options.parseOptions([argument.replace("$(NODE_NAME)", "node-1") for argument in spec["args"]])
    given = options.settings
    assert (given.orchestrator, given.node_id, given.source, given.interval) == (ORCHESTRATOR, "node-1", "ebpf", 10)


@pytest.mark.parametrize("name", ["Deployment/orchestrator", "DaemonSet/orchestrator-profiler"])
def test_image_version(name: str) -> None:
    """The manifests run the version that this tree is."""
    assert container(name)["image"].rpartition(":")[2] == __version__


@pytest.mark.parametrize("name", WORKLOADS)
def test_least_privilege(name: str) -> None:
    """No pod has a token, service variables, a host namespace, a root that it can write, or a way to more rights."""
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container(name)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert not context.get("privileged", False)


@pytest.mark.parametrize("name", ["Deployment/orchestrator", "Deployment/prometheus"])
def test_ordinary_user(name: str) -> None:
    """The orchestrator and Prometheus run as a numeric user that is not root, with no capability."""
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["runAsUser"] >= 10000
    assert "add" not in container(name)["securityContext"]["capabilities"]


def test_profiler_privilege() -> None:
    """The profiler is root, as bpftrace demands, with what tracepoints need, no more; it only reads from its node."""
    spec = container("DaemonSet/orchestrator-profiler")
    assert spec["securityContext"]["runAsUser"] == 0
    assert spec["securityContext"]["capabilities"]["add"] == ["BPF", "PERFMON"]
    assert environment("DaemonSet/orchestrator-profiler")["BPFTRACE_BTF"] == "/sys/kernel/btf/vmlinux"
    (volume,) = pod("DaemonSet/orchestrator-profiler")["volumes"]
    (mount,) = spec["volumeMounts"]
    assert volume["hostPath"]["path"] == mount["mountPath"] == str(ebpf.Machine().tracefs)
    assert mount["readOnly"] is True


@pytest.mark.parametrize("name", WORKLOADS)
def test_resources(name: str) -> None:
    """Every container says what it needs and cannot take a node's memory; no CPU limit slows a scrape or placement."""
    resources = container(name)["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}


def test_one_orchestrator() -> None:
    """There is one table, and at an update the new pod is there before the old one goes."""
    spec = workload("Deployment/orchestrator")
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_time_to_stop() -> None:
    """The kubelet waits for the drain delay, which the cluster needs to look elsewhere, and for the drain."""
    arguments = container("Deployment/orchestrator")["args"]
    delay = float(arguments[arguments.index("--drain-delay") + 1])
    assert delay >= 3
    drain = load({}, {}).drain_timeout
    assert pod("Deployment/orchestrator")["terminationGracePeriodSeconds"] >= delay + drain + 5


def test_worker_nodes() -> None:
    """The orchestrator is placed on a node labelled a worker, or on one that is no control plane."""
    affinity = pod("Deployment/orchestrator")["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    role = "node-role.kubernetes.io"
    assert [{(e["key"], e["operator"]) for e in term["matchExpressions"]} for term in terms] == [
        {(f"{role}/worker", "Exists")},
        {(f"{role}/control-plane", "DoesNotExist"), (f"{role}/master", "DoesNotExist")},
    ]


def test_every_node_is_profiled() -> None:
    """The profiler runs on tainted nodes too."""
    assert pod("DaemonSet/orchestrator-profiler")["tolerations"] == [{"operator": "Exists"}]


def test_data_folder() -> None:
    """The one folder that the orchestrator may write is the image's data folder, bounded in size."""
    (mount,) = container("Deployment/orchestrator")["volumeMounts"]
    assert mount["mountPath"] == DATA_DIR
    assert f"ORCHESTRATOR_DATA_DIR={DATA_DIR}" in (ROOT / "Dockerfile").read_text()
    (volume,) = pod("Deployment/orchestrator")["volumes"]
    assert volume["name"] == mount["name"]
    assert "sizeLimit" in volume["emptyDir"]


def test_prometheus_configuration(tmp_path: Path) -> None:
    """Promtool accepts the ConfigMap's configuration, which is mounted where Prometheus is told to look for it."""
    (name, text), *others = rendered("k8s")["ConfigMap/prometheus-config"]["data"].items()
    assert not others
    (tmp_path / name).write_text(text)
    promtool = program("promtool", "prometheus")
    run = subprocess.run(
        [promtool, "check", "config", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    mounts = {mount["name"]: mount["mountPath"] for mount in container("Deployment/prometheus")["volumeMounts"]}
    volumes = {v["configMap"]["name"]: v["name"] for v in pod("Deployment/prometheus")["volumes"] if "configMap" in v}
    assert f"--config.file={mounts[volumes['prometheus-config']]}/{name}" in container("Deployment/prometheus")["args"]


def test_prometheus_rules() -> None:
    """The rules that were tested are those that Prometheus loads; a change of them restarts it."""
    (name,) = [name for name in rendered("k8s") if without_hash(name) == "ConfigMap/prometheus-rules"]
    assert name != "ConfigMap/prometheus-rules"
    assert rendered("k8s")[name]["data"] == {"rules.yml": (ROOT / "etc/prometheus/rules.yml").read_text()}
    (volume,) = [v for v in pod("Deployment/prometheus")["volumes"] if v["name"] == "rules"]
    assert volume["configMap"] == {"name": name.partition("/")[2], "optional": True}
    mounts = {mount["name"]: mount["mountPath"] for mount in container("Deployment/prometheus")["volumeMounts"]}
    config = yaml.safe_load(rendered("k8s")["ConfigMap/prometheus-config"]["data"]["prometheus.yml"])
    assert config["rule_files"] == [f"{mounts['rules']}/*.yml"]


def test_dashboards() -> None:
    """`kubectl apply -k etc/grafana/` brings all of them to the sidecar of Grafana's chart, which goes by the label."""
    (item,) = rendered("etc/grafana").values()
    assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = (ROOT / "etc/grafana/dashboards").glob("*.json")
    assert item["data"] == {path.name: path.read_text() for path in files}


def test_prometheus_discovery() -> None:
    """Prometheus looks every 5 s at what the SRV record of the orchestrator's service names: its port 5000."""
    config = yaml.safe_load(rendered("k8s")["ConfigMap/prometheus-config"]["data"]["prometheus.yml"])
    assert config["global"]["scrape_interval"] == "5s"
    (job,) = config["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    service = rendered("k8s")["Service/orchestrator-service"]
    (port,) = [p for p in service["spec"]["ports"] if p["port"] == 5000]
    assert (discovery["type"], discovery["names"]) == ("SRV", [f"_{port['name']}._tcp.{service['metadata']['name']}"])
