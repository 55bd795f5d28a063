"""`pip install .` into a new environment, as a person does who has just cloned the repository."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import requests
from packaging.utils import canonicalize_name

from tests.integration.daemon import LOOPBACK, PATIENCE, Server, environment, report, run
from tests.test_dependencies import closure, required

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


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
    """The bpftrace program, the API's description and the mark of typed code are installed, tests are not."""
    script = (
        "import importlib.resources as r, importlib.util as u, orchestratord, sys;"
        "p = r.files('orchestratord');"
        "names = ('py.typed', 'profiler/profile.bt', 'web/openapi.yaml');"
        "print(*(p.joinpath(name).is_file() for name in names), u.find_spec('tests'))"
    )
    said = run(str(installed / "python"), "-c", script, cwd=tmp_path, env=environment(tmp_path))
    assert (said.returncode, said.stdout.strip()) == (0, "True True True None"), said.stderr
