"""The soak's ledger finds every way in which the promise can be broken, and takes what is right for right."""

from __future__ import annotations

import pytest

from tests.soak.ledger import Breach, Broken, Ledger, Outcome, Report, kept_since

NODE = 7


def ledger() -> Ledger:
    """Return one with the limits of the field."""
    return Ledger(stale_after=60, slack=0.5)


def stored(book: Ledger, at: float, *, timestamp: float | None = None) -> Report:
    """Enter a report that is sent at a time and answered 200 a tenth of a second later; return it."""
    report = book.sent(NODE, at, timestamp=timestamp)
    assert book.ended(report, Outcome.STORED, at + 0.1) is None
    return report


def ended(book: Ledger, at: float, outcome: Outcome) -> Report:
    """Enter a report that ends otherwise; return it."""
    report = book.sent(NODE, at)
    assert book.ended(report, outcome, at + 0.1) is None
    return report


def breach(broken: Broken | None) -> Breach | None:
    """Return what was broken, if something was."""
    return None if broken is None else broken.breach


def test_a_stored_report_is_there() -> None:
    """One that was answered 200 is right where it is there."""
    book = ledger()
    report = stored(book, 0)
    assert book.look(NODE, report.number, 1, 2) is None
    assert book.holds(NODE, 1, 2)


def test_a_lost_report() -> None:
    """One that was answered 200 and is not there is lost; before the answer either is right."""
    book = ledger()
    report = book.sent(NODE, 10)
    assert book.look(NODE, None, 10, 10.05) is None
    book.ended(report, Outcome.STORED, 10.1)
    assert breach(book.look(NODE, None, 11, 12)) is Breach.LOST
    assert breach(book.look(NODE, None, 69, 69.4)) is Breach.LOST


def test_an_older_report_in_its_place() -> None:
    """The one before is no more, once a later one was answered 200."""
    book = ledger()
    first, second = stored(book, 0), stored(book, 10)
    assert breach(book.look(NODE, first.number, 11, 12)) is Breach.LOST
    assert book.look(NODE, second.number, 11, 12) is None


def test_a_look_while_a_report_is_under_way() -> None:
    """The old and the new are both right then, and so is a look that began before; nothing at all is not."""
    book = ledger()
    old = stored(book, 0)
    new = book.sent(NODE, 10)
    for seen in (old.number, new.number):
        assert book.look(NODE, seen, 9.9, 10.05) is None
    assert breach(book.look(NODE, None, 9.9, 10.05)) is Breach.LOST


def test_a_report_that_was_seen_stays() -> None:
    """Once a look has shown the new one, the old one does not come back, even if the answer was lost."""
    book = ledger()
    old = stored(book, 0)
    new = ended(book, 10, Outcome.UNKNOWN)
    assert book.look(NODE, old.number, 11, 12) is None
    assert book.look(NODE, new.number, 12, 13) is None
    assert breach(book.look(NODE, old.number, 14, 15)) is Breach.LOST


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.SUPERSEDED])
def test_a_phantom(outcome: Outcome) -> None:
    """A report that was not answered 200, or as superseded, is not there; the one before it is."""
    book = ledger()
    old = stored(book, 0, timestamp=100)
    late = book.sent(NODE, 10, timestamp=50)
    assert book.ended(late, outcome, 10.1) is None
    assert breach(book.look(NODE, late.number, 11, 12)) is Breach.PHANTOM
    assert book.look(NODE, old.number, 11, 12) is None


def test_a_phantom_of_a_node_that_never_reported() -> None:
    """What nobody has sent is not there, nor is a report that is yet to come."""
    book = ledger()
    assert breach(book.look(NODE, 0, 1, 2)) is Breach.PHANTOM
    report = stored(book, 10)
    assert breach(book.look(NODE, report.number + 1, 11, 12)) is Breach.PHANTOM


def test_a_phantom_that_is_refused_after_it_was_seen() -> None:
    """A report that is stored before it is refused is found out by its answer."""
    book = ledger()
    report = book.sent(NODE, 10)
    assert book.look(NODE, report.number, 10.1, 10.2) is None
    assert breach(book.ended(report, Outcome.REFUSED, 10.3)) is Breach.PHANTOM


def test_a_stale_node_that_is_served() -> None:
    """A node is gone once its report is as old as the limit, however long its answer took; never sooner."""
    book = ledger()
    report = stored(book, 0)
    assert breach(book.look(NODE, None, 59, 59.4)) is Breach.LOST
    assert book.look(NODE, report.number, 60.3, 61) is None
    assert book.look(NODE, None, 60.1, 61) is None
    assert breach(book.look(NODE, report.number, 60.7, 61)) is Breach.STALE


def test_a_deleted_node() -> None:
    """A node that was forgotten is not there until it reports again."""
    book = ledger()
    old = stored(book, 0)
    deletion = book.sent(NODE, 5, gone=True)
    assert book.look(NODE, None, 5, 5.05) is None
    book.ended(deletion, Outcome.STORED, 5.1)
    assert book.look(NODE, None, 6, 7) is None
    assert breach(book.look(NODE, old.number, 6, 7)) is Breach.LOST
    new = stored(book, 10)
    assert breach(book.look(NODE, None, 11, 12)) is Breach.LOST
    assert book.look(NODE, new.number, 11, 12) is None


def test_superseded_wrongly() -> None:
    """A report that is the newest is not superseded, and one that is older than a fresh one does not replace it."""
    book = ledger()
    stored(book, 0, timestamp=100)
    newest = book.sent(NODE, 10, timestamp=110)
    assert breach(book.ended(newest, Outcome.SUPERSEDED, 10.1)) is Breach.LOST
    late = book.sent(NODE, 20, timestamp=50)
    assert breach(book.ended(late, Outcome.STORED, 20.1)) is Breach.LOST


def test_a_late_report_of_a_stale_node() -> None:
    """There is nothing that it could be superseded by."""
    book = ledger()
    stored(book, 0, timestamp=100)
    late = book.sent(NODE, 61, timestamp=50)
    assert book.ended(late, Outcome.STORED, 61.1) is None


def test_a_clean_restart_loses_nothing() -> None:
    """What was answered 200 before a SIGTERM is there after it."""
    book = ledger()
    report = stored(book, 9)
    book.restarted(10, kept_since(10, clean=True, snapshot_every=10, write=2))
    assert breach(book.look(NODE, None, 12, 13)) is Breach.LOST
    assert book.look(NODE, report.number, 12, 13) is None


def test_a_killed_daemon_keeps_its_last_snapshot() -> None:
    """Of what came after it either is right, but not what went before it; the next report ends the doubt."""
    book = ledger()
    older, old, new = stored(book, 0), stored(book, 5), stored(book, 25)
    book.restarted(30, kept_since(30, clean=False, snapshot_every=10, write=2))
    assert book.look(NODE, old.number, 31, 32) is None
    assert breach(book.look(NODE, None, 31, 32)) is Breach.LOST
    assert breach(book.look(NODE, older.number, 31, 32)) is Breach.LOST
    assert book.look(NODE, new.number, 33, 34) is None
    assert breach(book.look(NODE, old.number, 35, 36)) is Breach.LOST
    newest = stored(book, 37)
    assert breach(book.look(NODE, new.number, 38, 39)) is Breach.LOST
    assert book.look(NODE, newest.number, 38, 39) is None


def test_a_new_node_is_in_doubt_after_a_kill() -> None:
    """One that first reported after the last snapshot may be missing until it reports again."""
    book = ledger()
    stored(book, 25)
    book.restarted(30, kept_since(30, clean=False, snapshot_every=10, write=2))
    assert book.look(NODE, None, 31, 32) is None
    stored(book, 35)
    assert breach(book.look(NODE, None, 36, 37)) is Breach.LOST


def test_without_snapshots_nothing_is_kept() -> None:
    """A daemon that keeps nothing may start empty, after whatever end; what it then answers 200 must be there."""
    for clean in (True, False):
        book = ledger()
        stored(book, 0)
        book.restarted(10, kept_since(10, clean=clean, snapshot_every=None, write=2))
        assert book.look(NODE, None, 11, 12) is None
        stored(book, 20)
        assert breach(book.look(NODE, None, 21, 22)) is Breach.LOST


def test_an_answer_that_comes_after_the_end() -> None:
    """A 200 of a daemon that was killed meanwhile promises no more than its last snapshot."""
    book = ledger()
    report = book.sent(NODE, 9.9)
    book.restarted(10, kept_since(10, clean=False, snapshot_every=10, write=2))
    book.ended(report, Outcome.STORED, 10.1)
    assert book.look(NODE, None, 11, 12) is None
    assert book.look(NODE, report.number, 11, 12) is None


def test_the_ledger_is_bounded() -> None:
    """It forgets what no look can be about any more, and an old report is still found to be one."""
    book = ledger()
    first = stored(book, 0)
    for at in range(10, 10_000, 10):
        stored(book, at)
    assert len(book._reports[NODE]) < 20
    assert breach(book.look(NODE, first.number, 9_995, 9_996)) is Breach.LOST
    for at in range(10_000, 20_000, 10):
        ended(book, at, Outcome.UNKNOWN)
    assert len(book._reports[NODE]) <= 101
