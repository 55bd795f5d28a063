"""From a body of reports to the table."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from orchestratord.errors import Forbidden, NoFamily, TableFull
from orchestratord.nodes.intake import ReportIntake
from orchestratord.nodes.report_decoder import SLICE
from orchestratord.nodes.store import NodeStore
from orchestratord.runtime.time_slices import TimeSlices
from tests.fakes import FakeClocks, Metrics, body, decoder


class Setup:
    """An intake over an empty table of three slices of nodes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.nodes = NodeStore(stale_after=60, max_nodes=3 * SLICE)
        self.intake = ReportIntake(
            self.clock, decoder(), self.nodes, self.metrics.telemetry, FakeClocks(), slices=TimeSlices(self.clock)
        )

    def counted(self, outcome: str) -> float | None:
        """Return how many reports had an outcome."""
        return self.metrics.value("orchestrator_reports_total", outcome=outcome)


def batch(count: int) -> bytes:
    """Return a batch of reports of as many nodes."""
    return b"[" + b",".join(body(f"n{number}", page_faults=number) for number in range(count)) + b"]"


def test_a_body_is_stored_and_counted() -> None:
    """What it held and what became of it comes back."""
    setup = Setup()
    decoded, updated = setup.intake.take(body("a", page_faults=1), None)
    assert [report.node_id for report in decoded.reports] == updated.new == ["a"]
    assert (updated.accepted, setup.counted("accepted")) == (1, 1)


@pytest.mark.parametrize(
    ("sent", "node", "error"), [(batch(2), "n0", Forbidden), (batch(3 * SLICE + 1), None, TableFull)]
)
def test_of_a_refused_body_nothing_is_stored(sent: bytes, node: str | None, error: type[Exception]) -> None:
    """A node that its token does not allow, or one node too many: not one report of the body is in the table."""
    setup = Setup()
    with pytest.raises(error):
        setup.intake.take(sent, node)
    assert (len(setup.nodes), setup.counted("accepted")) == (0, 0)


def test_a_long_body_is_decoded_in_slices_and_stored_at_once() -> None:
    """The table has nothing of it until the last slice is decoded."""
    setup = Setup()
    seen = set()
    taking = Deferred.fromCoroutine(setup.intake.take_in_slices(batch(2 * SLICE), None))
    while not taking.called:
        seen.add(len(setup.nodes))
        setup.clock.advance(0)
    assert (seen, len(setup.nodes)) == ({0}, 2 * SLICE)


def test_in_slices_the_first_report_of_another_node_is_named() -> None:
    """By its number in the whole body."""
    setup = Setup()
    sent = b"[" + b",".join([body("a")] * SLICE + [body("b")]) + b"]"
    taking = Deferred.fromCoroutine(setup.intake.take_in_slices(sent, "a"))
    failures: list[object] = []
    taking.addErrback(lambda failure: failures.append(failure.value))
    while not failures:
        setup.clock.advance(0)
    assert isinstance(failures[0], Forbidden)
    assert str(failures[0]).endswith(f"at $[{SLICE}].node_id")


def test_refusals_are_counted_by_their_reason() -> None:
    """A fault by its outcome, its unknown names too; anything else as failed."""
    setup = Setup()
    setup.intake.count_refused(NoFamily("no name is a family", ["x", "y"]))
    setup.intake.count_refused(RuntimeError())
    assert (setup.counted(NoFamily.outcome), setup.counted("failed")) == (1, 1)
    assert setup.metrics.value("orchestrator_unknown_metrics_total") == 2
