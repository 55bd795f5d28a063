"""The source `auto`."""

from __future__ import annotations

import pytest

from orchestratord.profiler.preferred_source import PreferredSource
from tests.profiler.fakes import FakeSource, bucket


class TestPreferredSource:
    """PreferredSource: eBPF if it works, else procfs."""

    def test_preferred(self) -> None:
        """The preferred source is used until it complains."""
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
        """If the preferred source complains, it is stopped, the other one starts, and one line says why."""
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
        """Stopping waits for both sources: the one in use, and the one used before."""
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
