"""Real stores for the integration tests, which take remote write: Debian's Prometheus and VictoriaMetrics."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import requests

from tests.integration.daemon import PATIENCE, Server, free_port, until
from tests.integration.prometheus import result

if TYPE_CHECKING:
    from pathlib import Path


class Store:
    """A store on a port of its own, which it keeps when it is started again."""

    #: Where it takes remote write.
    path = "/api/v1/write"

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._home = home
        self._server: Server | None = None

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


class PrometheusReceiver(Store):
    """Prometheus as a receiver, which scrapes nobody; it takes samples that are up to half an hour out of order."""

    def command(self, home: Path) -> tuple[str, ...]:
        """Return what starts it."""
        config = home / "prometheus.yml"
        config.write_text("storage: {tsdb: {out_of_order_time_window: 30m}}\n")
        return (
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
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
