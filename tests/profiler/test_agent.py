"""The profiler as a service, its settings, its reports and its choice of a source."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.testing import MemoryReactorClock

from orchestratord import __version__
from orchestratord.profiler.agent import Profiler, ProfilerSettings, profiler_service
from orchestratord.profiler.choice import PreferredSource
from orchestratord.profiler.reporter import MAX_ANSWER_BYTES, Reporter
from tests.profiler.fakes import FakeReactor, FakeSource, Network, bucket

URL = "http://orchestrator.test:5000/update_metrics"


def reporter(reactor: FakeReactor, network: Network) -> Reporter:
    """Return a reporter to `network` whose chance is always in the middle: first retry after 0.75 s."""
    return Reporter(
        reactor,
        network,
        URL,
        "node-1",
        deadline=5.0,
        interval=10.0,
        renew=lambda: None,
        draw=lambda: 0.5,
        unix_time=reactor.seconds,
    )


class TestSettings:
    """ProfilerSettings: what a profiler can be told."""

    @pytest.mark.parametrize(
        ("given", "target"),
        [
            ("http://o:5000", "http://o:5000/update_metrics"),
            ("http://o:5000/", "http://o:5000/update_metrics"),
            ("https://o/prefix/", "https://o/prefix/update_metrics"),
            ("http://o:5000/update_metrics", "http://o:5000/update_metrics"),
            ("http://[::1]:5000", "http://[::1]:5000/update_metrics"),
        ],
    )
    def test_report_url(self, given: str, target: str) -> None:
        """The reports' path is appended to the orchestrator's URL unless it is there already."""
        assert ProfilerSettings(orchestrator=given, node_id="n").report_url == target

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("orchestrator", "ftp://o"),
            ("orchestrator", "o:5000"),
            ("orchestrator", "http://"),
            ("orchestrator", "http://o:99999"),
            ("orchestrator", "http://o /"),
            ("node_id", ""),
            ("node_id", "a" * 254),
            ("node_id", "a/b"),
            ("node_id", "n1\n"),
            ("interval", 0.5),
            ("interval", 3601.0),
            ("interval", float("nan")),
            ("interval", float("inf")),
            ("source", "perf"),
        ],
    )
    def test_wrong_value(self, field: str, value: object) -> None:
        """A wrong value is refused with a text that begins with its field's name and holds it."""
        given: dict[str, Any] = {"orchestrator": "http://o", "node_id": "n", field: value}
        with pytest.raises(ValueError, match=rf"^{field} ") as refused:
            ProfilerSettings(**given)
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        assert shown in str(refused.value)


class TestReporter:
    """Reporter: a bucket's way to the orchestrator."""

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
        """Each report carries the bearer token as it is by then; a retry too; without a token there is no header."""
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
        """One line with the orchestrator's own words, none with the token, and one when it is taken again."""
        network = Network()
        error = json.dumps({"error": "this takes a token of the role report"}).encode()
        network.orchestrator.answers = [(code, error, {})] * 3
        token = b"secret-of-this-node"
        reports = Reporter(reactor, network, URL, "n", deadline=5, interval=10, renew=int, token=lambda: token)
        reports.offer(bucket(1))
        reactor.pump([1] * 10)
        assert lines == [
            f"{URL} does not take the reports: {code} this takes a token of the role report",
            f"{URL} takes the reports again; 0 did not get there",
        ]

    def test_family_that_is_not_measured(self, reactor: FakeReactor) -> None:
        """It is absent from the report: null would be refused, and 0 would be wrong."""
        network = Network()
        reporter(reactor, network).offer(replace(bucket(1.5), page_faults=None))
        (report,) = network.orchestrator.reports
        assert "page_faults" not in report
        assert report["mem_bytes_allocated"] == 1

    def test_log_of_warnings(self, reactor: FakeReactor, lines: list[str]) -> None:
        """What the orchestrator says of a report that it takes is logged once, in one line; so is what it ignores."""
        network = Network()
        answer = {"status": "Metrics updated", "warnings": ["too\nrare"], "ignored": ["source"]}
        network.orchestrator.answers = [(200, json.dumps(answer).encode(), {})] * 3
        reports = reporter(reactor, network)
        for second in range(3):
            reports.offer(bucket(second))
        assert lines == [
            f"{URL} takes the reports of node-1",
            f"{URL} says of the reports: too rare",
            f"{URL} says of the reports: it ignores source",
        ]

    def test_warnings_without_end(self, reactor: FakeReactor, lines: list[str]) -> None:
        """Ten different ones are logged."""
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
        """A connection is given up between two reports when it is 48 to 72 s old."""
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
        """The first accepted report is a line in the log; those after it are none."""
        reports = reporter(reactor, Network())
        for second in range(5):
            reports.offer(bucket(second))
        assert lines == [f"{URL} takes the reports of node-1"]

    def test_retry(self, reactor: FakeReactor) -> None:
        """A report that the orchestrator could not take is sent again, each time after twice the pause."""
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
        """However long the orchestrator is away, a retry is never more than 30 s off."""
        network = Network(broken=Refused())
        reporter(reactor, network).offer(bucket(1))
        for _ in range(2000):
            assert 0 < reactor.until_next_call() <= 30
            reactor.advance(reactor.until_next_call())

    def test_newer_replaces_older(self, reactor: FakeReactor) -> None:
        """Of the buckets that pile up while nothing can be sent only the newest is sent in the end."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        for second in range(100):
            reports.offer(bucket(second))
        network.broken = None
        reactor.advance(60)
        assert [report["timestamp"] for report in network.orchestrator.reports] == [99]

    def test_newer_waits_for_the_one_in_flight(self, reactor: FakeReactor) -> None:
        """There is one request at a time; what is offered meanwhile follows it."""
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
        """An orchestrator that never answers, or never ends its answer, is given up at the deadline and tried again."""
        network = Network()
        network.orchestrator.silent, network.orchestrator.half = not half, half
        reporter(reactor, network).offer(bucket(1))
        network.flush()
        reactor.advance(4.9)
        assert lines == []
        reactor.advance(0.1)
        assert lines == [f"{URL} does not take the reports: no whole answer within 5 s"]
        network.orchestrator.silent = network.orchestrator.half = False
        reactor.advance(1)
        assert len(network.orchestrator.reports) == 2
        assert len(lines) == 2

    @pytest.mark.parametrize("code", [400, 404, 413, 302])
    def test_refusal(self, reactor: FakeReactor, lines: list[str], code: int) -> None:
        """What the orchestrator refuses is not sent again, and the log has the orchestrator's own words once."""
        network = Network()
        error = json.dumps({"error": "Expected `int` - at $.page_faults"}).encode()
        network.orchestrator.answers = [(code, error, {"Location": "http://elsewhere/"})] * 2
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        assert reactor.getDelayedCalls() == []
        reports.offer(bucket(2))
        assert lines == [f"{URL} does not take the reports: {code} Expected `int` - at $.page_faults"]
        reports.offer(bucket(3))
        assert lines[1:] == [f"{URL} takes the reports again; 2 did not get there"]

    @pytest.mark.parametrize("code", [401, 403, 408, 429, 500, 503])
    def test_busy(self, reactor: FakeReactor, code: int) -> None:
        """401 and 403, for a token may be about to be known, 408, 429 and the server's errors are tried again."""
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
        """A retry is no sooner than the answer's Retry-After says, in seconds or as a date, up to five minutes."""
        network = Network()
        network.orchestrator.answers = [(429, b"{}", {"Retry-After": value})]
        reporter(reactor, network).offer(bucket(1))
        assert reactor.until_next_call() == pytest.approx(pause + 0.75)

    def test_log_of_an_outage(self, reactor: FakeReactor, lines: list[str]) -> None:
        """An outage is one line for each of its reasons, however long it lasts, and one for its end."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        for second in range(50):
            reports.offer(bucket(second))
            reactor.advance(10)
        assert len(lines) == 1
        assert "refused" in lines[0]
        network.broken = None
        reactor.advance(60)
        assert lines[1:] == [f"{URL} takes the reports again; 49 did not get there"]

    def test_endless_answer(self, reactor: FakeReactor, lines: list[str]) -> None:
        """An answer longer than any that an orchestrator gives is not read to its end."""
        network = Network()
        network.orchestrator.answers = [(200, b"x" * (MAX_ANSWER_BYTES + 1), {})]
        reporter(reactor, network).offer(bucket(1))
        network.flush()
        assert lines == [f"{URL} does not take the reports: more than {MAX_ANSWER_BYTES} bytes"]

    @pytest.mark.parametrize("waiting", ["answer", "retry"])
    def test_stop(self, reactor: FakeReactor, lines: list[str], waiting: str) -> None:
        """Stopping cancels the request or the pause that is under way, and says nothing."""
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
        """After a stop what is offered is sent again."""
        network = Network(broken=Refused())
        reports = reporter(reactor, network)
        reports.offer(bucket(1))
        reports.stop()
        network.broken = None
        reports.offer(bucket(2))
        assert [report["timestamp"] for report in network.orchestrator.reports] == [2]


class TestPreferredSource:
    """PreferredSource: eBPF where it works, else procfs."""

    def test_preferred(self) -> None:
        """The preferred source is used while it does not complain."""
        preferred, fallback = FakeSource("a"), FakeSource("b")
        source = PreferredSource(preferred, fallback)
        delivered: list[object] = []
        source.start(delivered.append, delivered.append)
        preferred.deliver(bucket(1))
        assert delivered == [bucket(1)]
        assert source.name == "a"
        assert fallback.starts == 0

    @pytest.mark.parametrize("at_once", [False, True])
    def test_fallback(self, lines: list[str], at_once: bool) -> None:
        """At the preferred source's complaint it is stopped, the other starts, and one line says why."""
        preferred, fallback = FakeSource("a"), FakeSource("b")
        preferred.obstacle = "not root" if at_once else None
        source = PreferredSource(preferred, fallback)
        delivered: list[object] = []
        source.start(delivered.append, delivered.append)
        if not at_once:
            preferred.complain("not root")
        assert (preferred.running, fallback.running, source.name) == (at_once and preferred.running, True, "b")
        preferred.complain("again")
        fallback.deliver(bucket(1))
        assert delivered == [bucket(1)]
        assert lines == ["measuring with b, not a: not root"]
        assert fallback.starts == 1

    def test_stop(self) -> None:
        """The end waits for the source in use and for the one that was left."""
        preferred, fallback = FakeSource("a"), FakeSource("b")
        source = PreferredSource(preferred, fallback)
        source.start(lambda _: None, lambda _: None)
        preferred.complain("no")
        ended: list[object] = []
        source.stop().addBoth(ended.append)
        fallback.stopped.callback(None)
        assert ended == []
        preferred.stopped.callback(None)
        assert ended == [None]


class TestProfiler:
    """Profiler: the service around source and reporter."""

    def test_way_of_a_bucket(self, reactor: FakeReactor) -> None:
        """What the source delivers is reported."""
        network, source = Network(), FakeSource()
        Profiler(source, reporter(reactor, network), lambda: succeed(None)).startService()
        source.deliver(bucket(1))
        assert len(network.orchestrator.reports) == 1

    def test_log_of_the_source(self, reactor: FakeReactor, lines: list[str]) -> None:
        """One line with the first bucket, and one when `auto` changes its mind, says what measures."""
        first, second = FakeSource("ebpf"), FakeSource("procfs")
        source = PreferredSource(first, second)
        Profiler(source, reporter(reactor, Network()), lambda: succeed(None)).startService()
        first.deliver(bucket(1, source="ebpf-kprobe"))
        first.deliver(bucket(2, source="ebpf-kprobe"))
        first.deliver(bucket(3, source="ebpf-tracepoint"))
        first.complain("no")
        second.deliver(bucket(4, source="procfs"))
        assert [line for line in lines if "measured" in line] == [
            "this node is measured with ebpf-kprobe",
            "this node is measured with ebpf-tracepoint",
            "this node is measured with procfs",
        ]

    def test_complaint(self, reactor: FakeReactor, lines: list[str]) -> None:
        """A source that does not measure is an error in the log, with its reason."""
        source = FakeSource("ebpf")
        Profiler(source, reporter(reactor, Network()), lambda: succeed(None)).startService()
        source.complain("bpftrace said: no")
        assert lines == ["nothing to report, ebpf does not measure: bpftrace said: no"]

    def test_stop(self, reactor: FakeReactor) -> None:
        """The service has stopped when the source has ended and the connections are closed."""
        closed: Deferred[None] = Deferred()
        source = FakeSource()
        service = Profiler(source, reporter(reactor, Network()), lambda: closed)
        service.startService()
        ended: list[object] = []
        service.stopService().addBoth(ended.append)
        source.stopped.callback(None)
        assert ended == []
        closed.callback(None)
        assert ended == [None]
        assert not service.running

    @pytest.mark.parametrize("source", ["auto", "ebpf", "procfs"])
    def test_opens_nothing(self, source: str) -> None:
        """A profiler that is not started has no socket, no delayed call and no child."""
        reactor = MemoryReactorClock()
        settings = ProfilerSettings(orchestrator="http://127.0.0.1:5000", node_id="n", source=source)
        profiler_service(reactor, settings).setServiceParent(MultiService())
        assert (reactor.tcpClients, reactor.getDelayedCalls()) == ([], [])
