"""A real Prometheus for the integration tests, which scrapes a daemon every second, and takes remote writes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import requests

from tests.integration.daemon import PATIENCE, Server, free_port, until

if TYPE_CHECKING:
    from collections.abc import Sequence
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

    @property
    def receiver(self) -> str:
        """The URL of its remote-write receiver."""
        return f"{self.url}/api/v1/write"

    def start(self, target_port: int, **others: Sequence[int]) -> None:
        """Start it, and return when it answers. `others` are jobs beside "orchestrator", with the ports of each."""
        self._home.mkdir(parents=True, exist_ok=True)
        config = self._home / "prometheus.yml"
        jobs = {"orchestrator": (target_port,), **others}
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{self._rules or ''}]\n"
            "storage: {tsdb: {out_of_order_time_window: 30m}}\n"
            "scrape_configs:\n"
            + "".join(
                f"- {{job_name: {job}, static_configs: [{{targets: {[f'127.0.0.1:{port}' for port in ports]}}}]}}\n"
                for job, ports in jobs.items()
            )
        )
        self._server = Server(
            (
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._home / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-remote-write-receiver",
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
