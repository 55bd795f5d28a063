"""Debian's Prometheus and VictoriaMetrics for the integration tests: they are asked, and take remote write."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import requests

from tests.integration.daemon import PATIENCE, Server, free_port, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Store:
    """A store on a port of its own, which it keeps when it is started again."""

    def __init__(self, home: Path, host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.url = f"http://{host}:{self.port}"
        self._home = home
        self._server: Server | None = None

    @property
    def receiver(self) -> str:
        """The URL at which it takes remote write."""
        return f"{self.url}/api/v1/write"

    def command(self, home: Path) -> tuple[str, ...]:
        """Return what starts it, with its data below `home`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._home.mkdir(parents=True, exist_ok=True)
        self._server = Server(self.command(self._home), self._home)
        until(self._ready, f"a store that answers: {self._server.output()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._server is not None
        self._server.signal(number)

    def stop(self) -> None:
        """End it cleanly; it may be started again, with the same data."""
        assert self._server is not None
        self._server.signal(signal.SIGTERM)
        self._server.wait()
        self._server.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        assert self._server is not None
        self._server.wait()

    def close(self) -> None:
        """End what is left of it."""
        if self._server is not None:
            self._server.close()

    def instant(self, query: str, time: float | None = None) -> list[dict[str, Any]]:
        """Return the series that answer a query."""
        params = {"query": query, "nocache": "1"} | ({} if time is None else {"time": str(time)})
        return result(requests.get(f"{self.url}/api/v1/query", params=params, timeout=PATIENCE))

    def _ready(self) -> bool:
        assert self._server is not None
        assert self._server.process.poll() is None, self._server.output()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=PATIENCE).status_code == 200
        except requests.ConnectionError:
            return False


class Prometheus(Store):
    """Prometheus, which scrapes whom it is told to every second; it takes samples up to half an hour out of order."""

    def __init__(
        self, home: Path, rules: Path | None = None, host: str = "127.0.0.1", *, out_of_order_window: str = "30m"
    ) -> None:
        """`rules` is a file of rules, which are evaluated every second."""
        super().__init__(home, host)
        self.out_of_order_window = out_of_order_window
        self._rules = rules
        self._jobs: dict[str, Sequence[int]] = {}

    def start(self, target_port: int | None = None, **others: Sequence[int]) -> None:
        """Start it, and return when it answers. `others` are jobs beside "orchestrator", with the ports of each."""
        self._jobs = ({} if target_port is None else {"orchestrator": (target_port,)}) | others
        super().start()

    def command(self, home: Path) -> tuple[str, ...]:
        """Return what starts it."""
        config = home / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{self._rules or ''}]\n"
            f"storage: {{tsdb: {{out_of_order_time_window: {self.out_of_order_window}}}}}\n"
            "scrape_configs:\n"
            + "".join(
                f"- {{job_name: {job}, static_configs: [{{targets: {[f'127.0.0.1:{port}' for port in ports]}}}]}}\n"
                for job, ports in self._jobs.items()
            )
        )
        return (
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--web.enable-remote-write-receiver",
        )


class VictoriaMetrics(Store):
    """VictoriaMetrics as it is by default: instant queries are answered as of 30 s ago unless there is `nocache=1`."""

    def command(self, home: Path) -> tuple[str, ...]:
        """Return what starts it."""
        return (
            "victoria-metrics",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={home / 'data'}",
            "-retentionPeriod=1d",
        )


def result(answer: requests.Response) -> list[dict[str, Any]]:
    """Return the series of a successful answer."""
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "success"), body
    series: list[dict[str, Any]] = body["data"]["result"]
    return series
