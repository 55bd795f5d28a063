"""The command line, the environment, the start and the stop of the real daemon, as --help promises them."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.daemon import PATIENCE, ROOT, TWISTD, Daemon, Wire, head, pause, report, run, until
from tests.integration.upstream import EMPTY, Exchange, FakeUpstream, HeldUpstream, found_nothing, never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


def stale_limit(daemon: Daemon) -> float:
    """Return the stale limit, as a client learns of it."""
    daemon.post(report("measure")).raise_for_status()
    node = daemon.get("/nodes/measure").json()
    limit: float = node["age_seconds"] + node["expires_in_seconds"]
    return round(limit, 2)


@dataclass(frozen=True)
class Wrong:
    """A start that must fail: options, environment and configuration file, and what it must say."""

    options: tuple[str, ...] = ()
    variable: tuple[str, str] | None = None
    configuration: str | None = None
    says: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the test's name."""
        given = (*self.options, *(self.variable or ()), *([self.configuration] if self.configuration else ()))
        return ascii(" ".join(given))[1:-1]


WRONG = [
    *(
        Wrong(options=option, says=option)
        for option in (
            ("--stale-after", "soon"),
            ("--stale-after", "0"),
            ("--stale-after", "-5"),
            ("--stale-after", "nan"),
            ("--query-timeout", "inf"),
            ("--max-nodes", "0"),
            ("--max-nodes", "1.5"),
            ("--max-report-bytes", "1MiB"),
            ("--listen", "tcp:http-alt-nonsense"),
            ("--listen", "carrier-pigeon:5000"),
            ("--listen", ""),
            ("--prometheus", "ftp://127.0.0.1:9090"),
            ("--prometheus", "127.0.0.1:9090"),
            ("--prometheus", "http://user:secret@127.0.0.1:9090"),
            ("--config", "/nowhere/orchestrator.toml"),
            ("--config", str(ROOT)),
            ("--all-in-one", "--prometheus", "http://127.0.0.1:9"),
        )
    ),
    Wrong(options=("--prometheus", "embedded", "--prometheus", "http://x"), says=("--prometheus", "embedded")),
    Wrong(options=("--no-such-option",), says=("no-such-option",)),
    Wrong(options=("--no-such-option", "1"), says=("no-such-option",)),
    Wrong(options=("--stale-after",), says=("stale-after",)),
    Wrong(options=("--access-log=x",), says=("access-log",)),
    Wrong(options=("surplus",), says=("surplus",)),
    *(
        Wrong(variable=variable, says=variable)
        for variable in (
            ("ORCHESTRATOR_STALE_AFTER", "soon"),
            ("ORCHESTRATOR_MAX_NODES", "-1"),
            ("ORCHESTRATOR_PROMETHEUS", "gopher://x"),
            ("ORCHESTRATOR_ALL_IN_ONE", "maybe"),
            ("ORCHESTRATOR_LIMITS_EXPIRE_EVERY", "0"),
            ("ORCHESTRATOR_PROMETHEUS_HTTP_HEADERS", "no colon"),
            ("ORCHESTRATOR_PROMETHEUS_HTTP_HEADERS", "Host: elsewhere"),
            ("PROMETHEUS_URL", "nonsense"),
        )
    ),
    *(
        Wrong(configuration=text, says=("orchestrator.toml", *says))
        for text, says in (
            ("stale-after = 'soon'", ("stale-after", "soon")),
            ("stale_afer = 5", ("stale_afer",)),
            ("stale-after = ", ("TOML",)),
            ("[[families]]\nname = 'a b'\nhelp = 'x'", ("families", "a b")),
            ("[[families]]\nname = 'page_faults'\nhelp = 'x'", ("families", "page_faults")),
            ("listen = 'carrier-pigeon:1'", ("listen", "carrier-pigeon:1")),
        )
    ),
]
#: Starts at the same time.
AT_ONCE = 8


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Wrong, Daemon]]:
    """Give what became of the wrong starts, of which several are made at a time."""
    failed: dict[Wrong, Daemon] = {}
    try:
        for at in range(0, len(WRONG), AT_ONCE):
            for wrong in WRONG[at : at + AT_ONCE]:
                home = tmp_path_factory.mktemp("wrong")
                options = wrong.options
                if wrong.configuration is not None:
                    (home / "orchestrator.toml").write_text(wrong.configuration)
                    options = (*options, "--config", str(home / "orchestrator.toml"))
                env = dict([wrong.variable]) if wrong.variable else None
                failed[wrong] = Daemon(home, *options, env=env, listen=f"unix:{home / 'socket'}")
            for daemon in failed.values():
                daemon.wait()
        yield failed
    finally:
        for daemon in failed.values():
            daemon.close()


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_starts(failed: dict[Wrong, Daemon], wrong: Wrong) -> None:
    """A wrong option, variable or file stops the start before any socket opens: one line names it."""
    daemon = failed[wrong]
    assert daemon.wait() not in {0, -signal.SIGKILL}
    (line,) = daemon.output().splitlines()
    assert line.startswith("twistd orchestrator: ")
    for part in wrong.says:
        assert part in line
    assert daemon.members() == {}
    # A socket in the file system stays there when nobody removes it: this one was never opened.
    assert not list(daemon.home.glob("socket*"))


def test_environment(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Flag over environment over file over default; what Kubernetes puts into every pod is passed over."""
    config = tmp_path / "orchestrator.toml"
    config.write_text("stale-after = 44\nmax-nodes = 1\nprometheus = ['http://127.0.0.1:9/file']\n")
    kubernetes = {
        "ORCHESTRATOR_SERVICE_SERVICE_HOST": "10.96.0.7",
        "ORCHESTRATOR_SERVICE_SERVICE_PORT": "5000",
        "ORCHESTRATOR_SERVICE_PORT": "tcp://10.96.0.7:5000",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP": "tcp://10.96.0.7:5000",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP_PROTO": "tcp",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP_ADDR": "10.96.0.7",
        "ORCHESTRATOR_PORT": "tcp://10.96.0.8:5000",
        "ORCHESTRATOR_SERVICE_HOST": "10.96.0.8",
        "PROMETHEUS_SERVICE_HOST": "10.96.0.9",
        "PROMETHEUS_PORT": "tcp://10.96.0.9:9090",
        "ORCHESTRATOR_CONFIG": str(config),
    }
    from_file = start(env=kubernetes)
    assert stale_limit(from_file) == 44
    assert from_file.post(report("second")).status_code == 429
    from_file.said(r"queries go to http://127\.0\.0\.1:9/file")
    more = {"ORCHESTRATOR_STALE_AFTER": "55", "ORCHESTRATOR_PROMETHEUS": "http://127.0.0.1:9/a http://127.0.0.1:9/b"}
    from_environment = start(env=kubernetes | more)
    assert stale_limit(from_environment) == 55
    from_environment.said(r"queries go to http://127\.0\.0\.1:9/a, http://127\.0\.0\.1:9/b")
    from_flag = start("--stale-after", "66", "--prometheus", "http://127.0.0.1:9/flag", env=kubernetes | more)
    assert stale_limit(from_flag) == 66
    from_flag.said(r"queries go to http://127\.0\.0\.1:9/flag\n")


def test_prometheus_url(start: Callable[..., Daemon]) -> None:
    """PROMETHEUS_URL stands in for --prometheus; ORCHESTRATOR_PROMETHEUS is over it."""
    with FakeUpstream(found_nothing) as upstream:
        daemon = start(env={"PROMETHEUS_URL": upstream.url})
        assert daemon.get("/query", {"q": "up"}).content == EMPTY
        other = start(env={"PROMETHEUS_URL": "http://127.0.0.1:9", "ORCHESTRATOR_PROMETHEUS": upstream.url})
        assert other.get("/query", {"q": "up"}).content == EMPTY


def test_listen_on_several(start: Callable[..., Daemon]) -> None:
    """`--listen` may be repeated, and given as one variable; the start line names every address."""
    daemon = start("--listen", "tcp:0:interface=127.0.0.1")
    more = start(env={"ORCHESTRATOR_LISTEN": "tcp:0:interface=127.0.0.1 tcp:0:interface=127.0.0.1"}, listen=None)
    for each in (daemon, more):
        line = each.said(r"serves on 127\.0\.0\.1:(\d+), 127\.0\.0\.1:(\d+);")
        assert line[1] != line[2]
        for port in line.groups():
            assert requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE).status_code == 200


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken ends the start with one clear line, and an exit code that is not 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = Daemon(tmp_path, listen=f"tcp:{port}:interface=127.0.0.1")
        try:
            assert daemon.wait() not in {0, -signal.SIGKILL}
        finally:
            daemon.close()
        (line,) = [line for line in daemon.output().splitlines() if "cannot listen" in line]
        assert f"tcp:{port}:interface=127.0.0.1" in line
        assert "in use" in line
        assert "Traceback" not in daemon.output()


def test_help() -> None:
    """`--help` names every option of the contract, and ends with 0."""
    said = run(TWISTD, "orchestrator", "--help")
    assert said.returncode == 0
    for option in (
        "listen",
        "prometheus",
        "token-file",
        "stale-after",
        "snapshot-every",
        "query-timeout",
        "max-nodes",
        "max-report-bytes",
        "data-dir",
        "all-in-one",
        "config",
    ):
        assert f"--{option}" in said.stdout


def test_log_lines(start: Callable[..., Daemon]) -> None:
    """The log has a line for the start and for a node's first report, and none for a request."""
    daemon = start("--prometheus", "http://127.0.0.1:9")
    for _ in range(3):
        daemon.post(report("first")).raise_for_status()
        daemon.get("/nodes")
        daemon.get("/query", {"q": "up"})
        daemon.post("nonsense")
    daemon.stop()
    ours = [line for line in daemon.output().splitlines() if "[orchestratord" in line]
    said = [re.split(r" 127|:\d+/$", line.partition("] ")[2])[0] for line in ours]
    # The node's first report and the daemon's own probe of Prometheus come in either order.
    assert [*said[:3], *sorted(said[3:5]), *said[5:]] == [
        "roles open to everybody, without a token: report, query, scrape, admin",
        "orchestratord 0.1.0 serves on",
        "the page is at http://127.0.0.1",
        "node first reports for the first time",
        "upstream http://127.0.0.1:9 is down: Connection was refused by other side: 111: Connection refused",
        "orchestratord has stopped",
    ]


def test_access_log(start: Callable[..., Daemon]) -> None:
    """`--access-log` has a line for every request, which no request can forge another one into."""
    daemon = start("--access-log")
    for raw in (b"/\xff", b"/\xc2\x9b31m", b"/a\x0bb", b"/a\x0cb", b"/a\x85b", b"/a\x00b"):
        with daemon.wire() as wire:
            wire.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % raw)
            assert wire.answer().status in {400, 404}
    with daemon.wire() as wire:
        wire.get("/nodes?x='\\{y}%1b")
        assert wire.answer().status == 200
    line = daemon.said(r'.*"GET /nodes\?x=\'.*')[0]
    assert '" 200 ' in line
    for line in daemon.output().splitlines():
        assert line.isascii()
        assert line.isprintable()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop(start: Callable[..., Daemon], number: signal.Signals) -> None:
    """SIGTERM and SIGINT close the port, let a request in flight finish, and end with exit code 0."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url)
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            daemon.signal(number)
            until(lambda: refuses(daemon.port), "an end of listening")
            assert daemon.process.poll() is None
            upstream.release()
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, EMPTY)
            assert wire.ended()
        daemon.stop()


def test_stop_ends_what_is_idle(start: Callable[..., Daemon]) -> None:
    """Connections without a request, those to the upstream too, do not keep the daemon from ending."""
    with FakeUpstream(found_nothing) as upstream:
        daemon = start("--prometheus", upstream.url, "--drain-timeout", "600")
        with daemon.wire() as used, daemon.wire() as unused:
            used.get("/query?q=up")
            assert used.answer().status == 200
            daemon.stop()
            assert used.ended()
            assert unused.ended()


def test_stop_does_not_wait_for_ever(start: Callable[..., Daemon]) -> None:
    """A request that does not finish within the drain timeout is cut, and the exit code is 0 all the same."""
    with FakeUpstream(never) as upstream:
        daemon = start("--prometheus", upstream.url, "--drain-timeout", "0.3", "--query-timeout", "600")
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            daemon.stop()
            assert wire.ended()
        upstream.until_open(0)


def test_a_second_signal_changes_nothing(start: Callable[..., Daemon]) -> None:
    """An impatient operator's second Ctrl-C does not turn a clean stop into another one."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url)
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            daemon.signal(signal.SIGINT)
            until(lambda: refuses(daemon.port), "an end of listening")
            daemon.signal(signal.SIGINT)
            daemon.signal(signal.SIGTERM)
            upstream.release()
            assert wire.answer().status == 200
        daemon.stop()


def test_signals_without_end(start: Callable[..., Daemon]) -> None:
    """However many signals come until the very end, the exit code is 0."""
    daemon = start()
    daemon.post(report("n1")).raise_for_status()
    deadline = time.monotonic() + PATIENCE
    while daemon.process.poll() is None and time.monotonic() < deadline:
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGINT)
        pause(0.001)
    daemon.stop()


def test_drain_delay(start: Callable[..., Daemon]) -> None:
    """With `--drain-delay` readiness goes at the signal, while reports and queries are answered as ever; exit 0."""
    with FakeUpstream(found_nothing) as upstream:
        daemon = start("--prometheus", upstream.url, "--drain-delay", "600")
        daemon.post(report("before")).raise_for_status()
        with daemon.wire() as kept:
            kept.get("/-/ready")
            assert kept.answer().status == 200
            daemon.signal(signal.SIGTERM)
            until(lambda: daemon.get("/-/ready").status_code == 503, "an end of readiness")
            for _ in range(3):
                daemon.post(report("after")).raise_for_status()
                assert daemon.get("/query", {"q": "up"}).status_code == 200
            kept.get("/nodes")
            answer = kept.answer()
            assert answer.json() == {"nodes": ["after", "before"]}
            assert "connection" not in answer.headers
            assert daemon.process.poll() is None
            daemon.signal(signal.SIGTERM)
            assert kept.ended()
        daemon.stop()


def test_drain_delay_ends_by_itself(start: Callable[..., Daemon]) -> None:
    """After it the port closes, and a request in flight finishes."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url, "--drain-delay", "0.5")
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses(daemon.port), "an end of listening")
            upstream.release()
            assert wire.answer().status == 200
        daemon.stop()


def test_reports_and_probes_during_the_drain(start: Callable[..., Daemon]) -> None:
    """On a connection kept open past the drain a report is 503 with Retry-After and Connection: close; not ready."""
    body = json.dumps(report("n1")).encode()
    daemon = start()
    with daemon.wire() as reporter, daemon.wire() as probe:
        reporter.request("POST", "/update_metrics", body=body)
        assert reporter.answer().status == 200
        probe.get("/-/ready")
        assert probe.answer().status == 200
        reporter.send(head("POST", "/update_metrics", length=len(body)) + body[:5])
        probe.send(b"GET /-/ready HTTP/1.1\r\n")
        # An answer on another connection, asked for later: the daemon has seen both.
        assert daemon.get("/-/healthy").status_code == 200
        daemon.signal(signal.SIGTERM)
        until(lambda: refuses(daemon.port), "an end of listening")
        reporter.send(body[5:])
        answer = reporter.answer()
        assert answer.status == 503
        assert list(answer.json()) == ["error"]
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        assert reporter.ended()
        probe.send(b"Host: x\r\n\r\n")
        assert probe.answer().status == 503
        assert probe.ended()
    daemon.stop()


def test_a_report_pipelined_past_the_drain(start: Callable[..., Daemon]) -> None:
    """A report behind a request that was in flight at the stop is 503, or the connection ends; never a 200."""
    body = json.dumps(report("n1")).encode()
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url)
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses(daemon.port), "an end of listening")
            wire.request("POST", "/update_metrics", body=body)
            upstream.release()
            assert wire.answer().status == 200
            try:
                answer = wire.answer()
            except (AssertionError, ConnectionResetError):
                pass  # ended
            else:
                assert (answer.status, answer.headers["connection"]) == (503, "close")
        daemon.stop()


def refuses(port: int) -> bool:
    """Return whether nobody listens there."""
    try:
        Wire(port).close()
    except ConnectionError:
        return True
    return False


def test_ready_soon(start: Callable[..., Daemon]) -> None:
    """A daemon takes reports as soon as its start line is there."""
    begun = time.monotonic()
    daemon = start()
    assert daemon.post(report("early")).status_code == 200
    assert time.monotonic() - begun < PATIENCE


def test_no_traceback_for_bad_days(start: Callable[..., Daemon]) -> None:
    """What clients and upstreams do wrong leaves no traceback in the log: `stop` looks for one."""

    def cut(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")

    with FakeUpstream(cut) as upstream:
        daemon = start("--prometheus", upstream.url)
        daemon.get("/query", {"q": "up"})
        for path in ("/%ff", "/nodes/%ff", "/api/v1/label/%ff/values", "/query?q=%ff", "/nodes?details=%ff", "/%00"):
            assert daemon.get(path).status_code in {400, 404}
        bodies: list[Any] = [b"\xff", b"[" * 100_000, b"{" * 10, b"x" * 2_000_000]
        for body in bodies:
            assert daemon.post_bytes(body).status_code in {400, 413}
        daemon.stop()
