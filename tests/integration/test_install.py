"""`pip install .` into a new environment, as a person does who has just cloned the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import requests
from packaging.utils import canonicalize_name

from tests.integration.daemon import LOOPBACK, PATIENCE, ROOT, Server, environment, report, run
from tests.tools.test_dependencies import closure, required

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: Seconds for what comes over the network.
INSTALL_PATIENCE = 300.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the folder of programs of a new environment, the package installed in it from a clean copy of the tree."""
    home = tmp_path_factory.mktemp("install")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = home / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    steps = (
        f'"{sys.executable}" -m venv venv && cd tree && ../venv/bin/pip install --quiet --report ../installed.json .'
    )
    # With pip's own settings and cache, as a person has them.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installing = Server(("sh", "-c", steps), home, env)
    try:
        assert installing.wait(INSTALL_PATIENCE) == 0, installing.output()
        yield home / "venv" / "bin"
    finally:
        installing.close()


def test_both_plugins_are_listed(installed: Path, tmp_path: Path) -> None:
    """`twistd --help` lists both plugins, from any folder, and neither of their own `--help` fails."""
    env = environment(tmp_path)
    listed = run(str(installed / "twistd"), "--help", cwd=tmp_path, env=env)
    assert listed.returncode == 0, listed.stderr
    names = [line.split()[0] for line in listed.stdout.splitlines() if line.startswith("    ") and line.strip()]
    assert {"orchestrator", "profiler"} <= set(names)
    assert "Traceback" not in listed.stderr
    for name in ("orchestrator", "profiler"):
        helped = run(str(installed / "twistd"), name, "--help", cwd=tmp_path, env=env)
        assert (helped.returncode, "Usage: twistd" in helped.stdout) == (0, True), helped.stderr


def test_the_installed_daemon_takes_reports(installed: Path, tmp_path: Path) -> None:
    """The installed daemon starts from any folder and takes a report."""
    options = ("--nodaemon", "--pidfile=", "orchestrator", "--listen", LOOPBACK)
    daemon = Server((str(installed / "twistd"), *options), tmp_path)
    try:
        port = daemon.said(r"serves on 127\.0\.0\.1:(\d+)")[1]
        answer = requests.post(f"http://127.0.0.1:{port}/update_metrics", json=report("n1"), timeout=PATIENCE)
        assert answer.json() == {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    finally:
        daemon.process.terminate()
        code = daemon.wait()
        daemon.close()
    assert code == 0, daemon.output()


def test_what_is_installed_along(installed: Path, tmp_path: Path) -> None:
    """Only what is required, directly or not; each a release that its authors have not taken back, with its hash."""
    listed = json.loads((installed.parents[1] / "installed.json").read_text())["install"]
    names = {canonicalize_name(one["metadata"]["name"]) for one in listed}
    assert names - {"orchestratord"} == closure(required()).keys()
    for one in listed:
        name = one["metadata"]["name"]
        assert not one.get("is_yanked"), name  # an older pip does not say; it takes none all the same, unless pinned
        assert one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256") or name == "orchestratord"
    said = run(str(installed / "pip"), "list", "--format=json", cwd=tmp_path, env=environment(tmp_path))
    there = {canonicalize_name(one["name"]) for one in json.loads(said.stdout)}
    assert there - {"pip", "setuptools"} == names
    checked = run(str(installed / "pip"), "check", cwd=tmp_path, env=environment(tmp_path))
    assert checked.returncode == 0, checked.stdout


def test_what_the_package_holds(installed: Path, tmp_path: Path) -> None:
    """The API's description, the rules and the mark of typed code are installed, tests are not."""
    script = (
        "import importlib.resources as r, importlib.util as u, orchestratord, sys;"
        "p = r.files('orchestratord');"
        "names = ('py.typed', 'web/openapi.yaml', 'rules.yml');"
        "print(*(p.joinpath(name).is_file() for name in names), u.find_spec('tests'))"
    )
    said = run(str(installed / "python"), "-c", script, cwd=tmp_path, env=environment(tmp_path))
    assert (said.returncode, said.stdout.strip()) == (0, "True True True None"), said.stderr
