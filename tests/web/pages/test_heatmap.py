"""The fleet as cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.template import flattenString

from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.store import Entry
from orchestratord.web.pages.heatmap import MAX_CELLS, STEPS, TOP, fleet
from orchestratord.web.pages.heatmap_section import picture
from tests.fakes import FAMILIES, report

if TYPE_CHECKING:
    from collections.abc import Mapping

FAULTS = FAMILIES.index("page_faults")
MAX_VALUE = 2.0**63


def entries(values: Mapping[str, float | None], age: float = 0.0) -> list[Entry]:
    """Return fresh entries of these nodes by their page faults, all of that age at the time 1000."""
    return [
        Entry(1000 - age, report(name, **({} if value is None else {"page_faults": value})))
        for name, value in values.items()
    ]


def numbered(count: int) -> list[Entry]:
    """Return so many entries; a node's value is its number."""
    one = report("n", page_faults=1)
    values = list(one.values)
    made = []
    for number in range(count):
        values[FAULTS] = float(number)
        made.append(Entry(1000, type(one)(f"n{number:06}", tuple(values), None, 0.0, ())))
    return made


def test_no_node() -> None:
    """Nothing to draw, and nothing fails."""
    drawn = fleet([], FAULTS, 1000, 60)
    assert (drawn.nodes, drawn.cells, drawn.top, drawn.scale) == (0, [], [], None)


def test_a_cell_a_node_in_the_order_that_people_count() -> None:
    """2 comes before 10."""
    drawn = fleet(entries({"n10": 1, "n2": 2, "m": 3}), FAULTS, 1000, 60)
    assert [cell.node_id for cell in drawn.cells] == ["m", "n2", "n10"]
    assert {cell.size for cell in drawn.cells} == {1}


@pytest.mark.parametrize("count", [5_000, 100_000])
def test_many_nodes_share_cells(count: int) -> None:
    """No more cells than can be drawn; each shows its highest node, and none is left out."""
    drawn = fleet(numbered(count), FAULTS, 1000, 60)
    assert len(drawn.cells) <= MAX_CELLS
    assert drawn.group == math.ceil(count / MAX_CELLS)
    assert sum(cell.size for cell in drawn.cells) == drawn.nodes == count
    first = drawn.cells[0]
    assert (first.first, first.node_id, first.last) == ("n000000", *[f"n{drawn.group - 1:06}"] * 2)
    assert [load.value for load in drawn.top] == [count - 1 - index for index in range(TOP)]


def test_what_stands_out_stands_out() -> None:
    """One node of a hundred times the load of all others has a colour of its own."""
    drawn = fleet(entries({f"n{index}": 1000 + index for index in range(50)} | {"hot": 100_000}), FAULTS, 1000, 60)
    steps = {cell.node_id: cell.step for cell in drawn.cells}
    assert steps.pop("hot") == STEPS - 1
    assert set(steps.values()) == {0}


def test_small_differences_do_not_look_large() -> None:
    """Nodes that do nearly the same have nearly the same colour."""
    drawn = fleet(entries({"a": 1000, "b": 1010, "c": 1050}), FAULTS, 1000, 60)
    assert len({cell.step for cell in drawn.cells}) == 1


def test_zero_and_absent_are_not_the_same() -> None:
    """A node that did nothing has the lowest colour; one that did not report has none."""
    drawn = fleet(entries({"idle": 0, "busy": 10, "silent": None}), FAULTS, 1000, 60)
    cells = {cell.node_id: cell for cell in drawn.cells}
    assert (cells["idle"].step, cells["silent"].step, cells["silent"].value) == (0, None, None)
    assert drawn.without == 1
    assert [load.node_id for load in drawn.top] == ["busy", "idle"]


def test_late_nodes_are_marked() -> None:
    """Those whose age is two thirds of the limit, or more."""
    drawn = fleet([*entries({"late": 1}, age=40), *entries({"fine": 1}, age=39.9)], FAULTS, 1000, 60)
    assert [(cell.node_id, cell.late) for cell in drawn.cells] == [("fine", 0), ("late", 1)]
    assert drawn.late == 1
    assert [load.late for load in drawn.top if load.node_id == "late"] == [True]


@pytest.mark.parametrize(("stale_after", "late_after"), [(60, "40"), (8, "5.3"), (86400, "57600")])
def test_when_a_node_is_late_is_told_in_a_number_to_read(stale_after: float, late_after: str) -> None:
    """With one digit after the point, if any."""
    drawn = fleet(entries({"late": 1}, age=stale_after - 0.1), FAULTS, 1000, stale_after)
    markup: list[bytes] = []
    flattenString(None, picture(drawn, BUILT_IN, list(BUILT_IN)[FAULTS], stale_after)).addCallback(markup.append)
    assert f"Hatched: no report for {late_after} s; gone after {stale_after} s. ".encode() in markup[0]


@given(st.lists(st.floats(0, MAX_VALUE) | st.just(0.0), min_size=1, max_size=50))
def test_every_value_has_a_colour(values: list[float]) -> None:
    """Whatever nodes report; a higher one never a lower colour."""
    drawn = fleet(entries({f"n{index:03}": value for index, value in enumerate(values)}), FAULTS, 1000, 60)
    assert drawn.scale is not None
    assert list(drawn.scale.bounds) == sorted(drawn.scale.bounds)
    by_value = sorted(drawn.cells, key=lambda cell: cell.value or 0)
    steps = [cell.step for cell in by_value]
    assert steps == sorted(step for step in steps if step is not None)
    assert all(0 <= load.share <= 1 for load in drawn.top)


def test_families_below_zero_have_equal_steps() -> None:
    """Those of a configuration file may have no minimum."""
    cold = [Entry(1000, report(name)) for name in ("a", "b")]
    values = [(-40.0,), (30.0,)]
    changed = [
        Entry(1000, type(entry.report)(entry.report.node_id, value, None, 0.0, ()))
        for entry, value in zip(cold, values, strict=True)
    ]
    drawn = fleet(changed, 0, 1000, 60)
    assert drawn.scale is not None
    assert not drawn.scale.logarithmic
    assert [cell.step for cell in drawn.cells] == [0, STEPS - 1]
