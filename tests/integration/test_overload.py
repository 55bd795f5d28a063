"""Too many connections, too many queries, no descriptors left: who is served goes on being served, and it recovers."""

from __future__ import annotations

import resource
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.integration.daemon import PATIENCE, Daemon, Wire, report, until
from tests.integration.upstream import EMPTY, HeldUpstream

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration


def processor_seconds(daemon: Daemon) -> float:
    """Return how much of a processor it has used, in ticks of 10 ms."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def ready(wire: Wire) -> bool:
    """Return whether a connection that is kept open is served."""
    wire.get("/-/ready")
    return wire.answer().status == 200


def test_too_many_connections(start: Callable[..., Daemon]) -> None:
    """One too many is 503 with Retry-After at once; those who are connected are served; room is used again."""
    daemon = start("--max-connections", "20", "--listen", "tcp:0:interface=127.0.0.1")
    other_port = int(daemon.said(r"serves on .*?, 127\.0\.0\.1:(\d+)")[1])
    with ExitStack() as stack:
        kept = [stack.enter_context(Wire(port)) for port in (daemon.port, other_port) for _ in range(10)]
        assert all(ready(wire) for wire in kept)
        for port in (daemon.port, other_port):
            url = f"http://127.0.0.1:{port}/update_metrics"
            refused = requests.post(url, json=report("late"), timeout=PATIENCE)
            assert (refused.status_code, refused.json()) == (503, {"error": "too many connections; try again"})
            assert int(refused.headers["Retry-After"]) > 0
        kept[0].get("/metrics")
        text = kept[0].answer().body.decode()
        assert "\norchestrator_connections 20.0\n" in text
        assert "\norchestrator_connections_refused_total 2.0\n" in text
        assert all(ready(wire) for wire in kept)
        kept[0].close()
        until(lambda: daemon.post(report("later")).status_code == 200, "room for another connection")
    assert daemon.nodes() == ["later"]


def test_connections_that_do_not_fit_are_said(tmp_path: Path) -> None:
    """The soft limit of open files is raised; what the hard one does not allow is lowered in one line of the log."""
    limits = {"soft": "200", "hard": "600"}
    options = ("--max-connections", "5000", "--max-queries", "10")
    daemon = Daemon(tmp_path, *options, under=("prlimit", f"--nofile={limits['soft']}:{limits['hard']}"))
    try:
        daemon.started()
        lines = [line for line in daemon.output().splitlines() if "--max-connections" in line]
        assert len(lines) == 1
        assert "5000 is lowered to 462: the process may open 600 files" in lines[0]
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (600, 600)
        daemon.stop()
    finally:
        daemon.close()


def test_no_descriptors_left(start: Callable[..., Daemon]) -> None:
    """Those who are connected are served, nothing spins, the port stays; with descriptors again all is as before."""
    daemon = start()
    assert daemon.post(report("before")).status_code == 200
    with ExitStack() as stack:
        kept = [stack.enter_context(daemon.wire()) for _ in range(5)]
        assert all(ready(wire) for wire in kept)
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, before[1]))
        spent = processor_seconds(daemon)
        for _ in range(50):
            with daemon.wire() as refused:
                refused.get("/-/ready")
                assert refused.ended()
        waiting = [stack.enter_context(daemon.wire()) for _ in range(20)]
        for _ in range(100):
            assert all(ready(wire) for wire in kept)
        kept[0].request("POST", "/update_metrics", body=b'{"node_id": "meanwhile"}')
        assert kept[0].answer().status == 200
        assert processor_seconds(daemon) - spent < PATIENCE / 3
        for wire in waiting:
            wire.close()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        until(lambda: answers(daemon), "an answer on a new connection")
        assert daemon.nodes() == ["before", "meanwhile"]


def answers(daemon: Daemon) -> bool:
    """Return whether a new connection is served."""
    try:
        return daemon.get("/-/ready").status_code == 200
    except requests.ConnectionError:
        return False


def test_queries_wait_for_their_turn(start: Callable[..., Daemon]) -> None:
    """In their order; one too many is 503; one who leaves makes room; and nobody waits past the own deadline."""
    with HeldUpstream() as upstream, ExitStack() as stack:
        options = ("--max-queries", "1", "--limits.query_queue", "2", "--query-timeout", str(PATIENCE))
        daemon = start("--prometheus", upstream.url, *options)

        def asks(query: str) -> Wire:
            wire = stack.enter_context(daemon.wire())
            wire.get(f"/query?q={query}")
            return wire

        def until_waiting(count: int) -> None:
            until(lambda: daemon.sample("orchestrator_queries_waiting") == count, f"{count} queries in the queue")

        first = asks("a")
        upstream.until_open(1)
        leaver = asks("b")
        until_waiting(1)
        second = asks("c")
        until_waiting(2)
        refused = daemon.get("/query", {"q": "d"})
        assert (refused.status_code, refused.json()["errorType"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        leaver.reset()
        until_waiting(1)
        late = daemon.get("/query", {"q": "e", "timeout": "200ms"})
        assert (late.status_code, late.json()["errorType"]) == (504, "timeout")
        identical = asks("c")
        assert daemon.sample("orchestrator_queries_in_flight") == 1
        upstream.release()
        for wire in (first, second, identical):
            assert wire.answer().body == EMPTY
        assert [dict(asked.params)["query"] for asked in upstream.asked] == ["a", "c"]


def test_a_burst_of_connections(start: Callable[..., Daemon]) -> None:
    """A fleet that reports at the same moment waits to be accepted: nobody has to come again a second later."""
    daemon = start()
    with ExitStack() as stack:
        daemon.signal(signal.SIGSTOP)
        begun = time.monotonic()
        burst = [stack.enter_context(daemon.wire()) for _ in range(500)]
        assert time.monotonic() - begun < 1 + PATIENCE / 10
        daemon.signal(signal.SIGCONT)
        daemon.signalled = False
        assert all(ready(wire) for wire in burst)
