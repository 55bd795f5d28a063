"""How nodes are measured, on the pages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fakes import body
from tests.web.pages.browser_view import BROWSER, wired


def text(path: str, *reports: dict[str, Any]) -> str:
    """Return the text of a page, with a node for each of these reports."""
    wire = wired()
    for index, fields in enumerate(reports):
        wire.report(body(f"n{index}", page_faults=1, **fields))
    answer = wire.ask("GET", path, Accept=BROWSER)
    assert answer.status == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.body.decode()))


MIXED = "Nodes are measured by different sources"


def test_a_fleet_of_different_sources() -> None:
    """The status page shows the number of nodes of each source; nodes without a source do not count."""
    reports: list[dict[str, Any]] = [
        {"source": "ebpf-kprobe"},
        {"source": "procfs"},
        {"source": "ebpf-kprobe", "interval_seconds": 5},
        {},
    ]
    assert f"{MIXED}, whose values cannot be compared: 2 by ebpf-kprobe, 1 by procfs." in text("/", *reports)


def test_many_sources() -> None:
    """The most frequent ones are named."""
    found = text("/", *({"source": f"s{index}"} for index in range(8)))
    assert "1 by s0, 1 by s1, 1 by s2, 1 by s3, 1 by s4, and by 3 more." in found


@pytest.mark.parametrize(
    "reports", [[], [{}], [{"source": "procfs"}, {"source": "procfs", "profiler_version": "2"}, {}]]
)
def test_a_fleet_of_one_source(reports: list[dict[str, Any]]) -> None:
    """There is no warning."""
    assert MIXED not in text("/", *reports)


def test_a_node() -> None:
    """Its page shows what its report said."""
    said = {"source": "procfs", "interval_seconds": 10, "profiler_version": "0.1.0"}
    assert "Measured by procfs in intervals of 10 s, profiler 0.1.0." in text("/nodes/n0", said)
    assert "Measured in intervals of 10 s." in text("/nodes/n0", {"interval_seconds": 10})
    assert "Measured" not in text("/nodes/n0", {})
