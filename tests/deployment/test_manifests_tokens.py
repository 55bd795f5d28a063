"""What the components `tokens` and `node-tokens` make of the manifests, once they are uncommented as the files say."""

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

from orchestratord.config.loader import load
from orchestratord.profiler import tap as profiler_tap
from orchestratord.security.gate import Role
from tests.deployment.test_manifests import ROOT, program, rendered

EACH = [("tokens",), ("node-tokens",), ("tokens", "node-tokens")]
ORCHESTRATOR, PROMETHEUS, PROFILER = (
    "Deployment/orchestrator",
    "Deployment/prometheus",
    "DaemonSet/orchestrator-profiler",
)


@cache
def with_components(folder: str, components: tuple[str, ...], *, begun: bool = False) -> dict[str, dict[str, Any]]:
    """Return what `kubectl apply -k FOLDER` sends with these lines uncommented; `begun`: the list is there already."""
    with TemporaryDirectory() as home:
        for needed in ("k8s", "etc"):
            shutil.copytree(ROOT / needed, Path(home) / needed)
        file = Path(home) / folder / "kustomization.yaml"
        text = file.read_text()
        lines = [f"# {'' if begun else '  '}- {name}\n" for name in components] + ([] if begun else ["# components:\n"])
        for line in lines:
            assert text.count(line) == 1
            text = text.replace(line, line.removeprefix("# "))
        file.write_text(text)
        kubectl = program("kubectl", "kubernetes-client")
        run = subprocess.run([kubectl, "kustomize", folder], cwd=home, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(run.stdout)}


def pod(objects: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    spec: dict[str, Any] = objects[name]["spec"]["template"]["spec"]
    return spec


def given(arguments: list[str]) -> dict[str, list[str]]:
    """Return the values of the options that are given as --NAME=VALUE."""
    values: dict[str, list[str]] = {}
    for name, value in (
        argument[2:].split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument
    ):
        values.setdefault(name, []).append(value)
    return values


def mounted(spec: dict[str, Any], volume: str) -> str:
    """Return where the one container has a volume, which it may only read."""
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == volume]
    assert mount["readOnly"] is True
    path: str = mount["mountPath"]
    return path


def volume(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a volume."""
    (found,) = [one for one in spec["volumes"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("folder", "components"),
    [(folder, which) for folder in ("k8s", "k8s/profiler") for which in EACH[:2]] + [("k8s", EACH[2])],
)
def test_schemas(folder: str, components: tuple[str, ...]) -> None:
    """Every object is accepted by the newest Kubernetes' schema, and none of those without a component has gone."""
    objects = with_components(folder, components)
    for item in objects.values():
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    assert objects.keys() >= rendered(folder).keys()
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"default"}


@pytest.mark.parametrize("components", EACH)
def test_the_daemon_takes_its_options(components: tuple[str, ...]) -> None:
    """Those that the manifests give are settings, beside those that there were."""
    container = pod(with_components("k8s", components), ORCHESTRATOR)["containers"][0]
    arguments = container["args"]
    before = pod(rendered("k8s"), ORCHESTRATOR)["containers"][0]["args"]
    assert arguments[: len(before)] == before
    options = given(arguments[len(before) :])
    flags: dict[str, Any] = {name: values if name == "token-file" else values[0] for name, values in options.items()}
    environ = {variable["name"]: variable.get("value", "") for variable in container.get("env", ())}
    settings = load(flags, {"HOME": "/h", **environ})
    assert bool(settings.token_file) == ("tokens" in components)
    assert bool(settings.report_oidc_jwks) == ("node-tokens" in components)


def test_every_role_is_shut() -> None:
    """With a file of the Secret for each, readable by the daemon's group alone."""
    spec = pod(with_components("k8s", ("tokens",)), ORCHESTRATOR)
    path = mounted(spec, "tokens")
    files = given(spec["containers"][0]["args"])["token-file"]
    assert files == [f"{role}={path}/{role}" for role in Role]
    assert volume(spec, "tokens")["secret"] == {"secretName": "orchestrator-tokens", "defaultMode": 0o440}


def test_prometheus_shows_its_token(tmp_path: Path) -> None:
    """And has no other; but for that, it is configured as without."""
    objects = with_components("k8s", ("tokens",))
    text = objects["ConfigMap/prometheus-config"]["data"]["prometheus.yml"]
    config = yaml.safe_load(text)
    file = config["scrape_configs"][0].pop("authorization")["credentials_file"]
    assert config == yaml.safe_load(rendered("k8s")["ConfigMap/prometheus-config"]["data"]["prometheus.yml"])
    spec = pod(objects, PROMETHEUS)
    assert file == f"{mounted(spec, 'token')}/scrape"
    secret = volume(spec, "token")["secret"]
    assert secret["secretName"] == "orchestrator-client-tokens"
    assert secret["items"] == [{"key": "scrape", "path": "scrape"}]
    (tmp_path / "prometheus.yml").write_text(text)
    check = [program("promtool", "prometheus"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    run = subprocess.run(check, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("component", ["tokens", "node-tokens"])
def test_the_profiler_shows_its_token(component: str) -> None:
    """From where the volume has it, an option that it knows, and gets no token for the cluster's API."""
    objects = with_components("k8s/profiler", (component,))
    spec = pod(objects, PROFILER)
    name = {"tokens": "token", "node-tokens": "node-token"}[component]
    (file,) = given(spec["containers"][0]["args"])["token-file"]
    assert Path(file).parent == Path(mounted(spec, name))
    assert [option[0] for option in profiler_tap.Options.optParameters].count("token-file") == 1
    assert spec["automountServiceAccountToken"] is False
    if component == "tokens":
        assert volume(spec, name)["secret"]["items"] == [{"key": "report", "path": Path(file).name}]
    else:
        ((source,),) = [volume(spec, name)["projected"]["sources"]]
        assert source["serviceAccountToken"]["path"] == Path(file).name
        assert objects[f"ServiceAccount/{spec['serviceAccountName']}"]["automountServiceAccountToken"] is False


def test_both_sides_mean_the_same_tokens() -> None:
    """The audience that the kubelet puts in is the one that the orchestrator wants."""
    profiler = pod(with_components("k8s/profiler", ("node-tokens",)), PROFILER)
    (source,) = volume(profiler, "node-token")["projected"]["sources"]
    spec = pod(with_components("k8s", ("node-tokens",)), ORCHESTRATOR)
    variables = {variable["name"]: variable.get("value", "") for variable in spec["containers"][0]["env"]}
    assert variables["ORCHESTRATOR_OIDC_AUDIENCE"] == source["serviceAccountToken"]["audience"]
    path = mounted(spec, "issuer")
    sources = volume(spec, "issuer")["projected"]["sources"]
    token, authority = sources[0]["serviceAccountToken"]["path"], sources[1]["configMap"]["items"][0]["path"]
    assert variables["ORCHESTRATOR_OIDC_CREDENTIALS_FILE"] == f"{path}/{token}"
    assert variables["ORCHESTRATOR_OIDC_CA_FILE"] == f"{path}/{authority}"


def test_no_token_is_in_the_tree() -> None:
    """The Secrets are made by who installs it: none is among the files."""
    for file in (ROOT / "k8s").rglob("*.yaml"):
        assert not re.search(r"^kind: Secret$", file.read_text(), re.MULTILINE), file
