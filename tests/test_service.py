"""The whole daemon on the real reactor and real sockets."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
import treq
from prometheus_client.parser import text_string_to_metric_families
from treq.client import HTTPClient
from twisted.internet import error, reactor
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.web import http_headers
from twisted.web.client import Agent, HTTPConnectionPool

from orchestratord.config.loader import load
from orchestratord.runtime.clock import MACHINE
from orchestratord.runtime.signals import MEANINGLESS, STOPPING, Signals
from orchestratord.service import Orchestrator
from tests.certificates import Authority
from tests.fakes import FakeClocks
from tests.options import by_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from twisted.internet.defer import Deferred

    from orchestratord.runtime.clock import Clocks

REACTOR: Any = reactor
HOME = {"HOME": "/nonexistent"}


class Running:
    """A running daemon and a client of it."""

    def __init__(self, clocks: Clocks = MACHINE, **flags: Any) -> None:
        flags.setdefault("listen", ["tcp:0:interface=127.0.0.1"])
        flags.setdefault("prometheus", ["http://127.0.0.1:1"])
        flags.setdefault("snapshot_every", 0)
        settings = load(by_name(flags), HOME)
        self.service = Orchestrator(reactor, settings, clocks)
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.client = HTTPClient(Agent(reactor, pool=self.pool))

    def start(self) -> None:
        """Start as twistd does."""
        self.service.privilegedStartService()
        self.service.startService()

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        url = f"http://{self.service._own_address()}{path}"
        response = await self.client.request(method, url, reactor=REACTOR, **options)
        return response.code, await treq.content(response)


def sleeping_program(folder: Path) -> Path:
    """Return a program that stands for Prometheus and only sleeps."""
    program = folder / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    return program


@pytest_twisted.async_yield_fixture
async def running() -> AsyncIterator[Running]:
    """A daemon on a free port, stopped after the test."""
    daemon = Running()
    daemon.start()
    yield daemon
    if daemon.service.running:
        await daemon.service.stopService()


@pytest_twisted.ensureDeferred
async def test_long_names_of_headers_are_not_remembered(running: Running) -> None:
    """Twisted's cache of header names, one for the process, holds short names only."""
    name = "x-" + "very-" * 30 + "long"
    status, _ = await running.ask("GET", "/-/healthy", headers={name: "1", "x-short-name": "1"})
    assert status == 200
    cached = http_headers._nameEncoder._canonicalHeaderCache
    assert not [one for one in cached if len(one) > 64]
    assert b"X-Short-Name" in cached.values()


@pytest_twisted.ensureDeferred
async def test_a_report_goes_round(running: Running) -> None:
    """A report to /update_metrics appears at /nodes and /metrics."""
    status, _ = await running.ask("POST", "/update_metrics", json={"node_id": "n1", "page_faults": 3})
    assert status == 200
    assert await running.ask("GET", "/nodes") == (200, b'{"nodes":["n1"]}')
    status, body = await running.ask("GET", "/metrics")
    samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    assert {sample.value for sample in samples if sample.name == "page_faults"} == {3}
    assert {sample.value for sample in samples if sample.name == "orchestrator_nodes"} == {1}


@pytest_twisted.ensureDeferred
async def test_nodes_age_while_the_machine_is_suspended() -> None:
    """After two hours of sleep no answer has the node, although no sweep has run: its timer did not move."""
    clocks = FakeClocks()
    daemon = Running(clocks, latest_from_memory="always", stale_after=60, expire_every=3600)
    daemon.start()
    try:
        await daemon.ask("POST", "/update_metrics", json={"node_id": "n1", "page_faults": 3})
        assert await daemon.ask("GET", "/nodes") == (200, b'{"nodes":["n1"]}')
        assert b"n1" in (await daemon.ask("GET", "/metrics"))[1]
        assert b'"n1"' in (await daemon.ask("GET", "/query?q=page_faults"))[1]
        clocks.now += 7200
        assert await daemon.ask("GET", "/nodes") == (200, b'{"nodes":[]}')
        assert b"n1" not in (await daemon.ask("GET", "/nodes?details=true"))[1]
        assert (await daemon.ask("GET", "/nodes/n1"))[0] == 404
        for query in ("", "?name[]=page_faults"):
            assert b"n1" not in (await daemon.ask("GET", f"/metrics{query}"))[1]
        status, body = await daemon.ask("GET", "/query?q=page_faults")
        assert (status, b"n1" in body) == (200, False)
        assert (await daemon.ask("GET", "/-/healthy"))[0] == 200
    finally:
        await daemon.service.stopService()


@pytest_twisted.ensureDeferred
async def test_without_a_prometheus_queries_fail_and_everything_else_works(running: Running) -> None:
    """A query gets a 502; the daemon is ready all the same."""
    status, body = await running.ask("GET", "/query?q=up")
    assert status == 502
    assert b'"errorType":"unavailable"' in body
    assert (await running.ask("GET", "/-/ready"))[0] == 200
    assert (await running.ask("GET", "/-/healthy"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_start_and_stop_are_logged() -> None:
    """The line has the version, the addresses and the upstreams."""
    daemon = Running()
    with capturedLogs() as logs:
        daemon.start()
        address = daemon.service._own_address()
        await daemon.service.stopService()
    (start,) = [event for event in logs if "serves on" in (event["log_format"] or "")]
    assert start["addresses"] == address
    assert start["upstreams"] == "http://127.0.0.1:1"
    assert any(event["log_format"] == "orchestratord has stopped" for event in logs)


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_ends_the_start(running: Running) -> None:
    """The error is one line that names the endpoint."""
    port = running.service._own_address().rpartition(":")[2]
    second = Running(listen=[f"tcp:{port}:interface=127.0.0.1"])
    with pytest.raises(SystemExit, match=rf"cannot listen on tcp:{port}:interface=127.0.0.1: Address already in use"):
        second.service.privilegedStartService()


@pytest_twisted.ensureDeferred
async def test_both_families_are_served_and_closed() -> None:
    """A port without an interface opens two sockets; both are closed when the daemon has stopped."""
    daemon = Running(listen=["tcp:0"])
    daemon.start()
    port = int(daemon.service._own_address().rpartition(":")[2])
    assert daemon.service._listeners.addresses == [f"0.0.0.0:{port}", f"[::]:{port}"]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port)).close()
    await daemon.service.stopService()
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))


@pytest_twisted.ensureDeferred
async def test_every_kind_of_listener_is_told_as_it_is(tmp_path: Any) -> None:
    """The log names a UNIX socket by its path; an IPv6 address for the children is in brackets."""
    daemon = Running(listen=[f"unix:{tmp_path}/socket", "tcp6:0:interface=\\:\\:1"])
    with capturedLogs() as logs:
        daemon.start()
        assert daemon.service._own_address().startswith("[::1]:")
        await daemon.service.stopService()
    (start,) = [event for event in logs if "serves on" in (event["log_format"] or "")]
    assert f"{tmp_path}/socket" in start["addresses"]


@pytest_twisted.ensureDeferred
async def test_own_children_are_sent_to_a_listener_without_tls(tmp_path: Any) -> None:
    """The log marks TLS listeners, and lists those of --admin-listen apart."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1")
    local = "tcp:0:interface=127.0.0.1"
    daemon = Running(
        listen=[f"tls:{local}", local],
        admin_listen=[local, f"tls:{local}"],
        tls_certificate=str(authority.certificate("server")),
        tls_key=str(authority.key("server")),
    )
    with capturedLogs() as logs:
        daemon.start()
        plain = daemon.service._own_address()
        await daemon.service.stopService()
    (start,) = [event for event in logs if "serves on" in (event["log_format"] or "")]
    first, second = start["addresses"].split(", ")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ \(TLS\)", first)
    assert second == plain
    assert re.fullmatch(
        r"probes and administration on 127\.0\.0\.1:\d+; probes and administration on 127\.0\.0\.1:\d+ \(TLS\); ",
        start["admin"],
    )


@pytest_twisted.ensureDeferred
async def test_readiness_follows_the_service(running: Running) -> None:
    """The daemon is starting before its start, and draining after its stop began."""
    assert Running().service._unready() == "starting"
    assert running.service._unready() is None
    stopping = running.service.stopService()
    assert running.service._unready() == "draining"
    await stopping


@pytest_twisted.ensureDeferred
async def test_a_restart_takes_the_table_back_before_the_port_opens(tmp_path: Path) -> None:
    """Forgotten nodes stay away; `--snapshot-every 0` neither reads nor writes a snapshot."""
    kept: dict[str, Any] = {"data_dir": str(tmp_path), "snapshot_every": 600}
    daemon = Running(**kept)
    daemon.start()
    for name in ("n1", "n2"):
        assert (await daemon.ask("POST", "/update_metrics", json={"node_id": name}))[0] == 200
    assert (await daemon.ask("DELETE", "/nodes/n2"))[0] == 204
    await daemon.service.stopService()
    for more, answer in (({"snapshot_every": 0}, b'{"nodes":[]}'), ({}, b'{"nodes":["n1"]}')):
        again = Running(**(kept | more))
        again.start()
        assert await again.ask("GET", "/nodes") == (200, answer)
        await again.service.stopService()


@pytest_twisted.ensureDeferred
async def test_everything_is_served_during_the_drain_delay() -> None:
    """Only the readiness changes; a second signal, or the end of the delay, closes the port."""
    for delay, hurries in (("600", True), ("0.2", False)):
        daemon = Running(drain_delay=delay)
        daemon.start()
        url = f"http://{daemon.service._own_address()}/-/healthy"
        stopping = daemon.service.stopService()
        assert (await daemon.ask("GET", "/-/ready"))[0] == 503
        assert (await daemon.ask("GET", "/-/healthy"))[0] == 200
        assert (await daemon.ask("POST", "/update_metrics", json={"node_id": "n1"}))[0] == 200
        assert await daemon.ask("GET", "/nodes") == (200, b'{"nodes":["n1"]}')
        if hurries:
            daemon.service.hurry()
        await stopping
        with pytest.raises(error.ConnectionRefusedError):
            await daemon.client.get(url)


@pytest_twisted.ensureDeferred
async def test_a_second_signal_ahead_of_the_drain_delay_leaves_it_out() -> None:
    """Both signals may arrive before the reactor handles the first."""
    daemon = Running(drain_delay="600")
    daemon.start()
    daemon.service.hurry()
    await daemon.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_signal_stops_the_reactor_once() -> None:
    """The exit code is not the signal's, as it would be with the reactor's own handler; later signals are passed on."""
    stopped: list[str] = []

    class Recorder:
        """Stands for the reactor."""

        def callWhenRunning(self, install: Any) -> None:
            """It is running."""
            install()

        def callFromThread(self, work: Any) -> None:
            """Do it now."""
            work()

        def stop(self) -> None:
            """Remember."""
            stopped.append("stop")

    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGHUP, signal.SIGQUIT, *MEANINGLESS)}
    service = Signals(Recorder(), lambda: stopped.append("again"))
    try:
        service.startService()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            await deferLater(REACTOR, 0)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
    assert stopped == ["stop", "again"]


@pytest_twisted.ensureDeferred
async def test_an_embedded_prometheus_is_started_with_the_daemon_and_ends_with_it(tmp_path: Any) -> None:
    """It is restarted when it dies. The program of this test only sleeps."""
    program = sleeping_program(tmp_path)
    daemon = Running(prometheus=["embedded"], prometheus_binary=str(program), data_dir=str(tmp_path))
    daemon.start()
    embedded = daemon.service._embedded
    assert embedded is not None
    address = daemon.service._own_address()
    assert f"targets: ['{address}']" in (tmp_path / "prometheus" / "prometheus.yml").read_text()
    embedded.threshold = 0  # restart at once, however short it lived
    first: Any = embedded.protocols["prometheus"].transport
    first.signalProcess("KILL")
    while embedded.protocols.get("prometheus") is None or embedded.protocols["prometheus"].transport is first:
        await deferLater(REACTOR, 0.01)
    second: Any = embedded.protocols["prometheus"].transport
    await daemon.service.stopService()
    assert not embedded.protocols
    assert second.pid is None


@pytest_twisted.ensureDeferred
async def test_all_in_one_reports_this_host(tmp_path: Any) -> None:
    """The profiler is a child of the daemon and reports to the daemon's port."""
    program = sleeping_program(tmp_path)
    daemon = Running(all_in_one=True, prometheus=["embedded"], prometheus_binary=str(program), data_dir=str(tmp_path))
    daemon.start()
    names = [getattr(child, "name", None) for child in daemon.service]
    stopped: Deferred[None] = daemon.service.stopService()
    await stopped
    assert "profiler" in names


@pytest_twisted.ensureDeferred
async def test_the_embedded_prometheus_has_a_token_to_scrape_with(tmp_path: Path) -> None:
    """The token is in a file with mode 0600 and follows changes; without a token there is no file."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a-scraping-token-1\n")
    more: dict[str, Any] = {
        "prometheus": ["embedded"],
        "prometheus_binary": str(sleeping_program(tmp_path)),
        "data_dir": str(tmp_path),
    }
    home = tmp_path / "prometheus"
    daemon = Running(token_file=[f"scrape={tokens}"], **more)
    daemon.start()
    assert "credentials_file: scrape-token" in (home / "prometheus.yml").read_text()
    assert (home / "scrape-token").read_bytes() == b"a-scraping-token-1"
    assert (home / "scrape-token").stat().st_mode & 0o777 == 0o600
    tokens.write_text("a-scraping-token-2\na-scraping-token-1\n")
    while (home / "scrape-token").read_bytes() != b"a-scraping-token-2":
        await deferLater(REACTOR, 0.01)
    assert (home / "scrape-token").stat().st_mode & 0o777 == 0o600
    await daemon.service.stopService()
    daemon = Running(**more)
    daemon.start()
    assert "credentials_file" not in (home / "prometheus.yml").read_text()
    assert not (home / "scrape-token").exists()
    await daemon.service.stopService()
