"""The soak's other pure parts: what nodes report, when faults come, what they suspend, what is said in the end."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from math import nan
from typing import TYPE_CHECKING

import pytest

from tests.soak import figures
from tests.soak.account import Account
from tests.soak.field import Size
from tests.soak.plan import Plan, schedule, short
from tests.soak.readings import FAMILIES, node_number, number_of, origin, values
from tests.soak.run import Outcome
from tests.soak.suspensions import NOTHING_WORKS, Service, Suspensions

if TYPE_CHECKING:
    from pathlib import Path


def test_values_tell_their_report() -> None:
    """A report's values are those of no other, of its node or another, and no mixture of two is taken for one."""
    seen = values(12, 3)
    assert len(seen) == len(FAMILIES)
    assert number_of(12, seen) == 3
    assert number_of(13, seen) is None
    assert number_of(12, {**seen, FAMILIES[3]: values(12, 4)[FAMILIES[3]]}) is None
    assert number_of(12, dict(list(seen.items())[:-1])) is None
    assert number_of(12, {}) is None
    assert origin(12, FAMILIES[5], values(12, 9)[FAMILIES[5]]) == 9
    assert origin(12, FAMILIES[5], values(12, 9)[FAMILIES[4]]) is None
    assert origin(12, FAMILIES[5], nan) is None


def test_absent_is_not_zero() -> None:
    """Some reports leave families out, and must be seen without them."""
    sparse = values(12, 6)
    assert len(sparse) < len(FAMILIES)
    assert number_of(12, sparse) == 6
    assert number_of(12, {**dict.fromkeys(FAMILIES, 0), **sparse}) is None


def test_ids_of_our_nodes() -> None:
    """An id that the soak did not make has no number."""
    assert node_number("node-000012") == 12
    assert [node_number(name) for name in ("node-12", "slow-000012", "node-x", "")] == [None] * 4


def test_a_seed_repeats_the_schedule() -> None:
    """The same seed has the same faults at the same times, another has others, and each kind comes in every round."""
    kinds = ["a", "b", "c", "d"]
    first = list(islice(schedule(Plan(1, 10), kinds, "x"), 12))
    assert first == list(islice(schedule(Plan(1, 10), kinds[::-1], "x"), 12))
    assert first != list(islice(schedule(Plan(2, 10), kinds, "x"), 12))
    for start in (0, 4, 8):
        assert sorted(due.kind for due in first[start : start + 4]) == kinds


def test_what_is_suspended() -> None:
    """A fault suspends what it says for as long as it lasts; a time that only touches it is covered."""
    suspensions = Suspensions()
    suspensions.begin(frozenset({Service.QUERIES}), 10)
    assert suspensions.covers(Service.QUERIES, 12, 13)
    suspensions.end(20)
    assert suspensions.covers(Service.QUERIES, 19, 25)
    assert not suspensions.covers(Service.QUERIES, 21, 25)
    assert not suspensions.covers(Service.REPORTS, 12, 13)
    suspensions.begin(NOTHING_WORKS, 30, until=40)
    suspensions.end(31)
    assert suspensions.covers(Service.REPORTS, 35, 36)
    assert not suspensions.any(41, 42)


def outcome(account: Account, *, grown: float = 0.0, more_descriptors: int = 0) -> Outcome:
    """Return what a run has come to, in which the daemon has grown by a share, and opened so many descriptors more."""
    start = Size(100_000_000, 1000)
    end = Size(int(start.resident * (1 + grown)), start.descriptors + more_descriptors)
    return Outcome(Plan(1, 10), account, start, start, end, [], 300, 10)


def fair() -> Account:
    """Return the account of a run in which every promise was kept."""
    account = Account()
    account.reports.update({"sent": 100, "200": 100})
    account.queries["200"] = 10
    account.looks["tables"] = 3
    return account


def test_promises_kept() -> None:
    """Then there is nothing to say."""
    assert figures.broken(outcome(fair(), grown=0.04)) == []
    assert "| lost | **0** |" in figures.markdown(outcome(fair()))


def test_promises_broken() -> None:
    """A lost report, memory that grows, descriptors that stay open: each is said, and so is a run without answers."""
    account = fair()
    account.breaks("lost", "node 7")
    assert figures.broken(outcome(account)) == ["lost: broken 1 times"]
    assert "| lost | **1** |" in figures.markdown(outcome(account))
    assert "memory" in figures.broken(outcome(fair(), grown=0.06))[0]
    assert "descriptors" in figures.broken(outcome(fair(), more_descriptors=200))[0]
    assert figures.broken(outcome(Account()))
    late = replace(outcome(fair()), failed=["504"])
    assert "1 of 10 queries" in figures.broken(late)[0]


def test_what_turns_out_to_be_excused() -> None:
    """A failure counts unless a suspension covers it, also one that is noted only later."""
    account = Account()
    account.unless(Service.REPORTS, 10, 11, "answered", "was not")
    account.unless(Service.REPORTS, 20, 21, "answered", "was not either")
    account.suspensions.begin(NOTHING_WORKS, 9, until=12)
    account.conclude()
    assert account.broken == {"answered": 1}


def test_figures_are_written_between_the_marks(tmp_path: Path) -> None:
    """What stands around them stays; a document without marks is left alone."""
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nafter\n")
    figures.write("new", document)
    assert document.read_text() == "before\n<!-- soak: begin -->\nnew\n<!-- soak: end -->\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="soak: begin"):
        figures.write("new", document)
    assert document.read_text() == "nothing"


def test_the_short_run_has_every_kind_of_load() -> None:
    """It is smaller, not simpler: queries still end before the scheduler's patience, nodes still go stale."""
    plan = short(1)
    assert not plan.whole
    assert plan.query_timeout < 3
    assert plan.interval < plan.stale_after < 20
