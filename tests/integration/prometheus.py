"""A real Prometheus for the integration tests, which scrapes a daemon every second."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import requests

from tests.integration.daemon import PATIENCE, Server, free_port, until

if TYPE_CHECKING:
    from pathlib import Path


class Prometheus:
    """Debian's Prometheus on a port of its own, which it keeps when it is started again."""

    def __init__(self, home: Path, rules: Path | None = None) -> None:
        """`rules` is a file of rules, which are evaluated every second."""
        self._rules = rules
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._home = home
        self._server: Server | None = None

    def start(self, target_port: int) -> None:
        """Start it, and return when it answers."""
        self._home.mkdir(parents=True, exist_ok=True)
        config = self._home / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{self._rules or ''}]\n"
            "scrape_configs: [{job_name: orchestrator, static_configs: "
            f"[{{targets: ['127.0.0.1:{target_port}']}}]}}]\n"
        )
        self._server = Server(
            (
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._home / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ),
            self._home,
        )
        until(self._ready, f"a Prometheus that answers: {self._server.output()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._server is not None
        self._server.signal(signal.SIGKILL)
        self._server.wait()

    def close(self) -> None:
        """End what is left of it."""
        if self._server is not None:
            self._server.close()

    def _ready(self) -> bool:
        assert self._server is not None
        assert self._server.process.poll() is None, self._server.output()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=PATIENCE).status_code == 200
        except requests.ConnectionError:
            return False


def result(answer: requests.Response) -> list[dict[str, Any]]:
    """Return the series of a successful answer."""
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "success"), body
    series: list[dict[str, Any]] = body["data"]["result"]
    return series
