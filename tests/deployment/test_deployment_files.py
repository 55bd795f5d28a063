"""The Dockerfile, the systemd units and the Prometheus configuration for a machine without Kubernetes."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestratord.config.loader import load
from orchestratord.config.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "OPERATIONS.md"
UNITS = ("orchestratord", "orchestratord-profiler")
DAEMON_VARIABLES = {option.variable for option in OPTIONS}


def program(name: str, package: str) -> str:
    """Return the program's path; without it the test fails, since a file not looked at is not known good."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"no {name} on PATH; Debian's package {package} brings it")
    return path


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the Dockerfile's instructions, continuation lines joined, by the stage that they are in."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
            found[stage] = []
        if word:
            found[stage].append((word, rest.strip()))
    return found


def instruction(stage: str, word: str) -> str:
    """Return the one instruction of that name in a stage."""
    (only,) = [rest for name, rest in stages()[stage] if name == word]
    return only


@pytest.mark.parametrize("name", ["orchestrator", "profiler"])
def test_image_command(name: str) -> None:
    """An image starts twistd in the foreground, with no pid file and no shell, and takes options after it."""
    assert json.loads(instruction(name, "ENTRYPOINT")) == ["twistd", "--nodaemon", "--pidfile=", name]
    assert json.loads(instruction(name, "CMD")) == []


def test_default_image() -> None:
    """A build that names no target makes the orchestrator; both images stand on the same runtime stage."""
    assert list(stages())[-1] == "orchestrator"
    assert instruction("orchestrator", "FROM").split()[0] == instruction("profiler", "FROM").split()[0] == "runtime"


def test_base_is_an_argument() -> None:
    """Whoever builds chooses the base, and every stage comes from that one."""
    assert instruction("", "ARG").startswith("BASE=")
    bases = [rest.split()[0] for stage in stages().values() for word, rest in stage if word == "FROM"]
    assert bases == ["${BASE}", "python", "python", "runtime", "runtime"]


def test_image_user() -> None:
    """The orchestrator's image runs as a numeric user that is not root, who owns the data folder with group 0."""
    user = instruction("orchestrator", "USER")
    assert user == "65532:65532"
    (folder,) = json.loads(instruction("orchestrator", "VOLUME"))
    (made,) = [rest for word, rest in stages()["runtime"] if word == "RUN"]
    assert f"--owner=65532 --group=0 --mode=0770 {folder}" in made
    assert f"ORCHESTRATOR_DATA_DIR={folder}" in instruction("runtime", "ENV")


def test_image_health_check() -> None:
    """The health check needs no program but Python, is valid Python, and asks the probe on the exposed port."""
    command = json.loads(instruction("orchestrator", "HEALTHCHECK").partition(" CMD ")[2])
    assert command[:3] == ["python3", "-S", "-c"]
    ast.parse(command[3])
    assert f"'127.0.0.1', {instruction('orchestrator', 'EXPOSE')}" in command[3]
    assert "'/-/healthy'" in command[3]


def test_build_context() -> None:
    """The builder gets what the Dockerfile copies, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in lines
    given = {line[1:] for line in lines if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in stages()["build"] if word == "COPY"]
    assert given == {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in given)


@pytest.mark.parametrize("name", UNITS)
def test_unit_verifies(name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about a unit, its program apart, which is not installed here."""
    analyze = program("systemd-analyze", "systemd")
    text = (ROOT / f"etc/systemd/{name}.service").read_text()
    assert "ExecStart=/opt/orchestratord/bin/twistd " in text
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace("ExecStart=/opt/orchestratord/bin/twistd", "ExecStart=/bin/true"))
    run = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_unit_with_credentials(tmp_path: Path) -> None:
    """The commented lines that hand token files to the unit's user are right, and those that the document shows."""
    text = (ROOT / "etc/systemd/orchestratord.service").read_text()
    lines = re.findall(r"^#((?:LoadCredential|Environment)=.*)$", text, re.MULTILINE)
    (shown,) = re.findall(r"^```ini\n\[Service\]\n(.*?)^```$", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert shown.splitlines() == lines
    unit = tmp_path / "orchestratord.service"
    text = re.sub(r"^#((?:LoadCredential|Environment)=)", r"\1", text, flags=re.MULTILINE)
    unit.write_text(text.replace("ExecStart=/opt/orchestratord/bin/twistd", "ExecStart=/bin/true"))
    command = [program("systemd-analyze", "systemd"), "verify", "--man=no", str(unit)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    variable, _, value = lines[-1].removeprefix("Environment=").strip('"').partition("=")
    given = load({}, {variable: value.replace("%d", "/credentials")}).token_file
    names = [line.removeprefix("LoadCredential=").partition(":")[0] for line in lines[:-1]]
    assert given == tuple((name, Path("/credentials") / name) for name in names)


def test_an_installation_keeps_what_was_there(tmp_path: Path) -> None:
    """The commands of docs/INSTALL.md, run twice, keep the configuration of a Prometheus that has jobs of its own."""
    section = (ROOT / "docs" / "INSTALL.md").read_text().partition("\n## systemd")[2].partition("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    install ")]
    assert len(commands) == 3
    (tmp_path / "prometheus").mkdir()
    (tmp_path / "systemd/system").mkdir(parents=True)
    (tmp_path / "prometheus/prometheus.yml").write_text("# mine\n")
    for _ in range(2):
        for command in commands:
            here = command.replace(" /etc/", f" {tmp_path}/")
            subprocess.run(["sh", "-euc", here], cwd=ROOT, check=True)
    texts = [path.read_text() for path in (tmp_path / "prometheus").glob("prometheus.yml*")]
    assert "# mine\n" in texts
    assert (tmp_path / "orchestratord/orchestrator.toml.~1~").exists()


@pytest.mark.parametrize("name", UNITS)
def test_unit_command(name: str) -> None:
    """A unit starts twistd as the image does: in the foreground, with no pid file."""
    command = service(name)["ExecStart"][-1].split()
    plugin = {"orchestratord": "orchestrator", "orchestratord-profiler": "profiler"}[name]
    assert command[1:4] == ["--nodaemon", "--pidfile=", plugin]


@pytest.mark.parametrize("name", UNITS)
def test_unit_is_hardened(name: str) -> None:
    """A unit can gain no rights and write nothing but its own folders, and starts again when it fails."""
    section = service(name)
    for key, value in (
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("RestrictNamespaces", "yes"),
        ("Restart", "on-failure"),
    ):
        assert section[key] == [value]


def test_orchestrator_unit_has_no_privilege() -> None:
    """The orchestrator's unit has a user of its own, no capability, and its data in the unit's state folder."""
    section = service("orchestratord")
    assert section["DynamicUser"] == ["yes"]
    assert section["CapabilityBoundingSet"] == [""]
    (state,) = section["StateDirectory"]
    assigned = dict(word.split("=", 1) for word in section["Environment"][0].split())
    assert assigned["ORCHESTRATOR_DATA_DIR"] == f"/var/lib/{state}"
    assert {name for name in assigned if name.startswith("ORCHESTRATOR_")} <= DAEMON_VARIABLES


def test_profiler_unit_privilege() -> None:
    """The profiler's unit has what tracepoints need, and what the other source needs to see all processes; no more."""
    section = service("orchestratord-profiler")
    assert section["CapabilityBoundingSet"] == ["CAP_BPF CAP_PERFMON CAP_SYS_PTRACE"]
    assert "BPFTRACE_BTF=/sys/kernel/btf/vmlinux" in section["Environment"][0].split()


def test_prometheus_configuration() -> None:
    """Promtool accepts the configuration for a machine without Kubernetes, which scrapes the default port every 5 s."""
    path = ROOT / "etc/prometheus/prometheus.yml"
    promtool = program("promtool", "prometheus")
    run = subprocess.run([promtool, "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    config = yaml.safe_load(path.read_text())
    assert config["global"]["scrape_interval"] == "5s"
    assert config["scrape_configs"] == [
        {"job_name": "orchestrator", "static_configs": [{"targets": ["127.0.0.1:5000"]}]}
    ]


def service(name: str) -> dict[str, list[str]]:
    """Return a unit's [Service] section; a key may be there more than once."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (ROOT / f"etc/systemd/{name}.service").read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found
