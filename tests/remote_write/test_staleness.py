"""Stale markers: for whoever is silent everywhere, and for nobody else."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from orchestratord.errors import QueryTimeout
from orchestratord.nodes.families import BUILT_IN, LAST_REPORT
from orchestratord.nodes.store import NodeStore
from orchestratord.remote_write.node_directory import Known
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRowFormat, row_names
from orchestratord.remote_write.staleness import ASK_AGAIN, LATE, LEAST_SEARCH_EVERY, MOST_AGAIN, QUIET, StaleMarkers
from tests.fakes import NOW, report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = row_names(BUILT_IN)
FORMAT = SampleRowFormat(NAMES)
EVERY_NAME = frozenset(NAMES)


class Store:
    """Knows what the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.nodes: dict[str, Known] = {}
        self.asked: list[list[str]] = []
        self.asked_for_all: list[list[str]] = []
        self.searches = 0
        self.fault: Exception | None = None
        #: What its answers wait for, if it hangs; they are what it knew when it was asked.
        self.hanging: Deferred[None] | None = None

    async def heard(self, node_ids: Sequence[str]) -> Mapping[str, float]:
        """Return when these last reported."""
        self.asked.append(list(node_ids))
        if self.fault:
            raise self.fault
        found = {node_id: self.nodes.get(node_id) for node_id in node_ids}
        if self.hanging is not None:
            await self.hanging
        return {node_id: one.last_report for node_id, one in found.items() if one and LAST_REPORT in one.names}

    async def known(self, node_ids: Sequence[str]) -> Mapping[str, Known]:
        """Return what is known of these."""
        self.asked_for_all.append(list(node_ids))
        if self.fault:
            raise self.fault
        return {node_id: self.nodes[node_id] for node_id in node_ids if node_id in self.nodes}

    async def silent(self, before: float) -> Mapping[str, float]:
        """Return who is silent."""
        self.searches += 1
        if self.fault:
            raise self.fault
        return {node_id: known.last_report for node_id, known in self.nodes.items() if known.last_report < before}


class Outbox:
    """Keeps markers."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.quiet = float("inf")

    def quiet_for(self) -> float:
        """Return what the test says."""
        return self.quiet

    def add(self, rows: Sequence[bytes]) -> None:
        """Keep rows."""
        self.rows += rows


class Clocks:
    """Both times by a Clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def monotonic(self) -> float:
        """Return the time by which nodes age."""
        return self._clock.seconds()

    def time(self) -> float:
        """Return the Unix time."""
        return NOW + self._clock.seconds()


class Scene:
    """Endings between a table and a store that are the test's."""

    def __init__(self) -> None:
        self.clock, self.store, self.outbox = Clock(), Store(), Outbox()
        self.counted: Counter[str] = Counter()
        self.nodes = NodeStore(stale_after=60, max_nodes=1000)
        self.stale_markers = StaleMarkers(
            self.clock,
            self.nodes,
            self.store,
            self.outbox,
            form=FORMAT,
            names=NAMES,
            clocks=Clocks(self.clock),
            marked=self._marked,
        )
        self.nodes.observers.append(self.stale_markers)
        self.stale_markers.startService()

    def _marked(self, outcome: str, count: int) -> None:
        self.counted[outcome] += count

    def post(self, node_id: str, at: float, **fields: Any) -> None:
        """Store a report, here and in the store."""
        self.nodes.update(
            [report(node_id, timestamp=at, received_at=NOW + self.clock.seconds(), **fields)], self.clock.seconds()
        )
        self.store.nodes[node_id] = Known(at, EVERY_NAME)

    def wait(self, seconds: float) -> None:
        """Let time pass, and sweep."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            self.nodes.expire(self.clock.seconds(), 100)

    def markers(self) -> dict[str, float]:
        """Return who was ended, and when, in Unix seconds."""
        found = FORMAT.rows(b"".join(self.outbox.rows))
        assert all(set(map(bytes, zip(*[iter(row.values)] * 8, strict=True))) <= {STALE, ABSENT} for row in found)
        return {row.node_id.decode(): row.timestamp / 1000 for row in found}


def test_a_node_that_expires_is_ended_where_it_became_stale() -> None:
    """Not later: a report that is under way from elsewhere is newer than the marker."""
    scene = Scene()
    scene.post("a", NOW)
    scene.wait(59)
    assert scene.store.asked == []
    scene.wait(3)
    assert scene.markers() == {"a": NOW + 60}
    assert scene.counted == {"sent": 1}


def test_only_the_series_that_are_there_are_ended() -> None:
    """A family that the node never reported has none."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.nodes["a"] = Known(NOW, frozenset({"page_faults", LAST_REPORT}))
    scene.wait(62)
    (row,) = FORMAT.rows(b"".join(scene.outbox.rows))
    values = [row.values[8 * index : 8 * index + 8] for index in range(len(NAMES))]
    assert [name for name, value in zip(NAMES, values, strict=True) if value == STALE] == ["page_faults", LAST_REPORT]


def test_a_node_that_another_replica_has_heard_is_left_alone() -> None:
    """That one will end it."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.nodes["a"] = Known(NOW + 10, EVERY_NAME)
    scene.wait(62)
    assert scene.markers() == {}
    assert scene.counted == {"heard_elsewhere": 1}


def test_a_node_that_a_dead_replica_heard_last_is_ended() -> None:
    """Where it became stale, as that replica would have; soon after, and by nobody twice."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.nodes["a"] = Known(NOW + 10, EVERY_NAME)
    scene.wait(71)
    assert scene.markers() == {}
    scene.wait(2)
    assert scene.markers() == {"a": NOW + 70}
    assert scene.counted == {"heard_elsewhere": 1, "sent": 1}
    scene.wait(10)
    assert len(scene.outbox.rows) == 1


def test_a_clock_that_is_behind_does_not_end_a_node_early() -> None:
    """Its time is told from its last report here, which came a minute and a half later than it said."""
    scene = Scene()
    scene.post("a", NOW - 90)
    scene.store.nodes["a"] = Known(NOW - 40, EVERY_NAME)
    scene.wait(111)
    assert scene.markers() == {}
    scene.wait(2)
    assert scene.markers() == {"a": NOW + 20}


def test_a_node_that_goes_on_elsewhere_is_left_alone() -> None:
    """Whoever asks again finds a later report, or has heard from it; and does not ask a third time."""
    scene = Scene()
    for node_id in ("elsewhere", "here"):
        scene.post(node_id, NOW)
        scene.store.nodes[node_id] = Known(NOW + 10, EVERY_NAME)
    scene.wait(62)
    scene.store.nodes["elsewhere"] = Known(NOW + 65, EVERY_NAME)
    scene.post("here", NOW + 62)
    scene.wait(30)
    assert scene.markers() == {}
    assert scene.counted == {"heard_elsewhere": 2}
    assert scene.store.asked == [["elsewhere", "here"], ["elsewhere"]]


def test_what_is_asked_about_again_has_a_bound() -> None:
    """The rest is found by a search."""
    scene = Scene()
    scene.nodes.max_nodes = MOST_AGAIN + 1
    for number in range(MOST_AGAIN + 1):
        scene.post(f"n{number}", NOW)
        scene.store.nodes[f"n{number}"] = Known(NOW + 10, EVERY_NAME)
    scene.nodes.expire(61, MOST_AGAIN + 1)
    scene.clock.advance(61)
    scene.clock.advance(12)
    assert len(scene.markers()) == MOST_AGAIN


def test_a_node_that_has_ended_is_not_ended_again() -> None:
    """The store answers nothing of it any more."""
    scene = Scene()
    scene.post("a", NOW)
    del scene.store.nodes["a"]
    scene.wait(62)
    assert scene.markers() == {}
    assert scene.counted == {"ended_already": 1}


def test_a_node_that_is_back_before_the_store_was_asked_is_left_alone() -> None:
    """It was gone for a moment."""
    scene = Scene()
    scene.post("a", NOW)
    scene.outbox.quiet = 0.0
    scene.wait(62)
    scene.post("a", NOW + 62)
    scene.outbox.quiet = QUIET
    scene.wait(3)
    assert scene.markers() == {}


def test_the_store_is_asked_only_when_all_has_long_been_delivered() -> None:
    """Otherwise what another replica has heard may not be in it yet."""
    scene = Scene()
    scene.post("a", NOW)
    scene.outbox.quiet = QUIET - 0.1
    scene.wait(70)
    assert scene.store.asked == []
    scene.outbox.quiet = QUIET
    scene.wait(1)
    assert scene.markers() == {"a": NOW + 60}


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    """No marker is better than a wrong one."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.fault = QueryTimeout("no answer")
    scene.wait(61 + ASK_AGAIN)
    assert scene.markers() == {}
    assert scene.counted["unanswered"] > 0
    scene.store.fault = None
    scene.wait(ASK_AGAIN + QUIET + 1)
    assert scene.markers() == {"a": NOW + 60}


def test_a_store_that_cannot_be_asked_costs_no_memory() -> None:
    """Nodes come and go for hours: no more are kept in mind than the table holds, and those the newest."""
    scene = Scene()
    scene.outbox.quiet = 0.0
    scene.nodes.max_nodes = 5
    for minute in range(4):
        for index in range(3):
            scene.post(f"n{minute}-{index}", NOW + scene.clock.seconds())
        scene.wait(60)
    assert scene.counted == {"unanswered": 7}
    scene.outbox.quiet = QUIET
    scene.wait(1)
    assert scene.store.asked == [["n2-1", "n2-2", "n3-0", "n3-1", "n3-2"]]


def test_a_store_that_answers_again_is_given_time() -> None:
    """It may not have yet what the other replicas had for it while it was away."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.fault = QueryTimeout("no answer")
    scene.wait(70)
    scene.store.fault = None
    scene.wait(ASK_AGAIN + 1)
    asked = len(scene.store.asked)
    scene.wait(QUIET - 3)
    assert scene.markers() == {}
    assert len(scene.store.asked) == asked
    scene.store.nodes["a"] = Known(NOW + 65, EVERY_NAME)
    scene.wait(5)
    assert scene.markers() == {}
    assert scene.counted["heard_elsewhere"] == 1


def test_an_answer_that_comes_late_is_not_gone_by() -> None:
    """The store has hung, and what the other replicas had for it meanwhile is not in it yet."""
    scene = Scene()
    scene.post("a", NOW)
    hanging: Deferred[None] = Deferred()
    scene.store.hanging = hanging
    scene.wait(61)
    assert len(scene.store.asked) == 1
    scene.wait(LATE + 1)
    scene.store.hanging = None
    hanging.callback(None)
    scene.wait(QUIET - 1)
    assert len(scene.store.asked) == 1
    scene.store.nodes["a"] = Known(NOW + 55, EVERY_NAME)
    scene.wait(2)
    assert scene.markers() == {}
    assert scene.counted == {"heard_elsewhere": 1}


def test_it_is_asked_whether_it_is_back_while_reports_still_wait() -> None:
    """Both take their time, but not one after the other."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.fault = QueryTimeout("no answer")
    scene.wait(62)
    scene.outbox.quiet = 0.0
    scene.wait(20)
    assert scene.counted["unanswered"] > 0
    scene.store.fault = None
    scene.wait(QUIET + ASK_AGAIN)
    assert scene.markers() == {}
    scene.outbox.quiet = QUIET
    scene.wait(1)
    assert scene.markers() == {"a": NOW + 60}


def test_a_replica_that_has_just_started_gives_it_time_too() -> None:
    """It does not know for how long the store has been there."""
    scene = Scene()
    scene.post("a", NOW - 60)
    scene.nodes.expire(61, 1)
    scene.wait(QUIET - 1)
    assert scene.store.asked == []
    scene.wait(2)
    assert scene.markers() == {"a": NOW}


def test_many_nodes_are_asked_about_a_few_at_a_time() -> None:
    """A query has a length, and an answer too."""
    scene = Scene()
    scene.nodes.max_nodes = 2500
    for index in range(2500):
        scene.post(f"n{index}", NOW)
    scene.clock.advance(60)
    scene.nodes.expire(scene.clock.seconds(), 3000)
    scene.clock.advance(1)
    assert len(scene.markers()) == 2500
    assert sorted(map(len, scene.store.asked)) == [500, 1000, 1000]


def test_only_who_is_silent_is_asked_about_at_length() -> None:
    """Most nodes that expire have moved: when they last reported is all that is asked about them."""
    scene = Scene()
    for node_id in ("moved", "ended", "gone"):
        scene.post(node_id, NOW)
    scene.store.nodes["moved"] = Known(NOW + 10, EVERY_NAME)
    del scene.store.nodes["ended"]
    scene.wait(62)
    assert scene.store.asked == [["moved", "ended", "gone"]]
    assert scene.store.asked_for_all == [["gone"]]
    assert scene.counted == {"heard_elsewhere": 1, "ended_already": 1, "sent": 1}


def test_nobody_is_ended_of_whom_the_store_does_not_say_when_they_last_reported() -> None:
    """Another replica may have heard from them: no marker is better than a wrong one."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.nodes["a"] = Known(0.0, frozenset({"page_faults"}))
    scene.wait(62)
    assert scene.markers() == {}


def test_the_store_is_not_asked_about_nodes_that_are_back() -> None:
    """They are in the table: whatever the store says, they are left alone."""
    scene = Scene()
    scene.post("a", NOW)
    scene.outbox.quiet = 0.0
    scene.wait(62)
    scene.post("a", NOW + 62)
    scene.outbox.quiet = QUIET
    scene.wait(3)
    assert scene.store.asked == []


def test_a_node_that_is_back_while_the_store_is_asked_is_left_alone() -> None:
    """Whatever the store has answered, and whichever question was the last."""
    for method in ("heard", "known"):
        scene = Scene()
        scene.post("a", NOW)
        answer, answered = getattr(scene.store, method), Deferred[None]()

        async def slow(node_ids: Sequence[str], answer: Any = answer, answered: Any = answered) -> Any:
            found = await answer(node_ids)
            await answered
            return found

        setattr(scene.store, method, slow)
        scene.wait(62)
        scene.post("a", NOW + 62)
        answered.callback(None)
        scene.wait(3)
        assert scene.markers() == {}
        assert scene.counted == {}


def test_a_node_that_no_replica_knows_is_found_in_the_store() -> None:
    """Its replica is gone. It is ended if nothing has come from it between two searches."""
    scene = Scene()
    scene.store.nodes["a"] = Known(NOW - 100, EVERY_NAME)
    scene.wait(QUIET + 2)
    assert scene.markers() == {}
    scene.wait(60)
    assert scene.markers() == {"a": NOW - 40}
    assert scene.store.searches == 2


def test_a_node_whose_clock_is_behind_is_not_ended() -> None:
    """Its reports are old, and yet they come."""
    scene = Scene()
    for second in range(300):
        if second % 10 == 0:
            scene.store.nodes["a"] = Known(NOW + second - 100, EVERY_NAME)
        scene.wait(1)
    assert scene.store.searches >= 300 // max(60, LEAST_SEARCH_EVERY)
    assert scene.markers() == {}


def forget(scene: Scene, node_id: str) -> Any:
    """Return what `forget` returns."""
    results: list[Any] = []
    Deferred.fromCoroutine(scene.stale_markers.forget(node_id)).addBoth(results.append)
    return results[0]


def test_a_forgotten_node_ends_at_once() -> None:
    """Right behind its last report, here and in the store."""
    scene = Scene()
    scene.post("a", NOW)
    assert forget(scene, "a") is True
    assert scene.markers() == {"a": NOW + 0.001}
    assert scene.nodes.get("a", scene.clock.seconds()) is None
    scene.wait(70)
    assert scene.counted == {"sent": 1}


def test_a_report_that_comes_while_a_node_is_being_forgotten_is_forgotten_too() -> None:
    """Otherwise it would be gone from the table, and fresh in the store."""
    scene = Scene()
    scene.post("a", NOW)
    ask, answered = scene.store.known, Deferred[None]()

    async def slow(node_ids: Sequence[str]) -> Mapping[str, Known]:
        found = await ask(node_ids)
        await answered
        return found

    scene.store.known = slow  # type: ignore[method-assign]
    forgetting = Deferred.fromCoroutine(scene.stale_markers.forget("a"))
    scene.post("a", NOW + 10)
    answered.callback(None)
    assert forgetting.result is True
    assert scene.nodes.get("a", scene.clock.seconds()) is None
    assert scene.markers() == {"a": NOW + 10.001}


def test_a_node_that_only_the_store_knows_can_be_forgotten() -> None:
    """Another replica has heard it: any may be told."""
    scene = Scene()
    scene.store.nodes["a"] = Known(NOW - 5, EVERY_NAME)
    assert forget(scene, "a") is True
    assert scene.markers() == {"a": NOW - 5 + 0.001}


def test_what_nobody_knows_cannot_be_forgotten() -> None:
    """404."""
    scene = Scene()
    assert forget(scene, "a") is False
    assert scene.markers() == {}


def test_nothing_is_forgotten_if_the_store_does_not_answer() -> None:
    """The client can try again."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.fault = QueryTimeout("no answer")
    assert forget(scene, "a").check(QueryTimeout)
    assert scene.nodes.get("a", scene.clock.seconds()) is not None


def test_an_error_of_ours_does_not_end_the_looks() -> None:
    """It is logged; the next look is in a second."""
    scene = Scene()
    scene.post("a", NOW)
    scene.store.fault = ValueError("ours")
    with capturedLogs() as events:
        scene.wait(62)
    assert any("deciding about silent nodes failed" in (event["log_format"] or "") for event in events)
    scene.store.fault = None
    scene.wait(2)
    assert scene.markers() == {"a": NOW + 60}


def test_the_end_of_the_daemon_ends_the_looks() -> None:
    """Nothing is left behind."""
    scene = Scene()
    scene.stale_markers.stopService()
    assert not scene.clock.getDelayedCalls()
