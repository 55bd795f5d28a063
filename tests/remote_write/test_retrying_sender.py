"""Batches to a store: tried again until it takes them, and halved until the row that it refuses is alone."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from orchestratord.remote_write.client import Reply, Verdict
from orchestratord.remote_write.codec import Encoded
from orchestratord.remote_write.retrying_sender import FIRST_WAIT, LONGEST_WAIT, REFUSALS_EVERY, RetryingSender
from orchestratord.remote_write.sample_row import SampleRow

ACCEPTED = Reply(Verdict.ACCEPTED)
AWAY = Reply(Verdict.RETRY, "answered 503: no")


class PlainEncoder:
    """Encodes rows as their ids, so that a store can be asked what it has."""

    def encode(self, rows: Any) -> Encoded:
        """Return the ids, and nine samples for each."""
        return Encoded(b" ".join(row.node_id for row in rows), 9 * len(rows))


class Store:
    """Answers with what `judge` says of the ids of a body, and keeps what it has accepted."""

    url = "http://store/write"

    def __init__(self, judge: Any = lambda _: ACCEPTED) -> None:
        self.judge = judge
        self.bodies: list[list[bytes]] = []
        self.accepted: list[bytes] = []

    async def send(self, body: bytes) -> Reply:
        """Judge a body."""
        ids = body.split(b" ")
        self.bodies.append(ids)
        reply: Reply = self.judge(ids)
        if reply.verdict is Verdict.ACCEPTED:
            self.accepted += ids
        return reply


class Counts:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.counted: dict[str, int] = {}
        self.is_up: bool | None = None

    def accepted(self, samples: int, seconds: float) -> None:
        """Count."""
        assert seconds >= 0
        self._count("accepted", samples)

    def retried(self, samples: int, seconds: float) -> None:
        """Count."""
        assert seconds >= 0
        self._count("retried", samples)

    def refused(self, samples: int, seconds: float) -> None:
        """Count."""
        assert seconds >= 0
        self._count("refused", samples)

    def dropped(self, samples: int) -> None:
        """Count."""
        self._count("dropped", samples)

    def up(self, up: bool) -> None:
        """Remember."""
        self.is_up = up

    def _count(self, what: str, samples: int) -> None:
        self.counted[what] = self.counted.get(what, 0) + samples


def rows(count: int, first: int = 0) -> list[SampleRow]:
    """Return rows of so many nodes."""
    return [SampleRow(b"n%d" % index, 1000, b"") for index in range(first, first + count)]


class Scene:
    """A sender, what it sends to, and its clock."""

    def __init__(self, judge: Any = lambda _: ACCEPTED) -> None:
        self.clock, self.store, self.counts = Clock(), Store(judge), Counts()
        encoder: Any = PlainEncoder()
        self.sender = RetryingSender(self.clock, encoder, self.store, self.counts, random=lambda: 1.0)

    def deliver(self, batch: list[SampleRow]) -> list[Any]:
        """Return a list that gets a result when the batch is delivered."""
        results: list[Any] = []
        self.working = Deferred.fromCoroutine(self.sender.deliver(batch))
        self.working.addBoth(results.append)
        return results


def test_what_is_accepted_is_sent_once() -> None:
    """And counted."""
    scene = Scene()
    assert scene.deliver(rows(3)) == [None]
    assert scene.store.bodies == [[b"n0", b"n1", b"n2"]]
    assert scene.counts.counted == {"accepted": 27}
    assert scene.counts.is_up is True
    assert scene.sender.last_trouble == float("-inf")


def test_a_store_that_is_away_is_tried_less_and_less_often_for_ever() -> None:
    """Nothing is dropped, one line is logged when it goes and one when it is back."""
    scene = Scene(lambda _: AWAY)
    with capturedLogs() as events:
        results = scene.deliver(rows(2))
        waits = []
        for _ in range(10):
            (call,) = scene.clock.getDelayedCalls()
            waits.append(call.getTime() - scene.clock.seconds())
            scene.clock.advance(waits[-1])
        assert scene.counts.is_up is False
        scene.store.judge = lambda _: ACCEPTED
        scene.clock.advance(LONGEST_WAIT)
    assert results == [None]
    assert waits[:3] == pytest.approx([FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT])
    assert waits[-1] == pytest.approx(LONGEST_WAIT)
    assert scene.counts.counted == {"retried": 11 * 18, "accepted": 18}
    assert scene.sender.last_trouble > 0
    texts = [
        event["log_format"]
        for event in events
        if event["log_namespace"] == "orchestratord.remote_write.retrying_sender"
    ]
    assert [text.split(", ")[0] for text in texts] == ["{store} takes no reports", "{store} takes reports again"]


def test_the_wait_is_jittered() -> None:
    """Between half and whole, so that many orchestrators do not come back in step."""
    scene = Scene(lambda _: AWAY)
    scene.sender._random = lambda: 0.0
    scene.deliver(rows(1))
    (call,) = scene.clock.getDelayedCalls()
    assert call.getTime() == FIRST_WAIT / 2


def test_a_store_is_left_alone_for_as_long_as_it_asks() -> None:
    """Retry-After."""
    scene = Scene(lambda _: Reply(Verdict.RETRY, "answered 429", 30.0))
    scene.deliver(rows(1))
    (call,) = scene.clock.getDelayedCalls()
    assert call.getTime() == 30.0


def test_one_bad_row_takes_no_other_with_it() -> None:
    """It is found by halves, in order, and dropped alone."""
    bad = b"n137"
    scene = Scene(lambda ids: Reply(Verdict.REFUSED, "bad") if bad in ids else ACCEPTED)
    with capturedLogs() as events:
        assert scene.deliver(rows(500)) == [None]
    assert scene.store.accepted == [row.node_id for row in rows(500) if row.node_id != bad]
    assert scene.counts.counted["dropped"] == 9
    assert scene.counts.counted["accepted"] == 9 * 499
    assert len(scene.store.bodies) < 25
    (told,) = [event for event in events if event["log_namespace"] == "orchestratord.remote_write.retrying_sender"]
    assert (told["reports"], told["reason"]) == (1, "bad")


def test_a_store_that_refuses_everything_ends() -> None:
    """Each row is refused alone, and counted as dropped; the next time there is one request for each row, no more."""
    scene = Scene(lambda _: Reply(Verdict.REFUSED, "bad"))
    assert scene.deliver(rows(500)) == [None]
    assert scene.counts.counted["dropped"] == 9 * 500
    assert len(scene.store.bodies) == 2 * 500 - 1
    scene.store.bodies.clear()
    assert scene.deliver(rows(500)) == [None]
    assert len(scene.store.bodies) == 500


def test_refusals_are_told_once_a_minute() -> None:
    """With how many there were meanwhile."""
    scene = Scene(lambda _: Reply(Verdict.REFUSED, "answered 400: no"))
    with capturedLogs() as events:
        for _ in range(3):
            scene.deliver(rows(1))
        scene.clock.advance(REFUSALS_EVERY)
        scene.deliver(rows(1))
    told = [
        event["reports"] for event in events if event["log_namespace"] == "orchestratord.remote_write.retrying_sender"
    ]
    assert told == [1, 3]


def test_it_can_be_cancelled_while_it_waits() -> None:
    """At the end of the daemon."""
    scene = Scene(lambda _: AWAY)
    results = scene.deliver(rows(1))
    scene.working.cancel()
    assert results[0].check(CancelledError)
    assert not scene.clock.getDelayedCalls()


def test_why_nothing_gets_there() -> None:
    """Told while the store is away or refuses everything, not for the sake of one bad report."""
    bad = Reply(Verdict.REFUSED, "answered 400: bad")
    replies = [AWAY, ACCEPTED, Reply(Verdict.RETRY, "answered 404: no such path"), bad]
    scene = Scene(lambda _: replies.pop(0))
    assert scene.sender.trouble is None
    scene.deliver(rows(1))
    assert scene.sender.trouble == "answered 503: no"
    scene.clock.advance(FIRST_WAIT)
    assert scene.sender.trouble is None
    scene.deliver(rows(1))
    assert scene.sender.trouble == "answered 404: no such path"
    scene.clock.advance(FIRST_WAIT)
    assert scene.sender.trouble is None
