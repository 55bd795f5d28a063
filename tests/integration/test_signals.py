"""What each signal does to the real daemon and the real profiler."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import (
    LOOPBACK,
    PATIENCE,
    TWISTD,
    Daemon,
    Server,
    asked,
    environment,
    report,
    session_members,
    tied,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: Those that would end a process, or stop it, unless it decides otherwise.
HARMLESS = (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGSTKFLT,
    signal.SIGRTMIN,
    signal.SIGRTMAX,
    signal.SIGCHLD,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGCONT,
)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGPWR)


@pytest.fixture
def profiler(start: Callable[..., Daemon], tmp_path: Path) -> Iterator[tuple[Server, Daemon]]:
    """Give a profiler that has reported, and the daemon that it reports to."""
    daemon = start()
    options = ("--orchestrator", daemon.url, "--node-id", "n1", "--interval", "1", "--source", "procfs")
    server = Server((TWISTD, "--nodaemon", "--pidfile=", "profiler", *options), tmp_path / "profiler")
    try:
        until(lambda: daemon.nodes() == ["n1"], "a first report")
        yield server, daemon
    finally:
        server.close()


def accepted(daemon: Daemon) -> float:
    """Return how many reports a daemon has accepted."""
    return daemon.sample('orchestrator_reports_total{outcome="accepted"}') or 0.0


def test_signals_that_do_not_stop_it(start: Callable[..., Daemon]) -> None:
    """It answers after each of them, with what it had, and ends cleanly later."""
    daemon = start()
    daemon.post(report("n1")).raise_for_status()
    for number in HARMLESS:
        daemon.signal(number)
        daemon.post(report(number.name)).raise_for_status()
    assert daemon.nodes() == sorted(["n1", *(number.name for number in HARMLESS)])
    daemon.said("SIGHUP: certificates, keys and tokens are read again")
    daemon.said(r"SIGQUIT: thread MainThread:\n  File .*\n(.*\n)*.*reactor")
    daemon.said("SIGUSR2 changes nothing here")
    daemon.signalled = False
    daemon.stop()


@pytest.mark.parametrize("number", STOPPING)
def test_signals_that_stop_it(start: Callable[..., Daemon], tmp_path: Path, number: signal.Signals) -> None:
    """Cleanly: exit code 0, and the table is in the last snapshot."""
    options = ("--data-dir", str(tmp_path / "data"), "--snapshot-every", "3600")
    daemon = start(*options)
    daemon.post(report("n1")).raise_for_status()
    daemon.stop(number)
    assert start(*options).nodes() == ["n1"]


def test_sighup_reads_files_again(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A token that was put into a file is good, and the one that was there is not."""
    tokens = tmp_path / "tokens"
    tokens.write_text("first-token-of-queries\n")
    daemon = start("--token-file", f"query={tokens}")
    tokens.write_text("second-token-of-queries\n")
    daemon.signal(signal.SIGHUP)
    daemon.said("SIGHUP: certificates")
    daemon.said("read again: .*tokens")
    bearer = {"Authorization": "Bearer second-token-of-queries"}
    assert daemon.get("/nodes", headers=bearer).status_code == 200
    assert daemon.get("/nodes", headers={"Authorization": "Bearer first-token-of-queries"}).status_code == 401
    daemon.signalled = False


def test_a_pause_ages_nodes(start: Callable[..., Daemon]) -> None:
    """SIGSTOP and SIGCONT: what is stale by then is in no answer, and reports are taken."""
    daemon = start("--stale-after", "1", "--limits.expire_every", "60")
    daemon.post(report("n1")).raise_for_status()
    begun = time.monotonic()
    daemon.signal(signal.SIGSTOP)
    until(lambda: time.monotonic() - begun > 1.1, "the end of the node's time")
    daemon.signal(signal.SIGCONT)
    assert daemon.nodes() == []
    daemon.post(report("n2")).raise_for_status()
    assert daemon.nodes() == ["n2"]
    assert daemon.get("/-/healthy").status_code == 200
    daemon.signalled = False


class InTerminal:
    """A daemon in the foreground of a terminal of its own, which `hang_up` closes."""

    def __init__(self, home: Path, *options: str, under: tuple[str, ...] = ()) -> None:
        home.mkdir()
        self._ours, theirs = os.openpty()
        command = (*under, TWISTD, "--nodaemon", "--pidfile=", "orchestrator", "--listen", LOOPBACK, *options)
        self.process = subprocess.Popen(
            tied(*command),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=home,
            env=environment(home),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread of ours holds a lock
        )
        os.close(theirs)
        self.url = f"http://{self.said(rb'serves on (127.0.0.1:[0-9]+)')[1].decode()}"

    def said(self, pattern: bytes) -> re.Match[bytes]:
        """Return where what it says from now on matches a pattern."""
        said = b""
        while (match := re.search(pattern, said)) is None:
            assert select.select([self._ours], [], [], PATIENCE)[0], said
            said += os.read(self._ours, 4096)
        return match

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self._ours)

    def close(self) -> None:
        """End it by force."""
        for pid in session_members(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def test_a_terminal_that_closes_stops_it(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Cleanly: exit code 0, and a snapshot."""
    options = ("--data-dir", str(tmp_path / "data"), "--snapshot-every", "3600")
    daemon = InTerminal(tmp_path / "terminal", *options)
    try:
        asked("POST", f"{daemon.url}/update_metrics", json=report("n1")).raise_for_status()
        daemon.hang_up()
        assert daemon.process.wait(10) == 0
    finally:
        daemon.close()
    assert start(*options).nodes() == ["n1"]


def test_sighup_in_a_terminal_that_stays_reads_files_again(tmp_path: Path) -> None:
    """As anywhere else: it is the terminal's end that stops it, not the signal."""
    daemon = InTerminal(tmp_path / "terminal")
    try:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.said(b"SIGHUP: certificates")
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(10) == 0
    finally:
        daemon.close()


def test_nohup_is_respected(tmp_path: Path) -> None:
    """Started with SIGHUP ignored, it outlives its terminal, until it is stopped."""
    daemon = InTerminal(tmp_path / "terminal", under=("env", "--ignore-signal=HUP"))
    try:
        daemon.hang_up()
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(1)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(10)
    finally:
        daemon.close()


def test_the_profiler_goes_on(profiler: tuple[Server, Daemon]) -> None:
    """After every signal that does not stop it there are reports."""
    server, daemon = profiler
    for number in HARMLESS:
        server.signal(number)
    before = accepted(daemon)
    until(lambda: accepted(daemon) > before + 1, "two more reports")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("number", STOPPING)
def test_the_profiler_stops(profiler: tuple[Server, Daemon], number: signal.Signals) -> None:
    """With exit code 0."""
    server, _ = profiler
    server.signal(number)
    assert server.wait() == 0


def test_children_hear_nothing_of_it(start: Callable[..., Daemon]) -> None:
    """A signal to the daemon alone leaves its Prometheus as it is; the end of the daemon is the end of it."""
    daemon = start("--prometheus", "embedded")
    child = daemon.member("prometheus")
    for number in HARMLESS:
        daemon.signal(number)
    daemon.post(report("n1")).raise_for_status()
    assert daemon.member("prometheus") == child
    daemon.signalled = False
