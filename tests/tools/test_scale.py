"""The account of `make soak-scale` finds every way in which delivery can be wrong, and takes right for right."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING

import pytest

from orchestratord.nodes.families import LAST_REPORT
from tests.benchmarks import payloads
from tests.scale.book import NAMES, Book, Breach, Entry, Findings, Samples
from tests.scale.plan import REPLICAS, Deed, Plan, ending, long, short
from tests.soak.readings import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

NODE, OTHER = 7, 8
ID = payloads.node_id(NODE)
AT = 1_700_000_000_000
EXTERNAL = {"cluster": "soak"}


def entry(book: Book, number: int, *, node: int = NODE, answered: bool = True) -> Entry:
    """Enter a report that is sent at a time, one every 2 s, and answered 200 a tenth of a second later."""
    report = book.sent(node, 2.0 * number, AT + 2000 * number)
    report.left = 2.0 * number + 0.1
    if answered:
        report.answered = report.left
    return report


def delivered(*entries: Entry) -> Samples:
    """Return what a store has that has been given these reports."""
    samples: Samples = {}
    for one in entries:
        for family, value in one.samples().items():
            samples.setdefault((payloads.node_id(one.node), family), []).append((one.at, value))
    return samples


def compared(book: Book, samples: Samples) -> Findings:
    """Return what a comparison finds."""
    findings = Findings(lambda *_: None)
    book.compare(samples, findings)
    return findings


def test_what_is_right() -> None:
    """Every report there, sparse ones too, one of them twice and equal, one that got no answer: nothing is broken."""
    book = Book()
    entries = [entry(book, number, answered=number != 3) for number in range(8)]
    samples = delivered(*entries)
    samples[ID, FAMILIES[0]].append(samples[ID, FAMILIES[0]][2])
    findings = compared(book, samples)
    assert findings.counts == Counter()
    assert (findings.answered, findings.found, findings.lost, findings.unsure, findings.repeated) == (7, 7, 0, 1, 1)
    assert len(entries[6].samples()) == len(NAMES) - 2
    assert findings.samples == 8 * len(NAMES) - 2 + 1


def test_a_report_without_an_answer_may_be_missing() -> None:
    """Its sender cannot know."""
    book = Book()
    first = entry(book, 0)
    entry(book, 1, answered=False)
    assert compared(book, delivered(first)).counts == Counter()


def missing_report(book: Book) -> Samples:
    """One of three is not there."""
    first, _, third = (entry(book, number) for number in range(3))
    return delivered(first, third)


def missing_sample(book: Book) -> Samples:
    """One sample of one report is not there."""
    samples = delivered(entry(book, 0), entry(book, 1))
    samples[ID, FAMILIES[4]].pop()
    return samples


def missing_node(book: Book) -> Samples:
    """Nothing of a node is there."""
    entry(book, 0, node=OTHER)
    return delivered(entry(book, 0))


def wrong_value(book: Book) -> Samples:
    """A sample has the value of the report before."""
    samples = delivered(entry(book, 0), entry(book, 1))
    series = samples[ID, FAMILIES[1]]
    series[1] = (series[1][0], series[0][1])
    return samples


def arrival(book: Book) -> Samples:
    """The last report's time is another than its own."""
    samples = delivered(entry(book, 0))
    samples[ID, LAST_REPORT] = [(AT, AT / 1000 + 0.25)]
    return samples


def two_values(book: Book) -> Samples:
    """A store has kept two values of one time."""
    samples = delivered(entry(book, 0))
    samples[ID, FAMILIES[1]].append((AT, 1.0))
    return samples


def another_time(book: Book) -> Samples:
    """A report is there at its own time, and at another as well."""
    samples = delivered(entry(book, 0))
    samples[ID, FAMILIES[0]].append((AT + 1, samples[ID, FAMILIES[0]][0][1]))
    return samples


def absent_family(book: Book) -> Samples:
    """What was not in a report is in the store as 0."""
    entries = [entry(book, number) for number in range(7)]
    samples = delivered(*entries)
    samples[ID, FAMILIES[-1]].append((entries[6].at, 0.0))
    return samples


def refused(book: Book) -> Samples:
    """A report that was refused is there."""
    first, second = entry(book, 0), entry(book, 1, answered=False)
    second.refused = True
    return delivered(first, second)


def stranger(book: Book) -> Samples:
    """A node that never reported is there."""
    samples = delivered(entry(book, 0))
    samples["node-000099", FAMILIES[0]] = [(AT, 1.0)]
    return samples


@pytest.mark.parametrize(
    ("store", "breach"),
    [
        (missing_report, Breach.LOST),
        (missing_sample, Breach.LOST),
        (missing_node, Breach.LOST),
        (wrong_value, Breach.WRONG),
        (arrival, Breach.WRONG),
        (two_values, Breach.TWICE),
        (another_time, Breach.PHANTOM),
        (absent_family, Breach.PHANTOM),
        (refused, Breach.PHANTOM),
        (stranger, Breach.PHANTOM),
    ],
)
def test_what_is_wrong(store: Callable[[Book], Samples], breach: Breach) -> None:
    """A store in which one thing is wrong has just that breach, once for each sample, with its evidence."""
    book = Book()
    samples = store(book)
    evidence: list[tuple[Breach, str]] = []
    findings = Findings(lambda *found: evidence.append(found))
    book.compare(samples, findings)
    assert set(findings.counts) == {breach}
    assert [found for found, _ in evidence] == [breach] * findings.counts[breach]
    assert findings.counts[breach] == (len(NAMES) if store is refused else 1)
    assert findings.lost == (breach is Breach.LOST)


def test_labels_of_series() -> None:
    """A second series of a node and family is found, and so is a label that none should have, or one that lacks."""
    right = {"__name__": FAMILIES[0], "node_id": ID, **EXTERNAL}
    found: list[tuple[Breach, str]] = []
    findings = Findings(lambda *broken: found.append(broken))
    Book().compare_series([right, {**right, "__name__": FAMILIES[1]}], EXTERNAL, findings)
    assert found == []
    Book().compare_series([right, {**right, "replica": "a"}], EXTERNAL, findings)
    assert findings.counts == {Breach.LABELS: 1, Breach.SERIES: 1}
    Book().compare_series([{"__name__": FAMILIES[0], "node_id": ID}], EXTERNAL, findings)
    assert findings.counts == {Breach.LABELS: 2, Breach.SERIES: 1}


@pytest.mark.parametrize(("moment", "wrong"), [(AT + 500, 1), (AT + 2001, 1), (AT + 4001, 0), (AT + 26_500, 0)])
def test_a_marker_between_two_reports(moment: int, wrong: int) -> None:
    """A node that had ended between two reports was ended wrongly, unless they are further apart than the limit."""
    book = Book()
    for number in (0, 1, 2, 10, 13):
        entry(book, 0).at = AT + 2000 * number
    findings = Findings(lambda *_: None)
    book.compare_ends({(ID, LAST_REPORT): {moment}}, 10, findings)
    assert findings.counts[Breach.ENDED] == wrong


def test_a_marker_for_a_family_that_is_not_reported() -> None:
    """The family may end with the first report that lacks it, not before, and no other."""
    book = Book()
    entries = [entry(book, number) for number in range(8)]
    for family, moment, wrong in (
        (FAMILIES[-1], entries[6].at, 0),
        (FAMILIES[-1], entries[6].at - 1, 1),
        (FAMILIES[0], entries[6].at, 1),
    ):
        findings = Findings(lambda *_: None)
        book.compare_ends({(ID, family): {moment}}, 10, findings)
        assert findings.counts[Breach.ENDED] == wrong


def test_who_must_be_seen() -> None:
    """A node must be, from a while after its first answer until its last report is stale, or until it is deleted."""
    book = Book()
    for number in range(3):
        entry(book, number)
    entry(book, 3, answered=False)

    def surely(began: float, ended: float) -> bool:
        return book.surely(NODE, began, ended, stale_after=10, visible=1)

    assert not surely(1.0, 1.2)
    assert surely(1.2, 1.3)
    assert surely(13.8, 13.9)
    assert not surely(13.8, 14.1)
    assert book.last(NODE) == 6.1
    book.deleted[NODE] = 8.0
    assert surely(7.0, 7.9)
    assert not surely(7.9, 8.0)


def test_a_report_under_way_has_not_ended() -> None:
    """As long as a node waits for an answer it is not known when it was heard last."""
    book = Book()
    assert book.sent(NODE, 1.0, AT).answered == inf
    assert book.last(NODE) == inf


@pytest.mark.parametrize("plan", [long, short])
def test_every_kind_of_fault_comes(plan: Callable[[int], Plan]) -> None:
    """In both forms, at moments that a seed repeats, with each replica restarted, and no node that ends twice."""
    run = plan(1)
    assert run == plan(1)
    assert run.scene != plan(2).scene
    assert {due.deed for due in run.scene} == set(Deed)
    away = next(due for due in run.scene if due.deed is Deed.STOP_STORE)
    restarted = next(due for due in run.scene if due.deed is Deed.RESTART)
    assert away.at < restarted.at < away.at + away.lasts
    assert all(due.replica in range(REPLICAS) and due.at + due.lasts < run.seconds for due in run.scene)
    nodes = [node for nodes in ending(run) for node in nodes]
    assert len(nodes) == len(set(nodes)) < run.nodes
