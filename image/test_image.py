"""The image that `make image` has built: its size, its bill of materials, and the process, run as Kubernetes runs it.

There is no container engine here, so the tests are one: the image's files as a read-only root, mounts where the
manifests have some, a network of its own, and the image's user without a capability.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from orchestratord import __version__
from tests.deployment.test_manifests import rendered
from tests.deployment.test_manifests_overlays import DEV, OPERATOR, PRODUCTION, SCALE_OUT, orchestrator, pods
from tests.deployment.test_manifests_scale_out import expanded
from tests.integration.daemon import ROOT, Server, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILT = ROOT / "build" / "image"
#: Bytes over the base's own.
MOST = 120_000_000
USER = 65532
TOKENS = {role: f"{role}-0123456789abcdef" for role in ("report", "query", "scrape", "admin")}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Give the image's configuration."""
    inspected = BUILT / "inspected.json"
    if not inspected.exists():
        pytest.fail("no image has been built: make test-image")
    found: dict[str, Any] = json.loads(inspected.read_text())["Docker"]["config"]
    return found


def mounting(pod: dict[str, Any], home: Path) -> list[str]:
    """Return the commands that mount a pod's volumes into the image's root, which they then make read-only."""
    root = home / "root"
    commands = [
        f"mount --bind {shlex.quote(str(BUILT / 'files'))} {root}",
        f"mount --bind /proc {root}/proc",
        f"mount --bind /dev {root}/dev",
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        volume, folder = volumes[mount["name"]], home / mount["name"]
        if not folder.exists():
            folder.mkdir()
            if "secret" in volume:
                for role, token in TOKENS.items():
                    (folder / role).write_text(f"{token}\n")
            # As the kubelet does for fsGroup.
            subprocess.run(["chown", "-R", f"0:{pod['securityContext']['fsGroup']}", str(folder)], check=True)
            subprocess.run(["chmod", "-R", "u=rX,g=rX,o=" if "secret" in volume else "g+rwXs", str(folder)], check=True)
        place = f"{root}{mount['mountPath']}"
        # As a container engine does, before the root is read-only.
        (BUILT / "files" / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        commands.append(f"mount --bind {folder} {place}")
        if mount.get("readOnly", False):
            commands.append(f"mount -o remount,bind,ro {folder} {place}")
    return [*commands, f"mount -o remount,bind,ro {root}"]


class Container(Server):
    """The image's process in a pod of a manifest."""

    def __init__(self, home: Path, config: dict[str, Any], pod: dict[str, Any], *more: str) -> None:
        (home / "root").mkdir(parents=True, exist_ok=True)
        (container,) = pod["containers"]
        security = pod["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (USER, USER)
        arguments, own = expanded(container)
        variables = [*config["Env"], *(f"{name}={value}" for name, value in own.items())]
        command = [*config["Entrypoint"], *arguments, *more]
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={security['fsGroup']}"]
        become += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--", "env", "-i", *variables]
        steps = [
            "set -e",
            "ip link set lo up",
            *mounting(pod, home),
            f"exec chroot {home}/root {shlex.join([*become, *command])}",
        ]
        script = "\n".join(steps)
        super().__init__(["unshare", "--mount", "--net", "--ipc", "--uts", "--", "sh", "-c", script], home)

    def curl(self, path: str, *options: str) -> tuple[int, str]:
        """Ask port 5000 of the container's own network; return the status and the body."""
        command = ["nsenter", "-t", str(self.pid), "-n", "curl", "-s", "-m", "5", "-w", "\n%{http_code}", *options]
        run = subprocess.run(
            [*command, f"http://127.0.0.1:5000{path}"], capture_output=True, text=True, check=False, timeout=30
        )
        body, _, status = run.stdout.rpartition("\n")
        return int(status), body

    def ready(self) -> Container:
        """Return this container as soon as its readiness probe succeeds."""
        until(lambda: self.process.poll() is not None or self.curl("/-/ready")[0] == 200, "ready", 60)
        assert self.process.poll() is None, self.output()
        return self


@pytest.fixture(params=["k8s", DEV, OPERATOR, PRODUCTION, SCALE_OUT])
def container(request: pytest.FixtureRequest, tmp_path: Path, config: dict[str, Any]) -> Iterator[Container]:
    """Give the container of each overlay, ready."""
    pod = orchestrator(rendered(request.param))
    container = Container(tmp_path, config, pod, "--stale-after=600")
    try:
        yield container.ready()
    finally:
        container.close()


def headers(container: Container, role: str) -> list[str]:
    """Return the options of curl for a client of this role: a token where the container has tokens."""
    shut = (container.home / "tokens").exists()
    return ["-H", f"Authorization: Bearer {TOKENS[role]}"] if shut else []


def test_size() -> None:
    """It adds less than 120 MB to its base, Python included."""
    sizes = json.loads((BUILT / "sizes.json").read_text())
    assert 0 < sizes["image"] - sizes["base"] < MOST


def test_configuration(config: dict[str, Any]) -> None:
    """Its user is a number, which Kubernetes can tell from root, and its port and folder are the manifests'."""
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["twistd", "--nodaemon", "--pidfile=", "orchestrator"]
    assert config["ExposedPorts"].keys() == {"5000/tcp"}
    assert config["Volumes"].keys() == {"/var/lib/orchestratord"}


def test_nothing_of_the_builder_is_in_it(config: dict[str, Any]) -> None:
    """Neither its settings for apt and pip, nor pip itself, nor a cache."""
    files = BUILT / "files"
    assert not list((files / "mnt").iterdir())
    assert not [entry for entry in config["Env"] if entry.startswith(("PIP_", "APT_"))]
    for folder in ("var/lib/apt/lists", "var/cache/apt", "root/.cache", "src"):
        assert not [path for path in (files / folder).rglob("*") if path.is_file()], folder
    for name in ("resolv.conf", "hostname"):
        assert not (files / "etc" / name).exists() or (files / "etc" / name).read_text() == ""
    assert not list(files.glob("**/bin/pip*"))


def test_bill_of_materials() -> None:
    """It is valid, and has every Python distribution and every Debian package of the image, with its version."""
    text = (ROOT / "dist" / f"orchestratord-{__version__}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {component["purl"].partition("?")[0] for component in json.loads(text)["components"]}
    (site,) = (BUILT / "files/opt/orchestratord/lib").glob("python3*/site-packages")
    installed = {(found.name, found.version) for found in distributions(path=[str(site)])}
    assert {name for name, _ in installed} >= {
        "orchestratord",
        "Twisted",
        "klein",
        "prometheus_client",
        "msgspec",
    }
    for name, version in installed:
        assert f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}" in listed
    packages = {path.stem.partition(":")[0] for path in (BUILT / "files/var/lib/dpkg/info").glob("*.list")}
    assert {"python3-minimal", "ca-certificates", "libc6"} <= packages
    names = {unquote(purl.split("/")[2].partition("@")[0]) for purl in listed if purl.startswith("pkg:deb/")}
    assert names == packages


def test_any_user_of_group_0_may_write_the_data_folder() -> None:
    """As on OpenShift, which chooses the user, and always this group."""
    inside = ["chroot", "--userspec=1000650000:0", "--groups=", str(BUILT / "files")]
    assert subprocess.run([*inside, "test", "-w", "/var/lib/orchestratord"], check=False).returncode == 0


def test_it_runs(container: Container) -> None:
    """As uid 65532, with no capability, on a root that it cannot write: probes, reports, scrapes, a clean stop."""
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert re.search(rf"^Uid:(\s+{USER}){{4}}$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    mounts = Path(f"/proc/{container.pid}/mounts").read_text()
    assert re.search(r"^\S+ / \S+ ro[, ]", mounts, re.MULTILINE)
    assert container.curl("/-/healthy")[0] == 200
    body = ["-H", "Content-Type: application/json", "-d", '{"node_id": "node-1", "page_faults": 7}']
    assert container.curl("/update_metrics", *headers(container, "report"), *body)[0] == 200
    code, text = container.curl("/metrics", *headers(container, "scrape"))
    assert code == 200
    # With a store, they are there and not here.
    written = "ORCHESTRATOR_REMOTE_WRITE=" in str(container.process.args)
    assert ('page_faults{node_id="node-1"} 7' in text) is not written
    stopped(container)


def stopped(container: Container) -> None:
    """End a container as the kubelet does: it says nothing of an error, and its exit code is 0."""
    container.process.terminate()
    container.signalled = True
    # The drain delay, and a last try to deliver what no store takes here.
    assert container.wait(60) == 0, container.output()
    assert "Traceback" not in container.output(), container.output()
    assert "Read-only" not in container.output(), container.output()
    assert "denied" not in container.output(), container.output()


def test_a_container_that_is_restarted_takes_the_table_back(tmp_path: Path, config: dict[str, Any]) -> None:
    """The volume lives as long as the pod, and the image's user may write it."""
    pod = pods(rendered("k8s"))["Deployment/orchestrator"]
    first = Container(tmp_path, config, pod, "--stale-after=600")
    try:
        first.ready()
        body = ["-H", "Content-Type: application/json", "-d", '{"node_id": "node-1", "page_faults": 7}']
        assert first.curl("/update_metrics", *body)[0] == 200
        stopped(first)
    finally:
        first.close()
    second = Container(tmp_path, config, pod, "--stale-after=600")
    try:
        assert json.loads(second.ready().curl("/nodes")[1]) == {"nodes": ["node-1"]}
        stopped(second)
    finally:
        second.close()


@pytest.mark.parametrize("container", ["k8s"], indirect=True)
def test_the_health_check(container: Container, config: dict[str, Any]) -> None:
    """The image's own, which container engines run and Kubernetes does not."""
    kind, *check = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    inside = ["nsenter", "-t", str(container.pid), "-n", "chroot", f"/proc/{container.pid}/root"]
    run = subprocess.run([*inside, "env", "-i", *config["Env"], *check], check=False, capture_output=True, timeout=30)
    assert run.returncode == 0, run.stderr
    stopped(container)
