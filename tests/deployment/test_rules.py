"""etc/prometheus/rules.yml: recording rules and alerts, by promtool, and that none of them goes untested."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "etc/prometheus"
#: Alerts whose value is no news.
YES_OR_NO = {
    f"Orchestrator{name}"
    for name in ("NodeGone", "Down", "ReplicaDown", "Absent", "UpstreamDown", "NoUpstream", "StoreDown")
}
SEVERITIES = {"critical", "warning", "info"}


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return the rules of a kind, "alert" or "record", by name."""
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    found = [rule for group in groups for rule in group["rules"] if kind in rule]
    assert len({rule[kind] for rule in found}) == len(found)
    return {rule[kind]: rule for rule in found}


def cases(kind: str) -> list[dict[str, Any]]:
    """Return the cases of a kind, "alert_rule_test" or "promql_expr_test"."""
    return [
        case
        for group in yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
        for case in group.get(kind, ())
    ]


def test_promtool_accepts_the_rules() -> None:
    """All of them, and without a duplicate."""
    count = len(rules("alert")) + len(rules("record"))
    assert f"{count} rules found" in promtool("check", "rules", "--lint-fatal", "rules.yml", folder=FOLDER)


def test_the_configuration_loads_the_rules() -> None:
    """The configuration for a machine without Kubernetes has the rules of the file beside it."""
    assert yaml.safe_load((FOLDER / "prometheus.yml").read_text())["rule_files"] == ["rules.yml"]
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml", folder=FOLDER)


def test_the_rules_do_what_their_cases_say() -> None:
    """What is recorded has the values of rules.test.yml, and alerts fire, with their texts, when it says."""
    assert "SUCCESS" in promtool("test", "rules", "rules.test.yml", folder=FOLDER)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    """An alert that was never seen to fire is no alert, and one that always does is none either."""
    seen = cases("alert_rule_test")
    names = set(rules("alert"))
    assert {case["alertname"] for case in seen if case["exp_alerts"]} == names
    assert {case["alertname"] for case in seen if not case["exp_alerts"]} == names


def test_every_recorded_metric_has_a_case_with_values() -> None:
    """For each name there is an expected sample, of each family."""
    expected = {
        sample["labels"].partition("{")[0] for case in cases("promql_expr_test") for sample in case["exp_samples"]
    }
    assert expected == set(rules("record"))


def test_names_of_recorded_metrics() -> None:
    """Prometheus' convention, level:metric:operations, with the levels that the file explains."""
    for name in rules("record"):
        assert re.fullmatch(r"(node|fleet|job):[a-z_]+:[a-z0-9_]+", name), name


@pytest.mark.parametrize("name", rules("alert"))
def test_what_an_alert_says(name: str) -> None:
    """An alert has a severity, says what is wrong and with whom, and has a runbook, which is there."""
    alert = rules("alert")[name]
    assert set(alert["labels"]) == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert "{{ $labels." in notes["description"]
    assert ("{{ $value" in notes["summary"] + notes["description"]) == (name not in YES_OR_NO)
    document, _, anchor = notes["runbook"].partition("#")
    assert anchor == name.lower()
    assert f"\n### {name}\n" in (ROOT / document).read_text()


def test_every_threshold_is_justified() -> None:
    """Above each alert a comment says why it fires when it does."""
    lines = (FOLDER / "rules.yml").read_text().splitlines()
    for before, line in pairwise(lines):
        if line.strip().startswith("- alert:"):
            assert before.strip().startswith("# "), line


def test_every_runbook_belongs_to_an_alert() -> None:
    """docs/OPERATIONS.md has no runbook for an alert that is no more."""
    runbooks = re.findall(r"^### (Orchestrator\w+)$", (ROOT / "docs/OPERATIONS.md").read_text(), re.MULTILINE)
    assert sorted(runbooks) == sorted(rules("alert"))
