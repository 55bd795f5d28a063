"""Every rule that checkov has for Kubernetes, over all that is created; what we do otherwise has its reason here."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.deployment.test_manifests import rendered
from tests.deployment.test_manifests_overlays import DEV, OPERATOR, PRODUCTION, PROFILER, SCALE_OUT

#: In an environment of its own, since it pins half of the package index.
CHECKOV = Path(sys.prefix) / "checkov" / "bin" / "checkov"
#: Accepted everywhere.
ACCEPTED = {
    "CKV_K8S_11": "no CPU limits: throttling would show as slow scrapes and slow placements",
    "CKV_K8S_15": "images are pulled once: their tags are versions, which do not change",
    "CKV_K8S_21": "the default namespace: programs in the field ask for orchestrator-service.default",
    "CKV_K8S_43": "no digests: the images are pushed by whoever installs this",
}
#: Accepted of the profiler's pods.
PROFILERS = {
    "CKV_K8S_8": "it serves nothing that could be probed; it ends when it cannot go on",
    "CKV_K8S_9": "the same",
    "CKV_K8S_23": "bpftrace refuses any user but root",
    "CKV_K8S_25": "CAP_BPF and CAP_PERFMON, in the place of all of root's",
    "CKV_K8S_40": "bpftrace refuses any user but root",
}
#: Accepted for a first look, and on a laptop.
UNGUARDED = {"CKV2_K8S_6": "no network policies"}
LAPTOPS = {"CKV_K8S_17": "the profiler reads /proc of the node where there are no tracepoints"}


@cache
def failed(*folders: str) -> set[tuple[str, str]]:
    """Return the rules that fail in folders which are applied together, each with the `kind.namespace.name` of what."""
    if not CHECKOV.exists():
        pytest.fail(f"no {CHECKOV}; `make test` installs it")
    with TemporaryDirectory() as home:
        for number, folder in enumerate(folders):
            (Path(home) / f"{number}.yaml").write_text(yaml.safe_dump_all(rendered(folder).values()))
        # Its rules come along with it: it asks nobody.
        command = [str(CHECKOV), "-d", home, "--framework", "kubernetes", "--skip-download", "--quiet", "-o", "json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    assert run.returncode in {0, 1}, run.stderr
    result = json.loads(run.stdout)
    assert result["summary"]["passed"] > 0
    assert result["summary"]["parsing_errors"] == 0
    return {(one["check_id"], one["resource"]) for one in result["results"]["failed_checks"]}


@pytest.mark.parametrize(
    ("folders", "more", "profilers"),
    [((PRODUCTION, OPERATOR, PROFILER, SCALE_OUT), {}, {}), (("k8s", DEV), UNGUARDED, LAPTOPS)],
)
def test_nothing_but_what_we_know(folders: tuple[str, ...], more: dict[str, str], profilers: dict[str, str]) -> None:
    """No rule is failed without a reason, and none of the reasons is out of date."""
    found = failed(*folders)
    assert {rule for rule, resource in found if "profiler" not in resource} == ACCEPTED.keys() | more.keys()
    rules = {rule for rule, resource in found if "profiler" in resource}
    assert rules - ACCEPTED.keys() - more.keys() == PROFILERS.keys() | profilers.keys()
