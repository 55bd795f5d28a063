"""The profiler as a service, and its settings."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from orchestratord.profiler.agent import Profiler, ProfilerSettings, profiler_service
from orchestratord.profiler.preferred_source import PreferredSource
from tests.profiler.fakes import FakeReactor, FakeSource, Network, bucket, reporter


class TestSettings:
    """ProfilerSettings: validation, and the URL for reports."""

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
        """The path for reports is appended to the orchestrator's URL, unless the URL has it already."""
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
        """A wrong value is refused; the text begins with the field's name and contains the value."""
        given: dict[str, Any] = {"orchestrator": "http://o", "node_id": "n", field: value}
        with pytest.raises(ValueError, match=rf"^{field} ") as refused:
            ProfilerSettings(**given)
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        assert shown in str(refused.value)


class TestProfiler:
    """Profiler: the service around source and reporter."""

    def test_way_of_a_bucket(self, reactor: FakeReactor) -> None:
        """A bucket that the source delivers is reported."""
        network, source = Network(), FakeSource()
        Profiler(source, reporter(reactor, network), lambda: succeed(None)).startService()
        source.deliver(bucket(1))
        assert len(network.orchestrator.reports) == 1

    def test_log_of_the_source(self, reactor: FakeReactor, lines: list[str]) -> None:
        """One line names the source at the first bucket, and one when `auto` switches to another source."""
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
        """If a source cannot measure, an error with the reason is logged."""
        source = FakeSource("ebpf")
        Profiler(source, reporter(reactor, Network()), lambda: succeed(None)).startService()
        source.complain("bpftrace said: no")
        assert lines == ["nothing to report, ebpf cannot measure: bpftrace said: no"]

    def test_stop(self, reactor: FakeReactor) -> None:
        """Stopping ends when the source has stopped and the connections are closed."""
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
        """A profiler that is not started has no socket, no delayed call and no child process."""
        reactor = MemoryReactorClock()
        settings = ProfilerSettings(orchestrator="http://127.0.0.1:5000", node_id="n", source=source)
        profiler_service(reactor, settings).setServiceParent(MultiService())
        assert (reactor.tcpClients, reactor.getDelayedCalls()) == ([], [])
