"""The table of all nodes: found, filtered, sorted, a page at a time; and the medians of the fleet."""

from __future__ import annotations

import random
import re
import statistics
from typing import Any

import pytest

from orchestratord.errors import BadRequest
from orchestratord.nodes.families import BUILT_IN
from orchestratord.nodes.store import Entry
from orchestratord.web.pages.medians import medians
from orchestratord.web.pages.node_list import ROWS, listed, wanted
from tests.fakes import body, report
from tests.web.pages.test_resource import look, text, wired

NOW = 1000.0


def entries(*nodes: tuple[str, float, float | None]) -> list[Entry]:
    """Return nodes by id, age and page faults."""
    return [
        Entry(NOW - age, report(name, **({} if value is None else {"page_faults": value})))
        for name, age, value in nodes
    ]


FLEET = entries(("b", 3, 20), ("A", 1, 5), ("c", 40, None), ("ab", 2, 20), ("d", 0, 100))


def names(**parameters: str) -> list[str]:
    """Return the ids that a table with these parameters shows, in its order."""
    asked = wanted({name.strip("_"): [value] for name, value in parameters.items()}, BUILT_IN)
    return [row.node_id for row in listed(list(FLEET), asked, NOW).rows]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["A", "ab", "b", "c", "d"]),
        ({"order": "desc"}, ["d", "c", "b", "ab", "A"]),
        ({"find": "a"}, ["A", "ab"]),
        ({"find": "B"}, ["ab", "b"]),
        ({"sort": "age"}, ["d", "A", "ab", "b", "c"]),
        ({"sort": "age", "order": "desc"}, ["c", "b", "ab", "A", "d"]),
        ({"sort": "page_faults"}, ["d", "ab", "b", "A", "c"]),
        ({"sort": "page_faults", "order": "asc"}, ["A", "ab", "b", "d", "c"]),
        ({"by": "page_faults", "min": "20"}, ["ab", "b", "d"]),
        ({"by": "page_faults", "min": "6", "max": "20"}, ["ab", "b"]),
        ({"by": "age", "min": "2.5"}, ["b", "c"]),
        ({"by": "age", "max": "1", "find": "d"}, ["d"]),
        ({"by": "page_faults", "min": "1e9"}, []),
    ],
)
def test_which_nodes_in_which_order(parameters: dict[str, str], expected: list[str]) -> None:
    """Those without a value come last, and match no filter by it; equal ones are sorted by id."""
    assert names(**parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"find": "x" * 254}, "'find'"),
        ({"sort": "nonsense"}, "'sort'"),
        ({"by": "nonsense"}, "'by'"),
        ({"order": "up"}, "'order'"),
        ({"min": "1"}, "'by'"),
        ({"by": "age", "min": "nan"}, "'min'"),
        ({"by": "age", "max": "1e999"}, "'max'"),
        ({"page": "0"}, "'page'"),
        ({"page": "100001"}, "'page'"),
        ({"page": "\u0663"}, "'page'"),
    ],
)
def test_what_cannot_be_asked(parameters: dict[str, str], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises(BadRequest, match=named):
        names(**parameters)


def test_pages_of_a_large_fleet() -> None:
    """Each node is on one page, in order over all of them; past the last one is the last one."""
    chance = random.Random(5)
    values = [(f"n{index:05}", 1.0, chance.randrange(900)) for index in range(2550)]
    fleet = entries(*values)
    shown: list[str] = []
    for page in range(1, 27):
        asked = wanted({"sort": ["page_faults"], "page": [str(page)]}, BUILT_IN)
        found = listed(fleet, asked, NOW)
        assert (found.page, found.pages, found.matching, found.nodes) == (page, 26, 2550, 2550)
        shown += [row.node_id for row in found.rows]
    assert shown == [name for name, _, value in sorted(values, key=lambda one: (-one[2], one[0]))]
    beyond = listed(fleet, wanted({"page": ["99"]}, BUILT_IN), NOW)
    assert (beyond.page, len(beyond.rows)) == (26, 50)


def test_the_page() -> None:
    """Links sort and turn pages and keep what was asked; names lead to nodes; nothing is taken for markup."""
    wire = wired(max_nodes=1000)
    for index in range(ROWS + 20):
        wire.report(body(f"web-{index:03}", page_faults=index))
    wire.report(body("db"))
    answer = look(wire, "/fleet?find=web&sort=page_faults")
    said = text(answer)
    assert answer.status == 200
    assert "120 of 121 nodes" in said
    assert "Page 1 of 2" in said
    assert re.findall(rb'href="/nodes/([^"?]*)"', answer.body)[:2] == [b"web-119", b"web-118"]
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/fleet\?[^"]*)"', answer.body.decode())]
    assert "/fleet?find=web&sort=page_faults&order=asc" in links
    assert "/fleet?find=web&sort=page_faults&order=desc&page=2" in links
    assert "/fleet?find=web&sort=fs_read_count&order=desc" in links
    assert 'aria-sort="descending"' in answer.body.decode()
    assert "Page 2 of 2" in text(look(wire, "/fleet?find=web&sort=page_faults&order=desc&page=2"))
    assert "No node matches." in text(look(wire, "/fleet?find=%22%3E%3Cscript%3E"))
    assert "No node reports." in text(look(wired(), "/fleet"))


def test_what_is_wrong_stands_on_the_page() -> None:
    """With its status."""
    answer = look(wired("a"), "/fleet?sort=%3Cb%3E")
    assert answer.status == 400
    assert "invalid parameter &#39;sort&#39;" in text(answer) or "invalid parameter 'sort'" in text(answer)
    assert look(wired("a"), "/fleet?find=%ff").status == 400


def test_ten_operators_cost_as_much_as_one() -> None:
    """The same table is made once for all who ask for it within two seconds."""
    wire = wired("a")
    made: list[Any] = []
    in_thread = wire.in_thread
    wire.in_thread = lambda work: made.append(work) or in_thread(work)  # type: ignore[func-returns-value]
    for _ in range(10):
        assert look(wire, "/fleet?sort=age").status == 200
    assert len(made) == 1


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 1001, 2001, 4000])
def test_medians(count: int) -> None:
    """As the standard library has them, of those who reported the family; of none there is none."""
    chance = random.Random(count)
    values = [chance.randrange(1_000_000) for _ in range(count)]
    fleet = entries(*[(f"n{index}", 0, value) for index, value in enumerate(values)], ("without", 0, None))
    found = medians(fleet, len(BUILT_IN.names))
    at = BUILT_IN.names.index("page_faults")
    assert (found.nodes, found.values[at]) == (count + 1, statistics.median(values))
    assert found.values[at - 1] is None


def test_a_node_beside_the_fleet() -> None:
    """How many times the median each of its values is; just the median where there is no such number."""
    wire = wired()
    for name, value in (("a", 100), ("b", 200), ("c", 1000)):
        wire.report(body(name, page_faults=value, fs_read_count=0))
    wire.report(body("d"))
    said = text(look(wire, "/nodes/c"))
    assert "1 k faults 5 times the fleet's median of 200 faults" in said
    assert "0 calls the fleet's median: 0 calls" in said
    assert "A median is that of the nodes that report the metric, out of 4 nodes, this one included." in said
    assert "not reported the fleet's median: 200 faults" in text(look(wire, "/nodes/d"))


def test_the_page_of_a_node_that_is_gone() -> None:
    """It says when it was last heard of, for an hour."""
    wire = wired("a")
    wire.clocks.now += 70
    wire.nodes.expire(wire.clocks.monotonic(), 10)
    answer = look(wire, "/nodes/a")
    assert answer.status == 404
    assert "Its last report came 1 min 10 s ago, at 09:00:00 UTC ; it has been silent since." in text(answer)
