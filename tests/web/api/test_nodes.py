"""The answers of /nodes, made in parts."""

from __future__ import annotations

import json
import sys
from threading import Event, Thread
from time import monotonic

import pytest

from orchestratord.nodes.store import Entry
from orchestratord.web.api.nodes import details, details_json, names_json
from orchestratord.web.server.send_buffer import PIECE
from tests.fakes import body, report
from tests.wire import Wire

FAMILIES = ("page_faults", "fs_read_count")


def entries(count: int) -> list[Entry]:
    """Return so many nodes, unsorted."""
    made = report("n", page_faults=1)
    return [Entry(1000, type(made)(f"n{n * 7919 % count:06}", (n, None), None, 0.0, ())) for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 500, 1501])
def test_the_parts_are_one_object(count: int) -> None:
    """To the letter, as if it had been made in one: sorted by id, with nothing between the parts."""
    nodes = entries(count)
    ordered = sorted(nodes, key=lambda entry: entry.report.node_id)
    told = [details(entry, FAMILIES, 1010, 5000, 60) for entry in ordered]
    compact = (",", ":")
    assert b"".join(details_json(nodes, FAMILIES, 1010, 5000, 60)).decode() == json.dumps(
        {"nodes": told}, separators=compact
    )
    assert b"".join(names_json(nodes)).decode() == json.dumps(
        {"nodes": [entry.report.node_id for entry in ordered]}, separators=compact
    )


def test_no_part_is_large() -> None:
    """Each goes to the connection as it is: no copy of the whole is ever made."""
    parts = details_json(entries(20_000), FAMILIES, 1010, 5000, 60)
    assert len(parts) == 200
    assert max(map(len, parts)) < PIECE


def test_others_have_their_turn_meanwhile() -> None:
    """Whoever wants the interpreter for a moment has it at once, not after its patience with the thread that has it."""
    nodes, ended, patience = entries(20_000), Event(), sys.getswitchinterval()
    limit: list[float] = []

    def take_turns() -> None:
        while not ended.wait(0.0001):
            limit.append(monotonic())

    sys.setswitchinterval(60)
    other = Thread(target=take_turns)
    other.start()
    try:
        details_json(nodes, FAMILIES, 1010, 5000, 60)
    finally:
        sys.setswitchinterval(patience)
        ended.set()
        other.join()
    assert len(limit) > 20


def test_a_listing_of_many_parts_over_http() -> None:
    """Its length is said before, it is all there, and HEAD says the same."""
    wire = Wire(max_nodes=3000)
    for start in range(0, 3000, 100):
        assert wire.report(b"[%s]" % b",".join(body(f"n{n:06}", page_faults=n) for n in range(start, start + 100)))
    answer, head = wire.ask("GET", "/nodes?details=true"), wire.ask("HEAD", "/nodes?details=true")
    assert [node["metrics"]["page_faults"] for node in answer.json["nodes"]] == list(range(3000))
    assert answer.headers["content-length"] == head.headers["content-length"] == str(len(answer.body))
    assert head.body == b""
