"""What the reporter sends, when it retries, and what it logs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from twisted.internet.error import ConnectionRefusedError as Refused

from orchestratord import __version__
from orchestratord.profiler.reporter import MAX_ANSWER_BYTES, Reporter
from tests.profiler.fakes import URL, FakeReactor, Network, bucket, reporter


class TestReporter:
    """Reporter: sends buckets to the orchestrator."""

    def test_report(self, reactor: FakeReactor) -> None:
        """A report is the node's name, the bucket's end, the eight families, and how they were measured."""
        network = Network()
        reporter(reactor, network).offer(bucket(1.5, page_faults=2))
        assert network.orchestrator.paths == [b"/update_metrics"]
        assert network.orchestrator.reports == [
            {
                "node_id": "node-1",
                "timestamp": 1.5,
                "source": "fake",
                "interval_seconds": 10,
                "profiler_version": __version__,
                "mem_bytes_allocated": 1,
                "page_faults": 2,
                "ctx_switches_graceful": 3,
                "ctx_switches_forced": 4,
                "fs_read_count": 5,
                "fs_read_size_kb": 6.5,
                "fs_write_count": 7,
                "fs_write_size_kb": 8.5,
            }
        ]

    def test_token(self, reactor: FakeReactor) -> None:
        """Each report and each retry has the current bearer token. Without a token there is no header."""
        network = Network()
        tokens = iter([b"first", b"second", b"third"])
        reports = Reporter(reactor, network, URL, "n", deadline=5, interval=10, renew=int, token=lambda: next(tokens))
        network.orchestrator.answers = [(401, b"{}", {})]
        reports.offer(bucket(1))
        reactor.advance(1)
        reports.offer(bucket(2))
        reporter(reactor, network).offer(bucket(3))
        assert network.orchestrator.authorizations == ["Bearer first", "Bearer second", "Bearer third", None]

    @pytest.mark.parametrize("code", [401, 403])
    def test_log_of_a_token_that_is_refused(self, reactor: FakeReactor, lines: list[str], code: int) -> None:
        """One line with the error text, without the token, and one when reports are accepted again."""
        network = Network()
        error = json.dumps({"error": "this takes a token of the role report"}).encode()
        network.orchestrator.answers = [(code, error, {})] * 3
        token = b"secret-of-this-node"
        reports = Reporter(reactor, network, URL, "n", deadline=5, interval=10, renew=int, token=lambda: token)
        reports.offer(bucket(1))
        reactor.pump([1] * 10)
        assert lines == [
            f"{URL} does not accept the reports: {code} this takes a token of the role report",
            f"{URL} accepts the reports again; 0 were lost",
        ]

    def test_family_that_is_not_measured(self, reactor: FakeReactor) -> None:
        """The report leaves it out: null would be refused, and 0 would be wrong."""
        network = Network()
        reporter(reactor, network).offer(replace(bucket(1.5), page_faults=None))
        (report,) = network.orchestrator.reports
        assert "page_faults" not in report
        assert report["mem_bytes_allocated"] == 1

    def test_log_of_warnings(self, reactor: FakeReactor, lines: list[str]) -> None:
        """A warning of the orchestrator about an accepted report is logged once, in one line; so are ignored fields."""
        network = Network()
        answer = {"status": "Metrics updated", "warnings": ["too\nrare"], "ignored": ["source"]}
        network.orchestrator.answers = [(200, json.dumps(answer).encode(), {})] * 3
        reports = reporter(reactor, network)
        for second in range(3):
            reports.offer(bucket(second))
        assert lines == [
            f"{URL} accepts the reports of node-1",
            f"{URL} warns about the reports: too rare",
            f"{URL} warns about the reports: it ignores source",
        ]

    def test_warnings_without_end(self, reactor: FakeReactor, lines: list[str]) -> None:
        """At most ten different warnings are logged."""
        network = Network()
        network.orchestrator.answers = [
            (200, json.dumps({"warnings": [f"{second}"]}).encode(), {}) for second in range(50)
        ]
        reports = reporter(reactor, network)
        for second in range(50):
            reports.offer(bucket(second))
        assert len(lines) == 11

    @pytest.mark.parametrize(("chance", "reports_each"), [(0.0, 6), (0.5, 7), (1.0, 9)])
    def test_connection_gets_old(self, reactor: FakeReactor, chance: float, reports_each: int) -> None:
        """A connection is closed between two reports when it is 48 to 72 s old."""
        network = Network()
        renewed: list[float] = []
        reports = Reporter(
            reactor,
            network,
            URL,
            "n",
            deadline=5,
            interval=10,
            renew=lambda: renewed.append(reactor.seconds()),
            draw=lambda: chance,
        )
        for _ in range(2 * reports_each):
            reports.offer(bucket(1))
            reactor.advance(10)
        assert len(network.orchestrator.reports) == 2 * reports_each
        assert [at - 1_700_000_000 for at in renewed] == [10 * (reports_each - 1), 20 * (reports_each - 1)][
            : len(renewed)
        ]
        assert renewed

    def test_log_of_success(self, reactor: FakeReactor, lines: list[str]) -> None:
        """Only the first accepted report is logged."""
        reports = reporter(reactor, Network())
        for second in range(5):
            reports.offer(bucket(second))
        assert lines == [f"{URL} accepts the reports of node-1"]

    def test_retry(self, reactor: FakeReactor) -> None:
        """A report that could not be delivered is sent again, each time after twice the pause."""
        network = Network()
        network.orchestrator.answers = [(503, b"", {})] * 3
        reporter(reactor, network).offer(bucket(1))
        sent = []
        for pause in (0.75, 1.5, 3.0):
            reactor.advance(pause - 0.01)
            sent.append(len(network.orchestrator.reports))
            reactor.advance(0.01)
        assert sent == [1, 2, 3]
        assert len(network.orchestrator.reports) == 4
        assert reactor.getDelayedCalls() == []

    def test_pause_has_a_bound(self, reactor: FakeReactor) -> None:
        """However long an outage lasts, the pause before a retry is at most 30 s."""
        network = Network(broken=Refused())
        reporter(reactor, network).offer(bucket(1))
        for _ in range(2000):
            assert 0 < reactor.until_next_call() <= 30
            reactor.advance(reactor.until_next_call())

    def test_newer_replaces_older(self, reactor: FakeReactor) -> None:
        """After an outage only the newest bucket is sent."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        for second in range(100):
            reports.offer(bucket(second))
        network.broken = None
        reactor.advance(60)
        assert [report["timestamp"] for report in network.orchestrator.reports] == [99]

    def test_newer_waits_for_the_one_in_flight(self, reactor: FakeReactor) -> None:
        """There is one request at a time; a bucket that is offered meanwhile is sent after it."""
        network = Network()
        network.orchestrator.silent = True
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        reports.offer(bucket(2))
        reports.offer(bucket(3))
        assert len(network.orchestrator.reports) == 1
        network.orchestrator.silent = False
        reactor.advance(5)
        reactor.advance(1)
        assert [report["timestamp"] for report in network.orchestrator.reports] == [1, 3]

    @pytest.mark.parametrize("half", [False, True])
    def test_deadline(self, reactor: FakeReactor, lines: list[str], half: bool) -> None:
        """If the answer is not complete at the deadline, the report is sent again."""
        network = Network()
        network.orchestrator.silent, network.orchestrator.half = not half, half
        reporter(reactor, network).offer(bucket(1))
        network.flush()
        reactor.advance(4.9)
        assert lines == []
        reactor.advance(0.1)
        assert lines == [f"{URL} does not accept the reports: no whole answer within 5 s"]
        network.orchestrator.silent = network.orchestrator.half = False
        reactor.advance(1)
        assert len(network.orchestrator.reports) == 2
        assert len(lines) == 2

    @pytest.mark.parametrize("code", [400, 404, 413, 302])
    def test_refusal(self, reactor: FakeReactor, lines: list[str], code: int) -> None:
        """A refused report is not sent again; the orchestrator's error text is logged once."""
        network = Network()
        error = json.dumps({"error": "Expected `int` - at $.page_faults"}).encode()
        network.orchestrator.answers = [(code, error, {"Location": "http://elsewhere/"})] * 2
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        assert reactor.getDelayedCalls() == []
        reports.offer(bucket(2))
        assert lines == [f"{URL} does not accept the reports: {code} Expected `int` - at $.page_faults"]
        reports.offer(bucket(3))
        assert lines[1:] == [f"{URL} accepts the reports again; 2 were lost"]

    @pytest.mark.parametrize("code", [401, 403, 408, 429, 500, 503])
    def test_busy(self, reactor: FakeReactor, code: int) -> None:
        """408, 429 and server errors are retried; 401 and 403 too, since a new token may be known soon."""
        network = Network()
        network.orchestrator.answers = [(code, b"<html>busy</html>", {})]
        reporter(reactor, network).offer(bucket(1))
        reactor.advance(1)
        assert len(network.orchestrator.reports) == 2

    @pytest.mark.parametrize(
        ("value", "pause"),
        [("20", 20.0), ("Tue, 14 Nov 2023 22:13:40 GMT", 20.0), ("999999999", 300.0), ("soon", 0.0), ("-5", 0.0)],
    )
    def test_retry_after(self, reactor: FakeReactor, value: str, pause: float) -> None:
        """A retry waits for Retry-After, in seconds or as a date, up to five minutes."""
        network = Network()
        network.orchestrator.answers = [(429, b"{}", {"Retry-After": value})]
        reporter(reactor, network).offer(bucket(1))
        assert reactor.until_next_call() == pytest.approx(pause + 0.75)

    def test_log_of_an_outage(self, reactor: FakeReactor, lines: list[str]) -> None:
        """An outage is logged with one line for each reason, and one for its end."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        for second in range(50):
            reports.offer(bucket(second))
            reactor.advance(10)
        assert len(lines) == 1
        assert "refused" in lines[0]
        network.broken = None
        reactor.advance(60)
        assert lines[1:] == [f"{URL} accepts the reports again; 49 were lost"]

    def test_endless_answer(self, reactor: FakeReactor, lines: list[str]) -> None:
        """An answer that is too long is not read to its end."""
        network = Network()
        network.orchestrator.answers = [(200, b"x" * (MAX_ANSWER_BYTES + 1), {})]
        reporter(reactor, network).offer(bucket(1))
        network.flush()
        assert lines == [f"{URL} does not accept the reports: the answer is over the limit of {MAX_ANSWER_BYTES} bytes"]

    @pytest.mark.parametrize("waiting", ["answer", "retry"])
    def test_stop(self, reactor: FakeReactor, lines: list[str], waiting: str) -> None:
        """Stopping cancels the current request or pause, and logs nothing."""
        network = Network(broken=Refused() if waiting == "retry" else None)
        network.orchestrator.silent = True
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        lines.clear()
        ended: list[object] = []
        reports.stop().addBoth(ended.append)
        assert ended == [None]
        assert lines == []
        assert reactor.getDelayedCalls() == []

    def test_stop_and_go(self, reactor: FakeReactor) -> None:
        """After a stop, a bucket that is offered is sent."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        reports.stop()
        network.broken = None
        reports.offer(bucket(2))
        assert [report["timestamp"] for report in network.orchestrator.reports] == [2]
