"""What a user sees who starts the two daemons by hand."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import LOOPBACK, TWISTD, Daemon, Server, environment, run, session_members

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration


def test_both_start_in_one_folder(tmp_path: Path) -> None:
    """With -n and nothing else neither writes a pidfile, so that the second starts; both say what they are."""
    with ExitStack() as stack:

        def started(*command: str) -> Server:
            server = Server((TWISTD, "-n", *command), tmp_path)
            stack.callback(server.close)
            return server

        daemon = started("orchestrator", "--listen", LOOPBACK)
        url = daemon.said(r"the page is at (http://127\.0\.0\.1:\d+)/\n")[1]
        profiler = started("profiler", "--orchestrator", url, "--interval", "1", "--source", "procfs", "--node-id", "n")
        profiler.said(r"this node is measured with procfs\n")
        profiler.said(r"accepts the reports of n\n")
        assert list(tmp_path.glob("*.pid")) == []
        for server in (profiler, daemon):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


def test_a_pidfile_that_is_asked_for_is_written(tmp_path: Path) -> None:
    """Under any name, twistd's own default too."""
    server = Server((TWISTD, "-n", "--pidfile", "twistd.pid", "orchestrator", "--listen", LOOPBACK), tmp_path)
    try:
        server.said("serves on")
        pid = int((tmp_path / "twistd.pid").read_text())
        assert pid in session_members(server.pid)
    finally:
        server.close()


@pytest.mark.parametrize("command", ["orchestrator", "profiler"])
def test_a_pidfile_that_cannot_be_written_ends_in_one_line(tmp_path: Path, command: str) -> None:
    """Also twistd's own, without -n, in a folder that is not writable; no traceback."""
    (tmp_path / "file").touch()
    said = run(TWISTD, "-n", f"--pidfile={tmp_path}/file/x.pid", command, env=environment(tmp_path))
    assert said.returncode == 1
    (line,) = (said.stdout + said.stderr).splitlines()
    assert line == (
        f"twistd {command}: --pidfile: '{tmp_path}/file/x.pid' cannot be written: there is no such folder;"
        " --pidfile= writes none"
    )
    denied = run("setpriv", "--reuid=65534", "--clear-groups", TWISTD, command, cwd="/", env=environment(tmp_path))
    assert denied.returncode == 1
    assert (
        f"twistd {command}: --pidfile: 'twistd.pid' cannot be written: no permission" in denied.stdout + denied.stderr
    )
    assert "Traceback" not in denied.stdout + denied.stderr


def test_a_port_that_others_reach_is_one_warning(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It says how to close it; a port for this machine alone has no warning."""
    alone = start()
    alone.stop()
    assert "needs no token" not in alone.output()
    server = Server((TWISTD, "-n", "orchestrator", "--listen", "tcp:0"), tmp_path / "open")
    try:
        server.said(r"the page is at http://(127\.0\.0\.1|\[::1\]):\d+/\n")
        server.said(
            r"#warn\] anyone who can connect to \S+:\d+.* needs no token for report, query, scrape, admin\. "
            r"To close it: "
        )
        assert len(re.findall("needs no token", server.output())) == 1
    finally:
        server.close()


def test_a_misspelt_variable_is_one_warning(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Of either daemon, with the name that was meant; what Kubernetes sets is silent."""
    daemon = start(
        env={"ORCHESTRATOR_STALE_AFER": "9", "ORCHESTRATOR_PORT": "tcp://10.0.0.1:5000", "ORCHESTRATOR_ACCESS_LOG": "1"}
    )
    daemon.said(r"#warn\] the environment variable 'ORCHESTRATOR_STALE_AFER' .* mean ORCHESTRATOR_STALE_AFTER\?\n")
    assert daemon.output().count("the environment variable") == 1
    profiler = Server((TWISTD, "-n", "profiler", "--source", "procfs"), tmp_path / "profiler", {"PROFILER_NODEID": "n"})
    try:
        profiler.said(r"#warn\] the environment variable 'PROFILER_NODEID' .* did you mean PROFILER_NODE_ID\?\n")
    finally:
        profiler.close()
