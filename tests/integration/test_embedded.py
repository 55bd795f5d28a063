"""A Prometheus of the daemon's own, and everything in one: what a person with one machine starts."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import Daemon, report, until
from tests.integration.stores import result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration

#: Seconds: it starts, is scraped within 5 s, and may do so on a busy machine.
DATA_DEADLINE = 60.0


@pytest.fixture(scope="module", autouse=True)
def all_in_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start everything in one before the first test here: until the last one, it has had the time that it needs."""
    daemon = Daemon(tmp_path_factory.mktemp("all-in-one"), "--all-in-one")
    try:
        yield daemon.started()
        daemon.stop()
    finally:
        daemon.close()


@pytest.fixture(scope="module", autouse=True)
def early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start a daemon with a Prometheus of its own as early, for the same reason."""
    home = tmp_path_factory.mktemp("early")
    daemon = Daemon(home, "--prometheus", "embedded", "--data-dir", str(home / "data"))
    try:
        daemon.started().post(report("n1", mem_bytes_allocated=77)).raise_for_status()
        yield daemon
        daemon.stop()
    finally:
        daemon.close()


@pytest.fixture
def embedded(start: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """Give a daemon with a Prometheus of its own."""
    return start("--prometheus", "embedded", "--data-dir", str(tmp_path / "data"))


def answered(daemon: Daemon, query: str) -> list[str]:
    """Return the values that a query finds; none while there is no answer."""
    answer = daemon.get("/query", {"q": query})
    if answer.status_code in {502, 503}:
        return []
    return [series["value"][1] for series in result(answer)]


def gone(pid: int) -> bool:
    """Return whether there is no such process any more."""
    return not Path(f"/proc/{pid}").exists()


def test_the_embedded_one_is_reached_from_this_machine_only(embedded: Daemon) -> None:
    """The embedded Prometheus listens on loopback alone."""
    pid = embedded.member("prometheus")
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    (address,) = [part.partition("=")[2] for part in command if part.startswith("--web.listen-address=")]
    assert address.startswith("127.0.0.1:")


def test_it_has_the_rules(early: Daemon) -> None:
    """It records what etc/prometheus/rules.yml records, and has its alerts."""
    recorded = "node:mem_bytes_allocated:avg1m"
    until(
        lambda: answered(early, recorded) == ["77"] or not early.post(report("n1", mem_bytes_allocated=77)),
        recorded,
        DATA_DEADLINE,
    )


def test_reports_do_not_wait_for_it(embedded: Daemon) -> None:
    """Reports are taken and probes are green before the embedded Prometheus answers, and queries are no hang."""
    assert embedded.get("/-/ready").status_code == 200
    assert embedded.post(report("n1")).status_code == 200
    assert embedded.get("/query", {"q": "up"}).status_code in {200, 502, 503}


def test_it_ends_with_a_daemon_that_is_killed(embedded: Daemon) -> None:
    """The embedded Prometheus ends even when the daemon is killed with SIGKILL."""
    embedded.member("prometheus")
    embedded.kill()
    embedded.gone()


def test_it_ends_with_the_daemon(embedded: Daemon) -> None:
    """The embedded Prometheus is gone when the daemon has ended."""
    pid = embedded.member("prometheus")
    embedded.stop()
    assert gone(pid)


def test_it_ends_though_it_does_not_listen(embedded: Daemon) -> None:
    """An embedded Prometheus that is stopped in its tracks does not keep the daemon from ending."""
    pid = embedded.member("prometheus")
    os.kill(pid, signal.SIGSTOP)
    embedded.stop()
    assert gone(pid)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (("--prometheus-binary", "no-such-prometheus"), None),
        ((), "/nowhere"),
    ],
)
@pytest.mark.parametrize("mode", [("--prometheus", "embedded"), ("--all-in-one",)])
def test_no_prometheus_program(
    tmp_path: Path, mode: tuple[str, ...], options: tuple[str, ...], path: str | None
) -> None:
    """Without the program the start ends with one line that says which package brings it."""
    line = the_line(Daemon(tmp_path, *mode, *options, env={"PATH": path} if path else None))
    assert "--prometheus" in line
    assert (options or ("prometheus",))[-1] in line
    assert "Debian's package prometheus" in line


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_unwritable_data_dir(tmp_path: Path, place: str) -> None:
    """A data directory that cannot be made ends the start with one line that names the option and the value."""
    (tmp_path / "file").touch()
    data_dir = str(tmp_path / place)
    line = the_line(Daemon(tmp_path / "home", "--prometheus", "embedded", "--data-dir", data_dir))
    assert "--data-dir" in line
    assert data_dir in line


def the_line(daemon: Daemon) -> str:
    """Return the one line that a daemon says which ends at its start, leaving nothing."""
    try:
        assert daemon.wait() not in {0, -signal.SIGKILL}
        (line,) = daemon.output().splitlines()
        assert daemon.members() == {}
        return line
    finally:
        daemon.close()


def test_embedded_prometheus(early: Daemon) -> None:
    """The embedded Prometheus scrapes the daemon, and is started again when it dies; its data survive that."""
    query = 'mem_bytes_allocated{node_id="n1"}'

    def found() -> list[str]:
        early.post(report("n1", mem_bytes_allocated=77)).raise_for_status()
        return answered(early, query)

    assert until(found, "an answer of the embedded Prometheus", DATA_DEADLINE) == ["77"]
    assert (early.home / "data" / "prometheus" / "data").is_dir()
    first = early.member("prometheus")
    os.kill(first, signal.SIGKILL)
    until(lambda: gone(first), "the first one's end")
    assert early.post(report("n1", mem_bytes_allocated=78)).status_code == 200
    assert until(lambda: early.member("prometheus"), "another one") != first
    past = until(lambda: answered(early, f"min_over_time({query}[5m])"), "an answer again", DATA_DEADLINE)
    assert past == ["77"]


def test_all_in_one(all_in_one: Daemon) -> None:
    """One command: /nodes names this host, a query answers a number from its kernel, and Ctrl-C ends everything."""
    begun = time.monotonic()
    until(lambda: all_in_one.nodes() == [socket.gethostname()], "this host in /nodes", 60)
    query = "avg_over_time(mem_bytes_allocated[1m])"
    (value,) = until(lambda: answered(all_in_one, query), "an average of this machine's kernel", 60)
    assert float(value) > 0
    assert time.monotonic() - begun < 60
    assert "prometheus" in all_in_one.members().values()
    assert len(all_in_one.members()) >= 2
    # As a terminal does it: the signal goes to the children as well.
    all_in_one.signalled = True
    os.killpg(all_in_one.pid, signal.SIGINT)
    all_in_one.stop()


def test_all_in_one_is_the_one_command(tmp_path: Path) -> None:
    """`twistd -n orchestrator --all-in-one` needs nothing more; `-n` keeps it in the foreground."""
    daemon = Daemon(tmp_path, "--all-in-one", env={"ORCHESTRATOR_LISTEN": "tcp:0:interface=127.0.0.1"}, listen=None)
    try:
        daemon.started()
        assert daemon.get("/-/ready").status_code == 200
        daemon.member("prometheus")
        daemon.kill()
        daemon.gone()
    finally:
        daemon.close()
