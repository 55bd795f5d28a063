"""What a store refuses is found, and nothing else is lost: against a store as strict as Prometheus."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from orchestratord.remote_write.client import Reply, Verdict
from orchestratord.remote_write.codec import Encoded
from orchestratord.remote_write.retrying_sender import RetryingSender
from orchestratord.remote_write.sample_row import SampleRow
from orchestratord.remote_write.sifting import MOST_SUSPECTS, Sieve, oldest_of_each
from tests.remote_write.test_retrying_sender import ACCEPTED, AWAY, Counts

HOUR = 3_600_000
NOW = 1_000 * HOUR


class Encoder:
    """Encodes rows as their ids and times, which the store reads."""

    def encode(self, rows: Any) -> Encoded:
        """Return the rows in the order of their times, as the real one has a node's."""
        ordered = sorted(rows, key=lambda row: row.timestamp)
        return Encoded(b" ".join(b"%b@%d" % (row.node_id, row.timestamp) for row in ordered), 9 * len(ordered))


class Head:
    """A store that takes a body whole or not at all, by the rules of Prometheus 2.42.

    `window` is its out-of-order window in milliseconds, 0 for none.
    """

    url = "http://store/write"

    def __init__(self, window: int = 0) -> None:
        self.window = window
        self.newest = NOW
        self.series: dict[bytes, int] = {}
        self.samples: set[tuple[bytes, int]] = set()
        self.requests = self.under_way = self.most_under_way = 0
        self.clock: Clock | None = None

    async def send(self, body: bytes) -> Reply:
        """Take a body, in 2 ms by the clock, if there is one."""
        self.requests += 1
        if self.clock is not None:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            answered: Deferred[None] = Deferred()
            self.clock.callLater(0.002, answered.callback, None)
            await answered
            self.under_way -= 1
        return self._judge(body)

    def _judge(self, body: bytes) -> Reply:
        rows = [(node, int(at)) for node, _, at in (part.partition(b"@") for part in body.split(b" "))]
        series, newest = dict(self.series), self.newest
        for node, at in rows:
            last = series.get(node)
            in_order = at > last if last is not None else at >= newest - HOUR
            if not in_order and at < newest - self.window:
                if self.window:
                    return Reply(Verdict.REFUSED, "answered 500: too old sample", too_old=True)
                if at < newest - HOUR:
                    return Reply(Verdict.REFUSED, "answered 400: out of bounds", too_old=True)
                return Reply(Verdict.REFUSED, "answered 400: out of order sample")
            series[node] = max(at, last or at)
            newest = max(newest, at)
        self.series, self.newest = series, newest
        self.samples |= set(rows)
        return ACCEPTED


class Scene:
    """A sender before a store."""

    def __init__(self, store: Any) -> None:
        self.store, self.clock, self.counts = store, Clock(), Counts()
        encoder: Any = Encoder()
        self.sender = RetryingSender(self.clock, encoder, store, self.counts, random=lambda: 1.0)

    def deliver(self, rows: list[SampleRow]) -> int:
        """Deliver a batch, and return how many requests it took."""
        before = self.store.requests
        results: list[Any] = []
        Deferred.fromCoroutine(self.sender.deliver(rows)).addBoth(results.append)
        assert results == [None]
        return int(self.store.requests - before)

    @property
    def dropped(self) -> int:
        """How many rows were given up."""
        return self.counts.counted.get("dropped", 0) // 9


def fleet(at: int, behind: int, count: int = 500) -> list[SampleRow]:
    """Return a row of each node within 10 s, every third of them so far behind, in the order of a random arrival."""
    rows = [SampleRow(b"n%d" % n, at + 20 * n - (behind if n % 3 == 0 else 0), b"") for n in range(count)]
    Random(count).shuffle(rows)
    return rows


@pytest.mark.parametrize("window", [0, HOUR // 2])
def test_clocks_that_are_behind_cost_no_good_report(window: int) -> None:
    """All good reports of a batch are in the store, and it takes a few requests, not one for each bad report."""
    scene = Scene(Head(window))
    requests = []
    for bucket in range(3):
        rows = fleet(NOW + 10_000 * bucket, 3 * HOUR)
        requests.append(scene.deliver(rows))
        good = {(row.node_id, row.timestamp) for row in rows if row.timestamp >= NOW}
        assert good <= scene.store.samples
        assert scene.dropped == 167 * (bucket + 1)
    assert requests[0] <= 22
    assert requests[1:] == [2, 2]


def test_clocks_that_are_set_right_again() -> None:
    """Their nodes are believed again with the first report that is good."""
    scene = Scene(Head())
    scene.deliver(fleet(NOW, 3 * HOUR))
    for bucket, requests in ((1, 3), (2, 1)):
        rows = fleet(NOW + 10_000 * bucket, 0)
        assert scene.deliver(rows) == requests
        assert {(row.node_id, row.timestamp) for row in rows} <= scene.store.samples


def test_clocks_that_were_set_back() -> None:
    """Out of order is each node's own matter: one request finds each of them, and the others are in the first."""
    scene = Scene(Head())
    scene.deliver(fleet(NOW, 0))
    for bucket in (1, 2):
        rows = fleet(NOW + 10_000 * bucket, HOUR // 2)
        requests = scene.deliver(rows)
        good = {(row.node_id, row.timestamp) for row in rows if row.timestamp >= NOW}
        assert good <= scene.store.samples
        assert scene.dropped == 167 * bucket
    assert requests == 1 + 167


def test_a_backlog_of_few_nodes_of_which_a_part_is_too_old() -> None:
    """No newer row of a node is delivered before an older one that is good: none of these would be taken any more."""
    scene = Scene(Head())
    rows = [
        SampleRow(b"n%d" % node, NOW - 2 * HOUR + 60_000 * minute, b"") for minute in range(120) for node in range(4)
    ]
    scene.deliver(rows)
    good = {(row.node_id, row.timestamp) for row in rows if row.timestamp >= NOW - HOUR}
    assert scene.store.samples == good
    assert scene.dropped == len(rows) - len(good)


def test_whatever_is_wrong_is_found() -> None:
    """At random: rows too old, out of order and good, of many and of few nodes; the store has each that it would take.

    What it would take is what it takes when it is given the rows one by one.
    """
    for seed in range(60):
        random = Random(seed)
        scene, alone = Scene(Head()), Head()
        nodes = random.choice((3, 40, 300))
        at = NOW
        for _ in range(4):
            rows = []
            for _ in range(200):
                at += 50
                behind = random.choices((0, HOUR // 3, 3 * HOUR), (8, random.choice((0, 1)), random.choice((0, 4))))[0]
                rows.append(SampleRow(b"n%d" % random.randrange(nodes), at - behind, b""))
            scene.deliver(rows)
            for row in sorted(rows, key=lambda row: row.timestamp):
                alone._judge(b"%b@%d" % (row.node_id, row.timestamp))
            assert scene.store.samples == alone.samples, seed
        assert scene.dropped + len(scene.store.samples) == 800


def test_looking_leaves_room_for_other_work() -> None:
    """However many batches are looked through, one such request is under way, and there is a pause after each."""
    store = Head()
    scene = Scene(store)
    scene.deliver([SampleRow(b"n%d" % node, NOW + 1, b"") for node in range(80)])
    store.clock, store.requests = scene.clock, 0
    results: list[Any] = []
    for shard in range(4):
        rows = [SampleRow(b"n%d" % node, NOW, b"") for node in range(20 * shard, 20 * shard + 20)]
        Deferred.fromCoroutine(scene.sender.deliver(rows)).addBoth(results.append)
    scene.clock.advance(0.002)
    store.most_under_way = 0
    while len(results) < 4:
        (call,) = scene.clock.getDelayedCalls()
        scene.clock.advance(call.getTime() - scene.clock.seconds())
    assert results == [None] * 4
    assert store.most_under_way == 1
    assert store.requests == 4 * (2 * 20 - 1)
    assert scene.clock.seconds() == pytest.approx(0.004 * 4 * 38, rel=0.1)
    assert scene.dropped == 80


def test_a_store_that_was_away_may_have_another_limit() -> None:
    """What it refused before as too old is asked again."""
    replies = [Reply(Verdict.REFUSED, "too old", too_old=True), AWAY, ACCEPTED, ACCEPTED]
    asked: list[bytes] = []

    class Store:
        url = "http://store/write"

        async def send(self, body: bytes) -> Reply:
            asked.append(body)
            return await succeed(replies.pop(0))

    store: Any = Store()
    scene = Scene(store)
    store.requests = 0
    scene.deliver([SampleRow(b"a", 1000, b"")])
    scene.deliver([SampleRow(b"b", 900, b"")])
    assert scene.dropped == 2
    Deferred.fromCoroutine(scene.sender.deliver([SampleRow(b"c", 2000, b"")]))
    scene.clock.advance(1)
    scene.deliver([SampleRow(b"d", 800, b"")])
    assert asked == [b"a@1000", b"c@2000", b"c@2000", b"d@800"]


def test_the_oldest_of_each() -> None:
    """By their times, whatever the order of their arrival."""
    rows = [SampleRow(b"a", 5, b""), SampleRow(b"b", 4, b""), SampleRow(b"a", 3, b""), SampleRow(b"c", 9, b"")]
    assert oldest_of_each(rows, 9) == [SampleRow(b"a", 3, b""), SampleRow(b"b", 4, b"")]


def test_suspects_are_bounded() -> None:
    """The oldest are forgotten."""
    sieve = Sieve()
    sieve.refused([SampleRow(b"%d" % number, 1, b"") for number in range(MOST_SUSPECTS + 2)])
    _, suspects = sieve.part([SampleRow(b"%d" % number, 2, b"") for number in (0, 1, 2, MOST_SUSPECTS)])
    assert [row.node_id for row in suspects] == [b"2", b"%d" % MOST_SUSPECTS]
