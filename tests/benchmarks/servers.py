"""Starts the servers: ours as twistd starts it, and the peers. Each ends with the benchmark, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.benchmarks import http11
from tests.benchmarks.machine import ALL, SERVER, python_program
from tests.options import flags_and_environment
from tests.ports import free_port as free_port  # noqa: PLC0414 - for who has the rest from here

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HERE = Path(__file__).parent
_ROOT = HERE.parent.parent
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


class ServerError(Exception):
    """A server that did not start, or ended too early."""


@dataclass(frozen=True)
class Server:
    """A running server on 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process, which `taskset` and `setpriv` have become."""
        return self.process.pid

    def check(self) -> None:
        """Raise ServerError if it has ended."""
        if self.process.poll() is not None:
            said = self.log.read_text(errors="replace")[-800:]
            raise ServerError(f"{self.name} ended with {self.process.returncode}: {said}")


class Servers:
    """The servers of one case, and a directory for their data and for requests; all ends with the `with` block."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._running: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in reversed(self._running):
            self.stop(server)

    def start(
        self,
        name: str,
        command: Iterable[str],
        port: int,
        ready: str | None,
        cores: set[int] = SERVER,
        *,
        more: Mapping[str, str] | None = None,
    ) -> Server:
        """Start a program and wait until a GET of `ready` is answered with 200; None does not wait.

        `more` are further environment variables.
        """
        log = self.home / f"{name.replace(' ', '-')}-{port}.log"
        # A child dies with its parent, even if that one is killed.
        tied = ["taskset", "-c", ",".join(map(str, sorted(cores))), "setpriv", "--pdeathsig", "KILL", "--", *command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=_environment(self.home / f"home-{port}") | dict(more or {}),
            )
        server = Server(name, port, process, log)
        self._running.append(server)
        if ready is not None:
            _wait(server, ready)
        return server

    def stop(self, server: Server) -> None:
        """End a server, and wait for its end."""
        self._running.remove(server)
        server.process.terminate()
        try:
            server.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()

    def daemon(
        self,
        *options: str,
        ready: str | None = "/-/ready",
        turns: Path | None = None,
        program: Path | None = None,
    ) -> Server:
        """Start ours; `turns` is a file for the reactor's long turns, which twistd is run with a stopwatch for.

        `program` is the twistd of another installation, which is started in place of this one.
        """
        port = free_port()
        listen = f"tcp:{port}:interface=127.0.0.1"
        twistd = [sys.executable, str(HERE / "turns.py"), str(turns)] if turns else [python_program("twistd")]
        if program is not None:
            twistd = [str(program)]
        flags, more = flags_and_environment(options)
        return self.start(
            "before" if program else "ours",
            [*twistd, "-n", "--pidfile=", "orchestrator", "--listen", listen, *flags],
            port,
            ready,
            more=more,
        )

    def floor(self) -> Server:
        """Start the floor."""
        port = free_port()
        return self.start("floor", [sys.executable, str(HERE / "floor.py"), str(port)], port, "/")

    def flask(self) -> Server:
        """Start the Flask service with the server that Flask brings."""
        port = free_port()
        app = "tests.benchmarks.flask_service"
        command = [sys.executable, "-m", "flask", "--app", app, "run", "--host", "127.0.0.1", "--port", str(port)]
        return self.start("Flask", command, port, "/metrics")

    def gunicorn(self) -> Server:
        """Start the Flask service with gunicorn and two workers."""
        port = free_port()
        app = "tests.benchmarks.flask_service:app"
        command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", app]
        return self.start("gunicorn", command, port, "/metrics", ALL)

    def pushgateway(self, *, check: bool = True, store: Path | None = None) -> Server:
        """Start Pushgateway, with or without the consistency check that it makes on every push by default.

        `store` is the file that it reads at its start and writes at its end.
        """
        port = free_port()
        command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"]
        command += [] if check else ["--push.disable-consistency-check"]
        command += [f"--persistence.file={store}"] if store else []
        return self.start("Pushgateway" if check else "Pushgateway unchecked", command, port, "/-/ready", ALL)

    def victoria_metrics(self) -> Server:
        """Start VictoriaMetrics."""
        port = free_port()
        data = self.home / f"victoria-{port}"
        command = ["victoria-metrics", f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={data}"]
        return self.start("VictoriaMetrics", command, port, "/health", ALL)

    def prometheus(self, target_port: int, port: int, *, every: float = 5, ready: str | None = "/-/ready") -> Server:
        """Start a Prometheus that scrapes `/metrics` of a port every so many seconds, and wait as `start` does."""
        config = self.home / f"prometheus-{port}.yml"
        config.write_text(
            f"global: {{scrape_interval: {every:g}s, scrape_timeout: {every:g}s}}\n"
            f"scrape_configs: [{{job_name: nodes, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}]\n"
        )
        data = self.home / f"prometheus-{port}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        return self.start("Prometheus", command, port, ready, ALL)

    def receiver(self) -> Server:
        """Start a Prometheus that scrapes nobody, and takes what is written to it."""
        port = free_port()
        config = self.home / f"receiver-{port}.yml"
        config.write_text("storage: {tsdb: {out_of_order_time_window: 30m}}\n")
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.home / f'receiver-{port}'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver"]
        return self.start("Prometheus", [*command, "--log.level=warn"], port, "/-/ready", ALL)

    def plain_proxy(self, prometheus_port: int) -> Server:
        """Start the plain Klein and `treq.get` proxy."""
        port = free_port()
        command = [sys.executable, str(HERE / "plain_proxy.py"), str(port), f"http://127.0.0.1:{prometheus_port}"]
        return self.start("plain proxy", command, port, "/query?q=1")


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        with suppress(OSError, HTTPException):
            if http11.get(server.port, path)[0] == 200:
                return
        time.sleep(0.02)
    raise ServerError(f"{server.name} was not ready within {_START_SECONDS:g} s: {server.log.read_text()[-800:]}")


def _environment(home: Path) -> dict[str, str]:
    """Return the environment without what would change our default settings, and with the way to this package.

    What a server keeps across restarts is kept under `home`, and no other finds it there.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORCHESTRATOR_", "PROMETHEUS_", "XDG_"))
    }
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_ROOT))))
    return kept | {"HOME": str(home)}
