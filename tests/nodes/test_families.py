"""The catalogue of metric families."""

from __future__ import annotations

import pytest

from orchestratord.nodes.families import BUILT_IN, Families, Family


def test_the_eight_of_the_field_in_their_order() -> None:
    """The names that clients depend on are there, all gauges, in the contract's order."""
    assert BUILT_IN.names == (
        "mem_bytes_allocated",
        "page_faults",
        "ctx_switches_graceful",
        "ctx_switches_forced",
        "fs_read_count",
        "fs_read_size_kb",
        "fs_write_count",
        "fs_write_size_kb",
    )
    assert {family.kind for family in BUILT_IN} == {"gauge"}
    assert len(BUILT_IN) == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "9lives"}, "not a Prometheus metric name"),
        ({"name": "with space"}, "not a Prometheus metric name"),
        ({"name": "a" * 201}, "not a Prometheus metric name"),
        ({"name": "newline\n"}, "not a Prometheus metric name"),
        ({"name": "node_id"}, "reserved"),
        ({"name": "orchestrator_nodes"}, "reserved"),
        ({"kind": "histogram"}, "kind must be gauge or counter"),
        ({"kind": "counter"}, "must end with _total"),
        ({"name": "x_total"}, "must not end with _total"),
        ({"help": " "}, "help must say"),
        ({"unit": "k b"}, "unit must be"),
        ({"name": "x_total", "kind": "counter", "minimum": -1}, "counter's minimum"),
        ({"name": "x_total", "kind": "counter", "minimum": None}, "counter's minimum"),
        ({"minimum": float("nan")}, "finite"),
    ],
)
def test_a_family_that_no_scraper_would_take_is_refused(fields: dict[str, object], said: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(ValueError, match=said):
        Family(**({"name": "x", "help": "X."} | fields))  # type: ignore[arg-type]  # wrong on purpose


def test_a_family_may_not_be_there_twice() -> None:
    """A family of the configuration cannot replace a built-in one unseen."""
    with pytest.raises(ValueError, match="'page_faults' is defined twice"):
        BUILT_IN.with_more([Family("page_faults", "Again.")])


def test_more_families_come_last() -> None:
    """Those of the configuration follow the built-in ones."""
    more = BUILT_IN.with_more([Family("tcp_retransmits", "Segments sent again.")])
    assert more.names[-1] == "tcp_retransmits"
    assert isinstance(more, Families)
    assert len(list(more)) == 9
