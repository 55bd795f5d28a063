"""What docs/SCALING.md tells an operator to do: its overlays for each store, rendered and started; its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestratord.nodes.families import BUILT_IN
from orchestratord.remote_write.sample_row import STALE, SampleRow, SampleRowFormat, row_names
from tests.deployment.test_manifests import ROOT, program
from tests.deployment.test_manifests_overlays import LAST_THREE, pods
from tests.deployment.test_manifests_scale_out import started

DOCUMENT = ROOT / "docs" / "SCALING.md"
#: A kustomization in the document, which says in its first line where it is to be.
EXAMPLE = re.compile(r"^```yaml\n# (k8s/overlays/[\w-]+)/kustomization\.yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall(DOCUMENT.read_text()))
PLAIN = "k8s/overlays/scale-out-prometheus"

Objects = dict[str, dict[str, Any]]


@cache
def example(folder: str) -> Objects:
    """Return what `kubectl apply -k FOLDER` sends once the document's overlay is where it says."""
    with TemporaryDirectory() as home:
        for needed in ("k8s", "etc"):
            shutil.copytree(ROOT / needed, Path(home) / needed)
        (Path(home) / folder).mkdir()
        (Path(home) / folder / "kustomization.yaml").write_text(EXAMPLES[folder])
        kubectl = program("kubectl", "kubernetes-client")
        run = subprocess.run([kubectl, "kustomize", folder], cwd=home, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(run.stdout)}


def test_the_document_has_each_store() -> None:
    """An overlay for each, under names that are not taken."""
    names = ("mimir", "thanos", "victoriametrics-cluster", "victoriametrics-single", "scale-out-prometheus")
    assert list(EXAMPLES) == [f"k8s/overlays/{name}" for name in names]
    assert not [folder for folder in EXAMPLES if (ROOT / folder).exists()]


@pytest.mark.parametrize("version", LAST_THREE)
@pytest.mark.parametrize("folder", EXAMPLES)
def test_schemas_of_the_document(folder: str, version: str) -> None:
    """Each of the last three Kubernetes accepts every object of the document's overlays."""
    for item in example(folder).values():
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize(
    ("folder", "written", "asked"),
    [
        (
            "k8s/overlays/mimir",
            "http://mimir-gateway.mimir.svc.cluster.local/api/v1/push",
            "http://mimir-gateway.mimir.svc.cluster.local/prometheus",
        ),
        (
            "k8s/overlays/thanos",
            "http://thanos-receive.thanos.svc.cluster.local:19291/api/v1/receive",
            "http://thanos-query.thanos.svc.cluster.local:9090",
        ),
        (
            "k8s/overlays/victoriametrics-cluster",
            "http://vminsert.victoriametrics.svc.cluster.local:8480/insert/0/prometheus/api/v1/write",
            "http://vmselect.victoriametrics.svc.cluster.local:8481/select/0/prometheus",
        ),
        (
            "k8s/overlays/victoriametrics-single",
            "http://victoriametrics.victoriametrics.svc.cluster.local:8428/api/v1/write",
            "http://victoriametrics.victoriametrics.svc.cluster.local:8428",
        ),
        (
            PLAIN,
            "http://prometheus-service:9090/api/v1/write",
            "http://prometheus-service:9090",
        ),
    ],
)
def test_the_document_reaches_its_stores(
    folder: str, written: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon takes each overlay's settings: it writes and asks where that store is, and the policy allows it."""
    objects = example(folder)
    told = started(objects, monkeypatch)
    assert (told.remote_write, told.prometheus) == (written, (asked,))
    assert "$" not in repr(told)
    labels = dict(told.external_label)
    assert labels["job"] == "orchestrator"
    assert labels.get("cluster", "blue") == "blue"
    # One tenant, for both ways.
    assert told.remote_write_header == told.prometheus_header
    assert dict(told.remote_write_header) == ({"X-Scope-OrgID": "blue"} if folder.endswith("mimir") else {})
    if folder == PLAIN:
        assert "NetworkPolicy/orchestrator-to-store" not in objects
        return
    namespace = written.split(".")[1]
    (rule,) = objects["NetworkPolicy/orchestrator-to-store"]["spec"]["egress"]
    (peer,) = rule["to"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def test_prometheus_as_the_store(tmp_path: Path) -> None:
    """It takes remote write, in any order within half an hour, scrapes the replicas alone, and keeps its data."""
    objects = example(PLAIN)
    pod = pods(objects)["Deployment/prometheus"]
    (container,) = pod["containers"]
    assert "--web.enable-remote-write-receiver" in container["args"]
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "prometheus-data"}]
    text = objects["ConfigMap/prometheus-config"]["data"]["prometheus.yml"]
    config = yaml.safe_load(text)
    assert config["storage"]["tsdb"]["out_of_order_time_window"] == "30m"
    (job,) = config["scrape_configs"]
    service = objects["Service/orchestrator-replicas"]
    (port,) = service["spec"]["ports"]
    host = service["metadata"]["name"]
    assert job["job_name"] == "orchestrator"
    assert [(one["type"], one["names"]) for one in job["dns_sd_configs"]] == [("SRV", [f"_{port['name']}._tcp.{host}"])]
    # As the document has it for a Prometheus of one's own.
    (own,) = re.findall(r"^```\n(storage:\n.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for key, value in yaml.safe_load(own).items():
        if key == "scrape_configs":
            del job["dns_sd_configs"][0]["refresh_interval"]
        assert config[key] == value
    for mounted in ("/etc/prometheus-rules", "/etc/prometheus-token"):
        here = tmp_path / Path(mounted).name
        here.mkdir()
        text = text.replace(mounted, str(here))
    (tmp_path / "prometheus-token" / "scrape").write_text("x" * 16)
    (tmp_path / "prometheus.yml").write_text(text)
    check = [program("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yml")]
    run = subprocess.run(check, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_alerts_of_the_document_exist() -> None:
    """Each that it names is among the rules, and all that are about delivery are named."""
    _, _, section = DOCUMENT.read_text().partition("## What to alert on\n")
    named = set(re.findall(r"\[(Orchestrator\w+)\]", section.partition("\n## ")[0]))
    groups = yaml.safe_load((ROOT / "etc/prometheus/rules.yml").read_text())["groups"]
    alerts = {rule["alert"]: group["name"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert named - alerts.keys() == set()
    assert {name for name, group in alerts.items() if group == "orchestrator-delivery"} - named == set()


@pytest.mark.parametrize("name", ["node-00042", "ip-10-31-112-207.ec2.internal"])
def test_the_size_of_a_report_in_the_spool(name: str) -> None:
    """As the table has it: 81 bytes and the name."""
    names = row_names(BUILT_IN)
    assert len(SampleRowFormat(names).row(SampleRow(name.encode(), 0, STALE * len(names)))) == 81 + len(name)
    assert "| in the spool | 91 to 110 | 81 and the node's name (10 to 29 characters)" in DOCUMENT.read_text()
