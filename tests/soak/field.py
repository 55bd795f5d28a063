"""The servers of a run: the daemon in all its lives, the Prometheus that scrapes it, the relay between the two."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import machine
from tests.benchmarks.servers import Servers, free_port
from tests.soak.ledger import kept_since
from tests.soak.processes import PATIENCE, ended, ready, said

if TYPE_CHECKING:
    from tests.benchmarks.servers import Server
    from tests.soak.account import Account
    from tests.soak.ledger import Ledger
    from tests.soak.plan import Plan
    from tests.soak.relay import Relay


@dataclass(frozen=True)
class Size:
    """What a process takes: resident bytes, and open descriptors."""

    resident: int
    descriptors: int


class Field:
    """The servers, and how they are started, ended and stopped. They end with `servers`."""

    def __init__(self, plan: Plan, servers: Servers, relay: Relay, prometheus_port: int, ledger: Ledger) -> None:
        self.plan = plan
        self.relay = relay
        self.port = free_port()
        self.prometheus_port = prometheus_port
        self._servers = servers
        self._ledger = ledger
        self._snapshots = "--snapshot-every" in _help()
        self._lives = 0
        self._daemon: Server | None = None
        self._prometheus: Server | None = None

    @property
    def snapshot_every(self) -> float | None:
        """Seconds between the daemon's snapshots, None if it knows none."""
        return self.plan.snapshot_every if self._snapshots else None

    async def start_daemon(self) -> None:
        """Start the daemon, on the port and the data that it had before, and return when it is ready."""
        self._lives += 1
        plan = self.plan
        options = {
            "listen": f"tcp:{self.port}:interface=127.0.0.1",
            "prometheus": f"http://127.0.0.1:{self.relay.port}",
            "stale-after": f"{plan.stale_after:g}",
            "query-timeout": f"{plan.query_timeout:g}",
            "request-timeout": f"{plan.request_timeout:g}",
            "max-nodes": str(plan.nodes + plan.spare),
            "data-dir": str(self._servers.home / "data"),
        }
        if self._snapshots:
            options["snapshot-every"] = f"{plan.snapshot_every:g}"
        command = [machine.python_program("twistd"), "-n", "--pidfile=", "orchestrator"]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._daemon = self._servers.start(f"daemon-{self._lives}", command, self.port, None)
        await ready(self._daemon)

    async def kill_daemon(self) -> None:
        """End the daemon as a power cut would."""
        daemon = self._running()
        daemon.process.kill()
        await ended(self._servers, daemon)
        self._died(clean=False)

    async def stop_daemon(self, account: Account) -> None:
        """End the daemon as an operator does."""
        daemon = self._running()
        daemon.process.terminate()
        if await ended(self._servers, daemon):
            account.breaks("SIGTERM ends it with exit code 0", f"exit code {daemon.process.returncode}: {said(daemon)}")
        self._died(clean=True)

    def _died(self, *, clean: bool) -> None:
        died = time.monotonic()
        since = kept_since(died, clean=clean, snapshot_every=self.snapshot_every, write=self.plan.snapshot_write)
        self._ledger.restarted(died, since)

    def freeze_daemon(self, *, frozen: bool) -> None:
        """Let the daemon run no more, or again."""
        self._running().process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def check_daemon(self) -> None:
        """Raise ServerError if the daemon has ended by itself."""
        self._running().check()

    def daemon_said(self) -> str:
        """Return what all lives of the daemon have logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._servers.home.glob("daemon-*.log")))

    async def start_prometheus(self) -> None:
        """Start Prometheus, on the port and the data that it had before, and return when it is ready."""
        self._prometheus = self._servers.prometheus(
            self.port, self.prometheus_port, every=self.plan.scrape_every, ready=None
        )
        await ready(self._prometheus)

    async def kill_prometheus(self) -> None:
        """End Prometheus as a power cut would."""
        assert self._prometheus is not None
        self._prometheus.process.kill()
        await ended(self._servers, self._prometheus)

    def freeze_prometheus(self, *, frozen: bool) -> None:
        """Let Prometheus accept and never answer, or run again."""
        assert self._prometheus is not None
        self._prometheus.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def size(self) -> Size:
        """Return what the daemon takes."""
        pid = self._running().pid
        return Size(machine.resident_bytes(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def _running(self) -> Server:
        assert self._daemon is not None
        return self._daemon


def _help() -> str:
    command = [machine.python_program("twistd"), "orchestrator", "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
