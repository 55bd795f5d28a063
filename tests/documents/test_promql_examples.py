"""What PromQL the project shows to others is right for gauges that count one bucket."""

from __future__ import annotations

import re
from pathlib import Path

from orchestratord.nodes.families import BUILT_IN

ROOT = Path(__file__).parents[2]

#: Whatever holds PromQL that people copy, or that is run for them.
SHOWN = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "etc/**/*",
        "k8s/**/*.yaml",
        "orchestratord/web/openapi.yaml",
        "orchestratord/web/pages/*.py",
        "tests/**/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path != Path(__file__)
)

_NAMES = "|".join(family.name for family in BUILT_IN)
#: Functions of counters and of slopes; of one of our families, by name or by a dashboard's variable.
OF_A_COUNTER = re.compile(rf"\b(?:rate|irate|increase|resets|delta|idelta|deriv)\(\s*(?:[^()\[\]]*:)?(?:{_NAMES}|\$)")
#: An average over time of a family, and what may follow it: only the family itself.
AVERAGE = re.compile(rf"avg_over_time\(({_NAMES})(?:\{{[^}}]*\}})?\[\w+\]\)(?! and \1)")


def found(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Return where the pattern is found."""
    return [f"{path.relative_to(ROOT)}: {match[0]}" for path in paths for match in pattern.finditer(path.read_text())]


def test_no_bucket_count_is_taken_for_a_counter() -> None:
    """`rate` of a count per bucket is a number without a meaning."""
    assert len(SHOWN) > 100
    assert found(OF_A_COUNTER, SHOWN) == []


def test_no_average_shows_a_node_that_is_gone() -> None:
    """An average alone has a value until its window is past the node's last scrape: `and` the family ends it."""
    assert found(AVERAGE, [path for path in SHOWN if path.relative_to(ROOT).parts[0] != "tests"]) == []


def test_the_search_finds_what_it_looks_for() -> None:
    """And passes over what is right."""
    for wrong in (
        "rate(page_faults[5m])",
        "sum(increase( fs_read_count{a='b'}[1h]))",
        "deriv(node:page_faults:avg1m[5m])",
    ):
        assert OF_A_COUNTER.search(wrong), wrong
    for right in ("rate(orchestrator_http_requests_total[5m])", "max_over_time(page_faults[5m])"):
        assert not OF_A_COUNTER.search(right), right
    assert AVERAGE.search("avg_over_time(page_faults[1m])")
    assert not AVERAGE.search('avg_over_time(page_faults{node_id!=""}[1m]) and page_faults')
