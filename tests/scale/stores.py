"""The stores that reports are delivered to, real ones: how they are started, and how what they have is read back."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

from orchestratord.nodes.families import LAST_REPORT
from tests.benchmarks import payloads
from tests.benchmarks.machine import ALL
from tests.benchmarks.servers import ServerError, free_port
from tests.scale.book import NAMES
from tests.soak.client import Connection, NoAnswer
from tests.soak.processes import ended, ready
from tests.soak.readings import FAMILIES

if TYPE_CHECKING:
    from tests.benchmarks.servers import Server, Servers
    from tests.scale.book import Ends, Samples

#: Seconds that it may take to read everything.
_PATIENCE = 60.0
#: All our series.
EVERYTHING = '{__name__=~"' + "|".join(NAMES) + '"}'


class Store:
    """A store on a port and with data that it keeps when it is started again. It ends with `servers`."""

    name: ClassVar[str]
    package: ClassVar[str]
    ready_path: ClassVar[str]
    #: By what share a value may come back differently: a store may keep decimals.
    rounding: ClassVar[float] = 0.0

    def __init__(self, servers: Servers) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._servers = servers
        self._lives = 0
        self._server: Server | None = None

    def command(self) -> list[str]:
        """Return how it is started."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        self._lives += 1
        name = f"{self.name}-{self._lives}"
        self._server = self._servers.start(name, self.command(), self.port, None, ALL)
        await ready(self._server, self.ready_path)

    async def stop(self) -> int:
        """End it as an operator does; return its exit code."""
        server = self._running()
        server.process.terminate()
        return await ended(self._servers, server)

    async def hurry(self) -> None:
        """Let it show new series at once, if it takes its time over that."""

    def freeze(self, *, frozen: bool) -> None:
        """Let it accept and never answer, or run again."""
        self._running().process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def check(self) -> None:
        """Raise ServerError if it has ended by itself."""
        self._running().check()

    async def instant(self, query: str, seconds: float, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Return the series that an instant query is answered with; raise NoAnswer if there is no 200 in time."""
        given = connection or Connection(self.port)
        try:
            answer = await given.ask(payloads.get(f"/api/v1/query?query={quote(query)}"), seconds)
        finally:
            if connection is None:
                given.close()
        if answer.status != 200:
            raise NoAnswer(f"{answer.status} {answer.body[:200]!r}")
        result: list[dict[str, Any]] = json.loads(answer.body)["data"]["result"]
        return result

    async def series(self, began: float, ended: float) -> list[dict[str, str]]:
        """Return the labels of all series of ours that there were between two moments, Unix seconds."""
        asked = urlencode({"match[]": EVERYTHING, "start": f"{began:.3f}", "end": f"{ended:.3f}"})
        labels: list[dict[str, str]] = json.loads(await self._get(f"/api/v1/series?{asked}"))["data"]
        return labels

    async def samples(self, began: float) -> Samples:
        """Return every sample of ours since a moment, Unix seconds, by node and family."""
        raise NotImplementedError

    async def ends(self, began: float, step: float) -> Ends:
        """Return at which moments of its life, in milliseconds, a series had ended, by node id and family.

        They are looked for since `began`, Unix seconds, every `step` seconds if the store does not tell them itself.
        """
        raise NotImplementedError

    async def _get(self, path: str) -> bytes:
        connection = Connection(self.port)
        try:
            answer = await connection.ask(payloads.get(path), _PATIENCE)
        except NoAnswer as error:
            raise ServerError(f"{self.name} does not answer {path[:80]}: {error}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerError(f"{self.name} answers {path[:80]} with {answer.status} {answer.body[:300]!r}")
        return answer.body

    def _running(self) -> Server:
        assert self._server is not None
        return self._server


class Prometheus(Store):
    """Prometheus with its receiver, and a window for samples that are late, as a store needs it."""

    name = "prometheus"
    package = "prometheus"
    ready_path = "/-/ready"

    def command(self) -> list[str]:
        """Return how it is started."""
        config = self._servers.home / "store.yml"
        config.write_text("storage: {tsdb: {out_of_order_time_window: 30m}}\n")
        return [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self._servers.home / 'store'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ]

    async def samples(self, began: float) -> Samples:
        """Return every sample of ours since a moment."""
        samples: Samples = {}
        for family in NAMES:
            now = time.time()
            query = f"{family}[{int(now - began) + 60}s]"
            body = json.loads(await self._get(f"/api/v1/query?{urlencode({'query': query, 'time': f'{now:.3f}'})}"))
            for series in body["data"]["result"]:
                values = [(round(at * 1000), float(value)) for at, value in series["values"]]
                samples.setdefault((series["metric"]["node_id"], family), []).extend(values)
        return samples

    async def ends(self, began: float, step: float) -> Ends:
        """Return when a series did not answer, between two moments at which it did; of two that all reports have."""
        last = time.time()
        ends: Ends = {}
        for family in (FAMILIES[0], LAST_REPORT):
            asked = {"query": family, "start": f"{began:.3f}", "end": f"{last:.3f}", "step": f"{step:g}"}
            body = json.loads(await self._get(f"/api/v1/query_range?{urlencode(asked)}"))
            for series in body["data"]["result"]:
                steps = {round((at - began) / step) for at, _ in series["values"]}
                gaps = set(range(min(steps), max(steps))) - steps
                ends[series["metric"]["node_id"], family] = {round((began + gap * step) * 1000) for gap in gaps}
        return ends


class VictoriaMetrics(Store):
    """VictoriaMetrics, which is told not to hold instant answers back for 30 s."""

    name = "victoria-metrics"
    package = "victoria-metrics"
    ready_path = "/health"
    rounding = 2**-51

    def command(self) -> list[str]:
        """Return how it is started."""
        return [
            "victoria-metrics",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self._servers.home / 'store'}",
            "-search.latencyOffset=1ms",
            "-loggerLevel=WARN",
        ]

    async def hurry(self) -> None:
        """Let it show new series at once: it takes up to 10 s to look at its index again."""
        await self._get("/internal/force_flush")

    async def samples(self, began: float) -> Samples:
        """Return every sample of ours since a moment, stale markers left out."""
        samples: Samples = {}
        for key, values in (await self._export(began)).items():
            samples[key] = [(at, value) for at, value in values if value is not None]
        return samples

    async def ends(self, began: float, step: float) -> Ends:  # noqa: ARG002 - it tells them itself
        """Return the moments of all stale markers."""
        exported = (await self._export(began)).items()
        return {key: {at for at, value in values if value is None} for key, values in exported}

    async def _export(self, began: float) -> dict[tuple[str, str], list[tuple[int, float | None]]]:
        exported: dict[tuple[str, str], list[tuple[int, float | None]]] = {}
        for line in (
            await self._get(f"/api/v1/export?{urlencode({'match[]': EVERYTHING, 'start': f'{began:.3f}'})}")
        ).splitlines():
            series = json.loads(line)
            key = series["metric"]["node_id"], series["metric"]["__name__"]
            exported.setdefault(key, []).extend(zip(series["timestamps"], series["values"], strict=True))
        return exported


STORES: dict[str, type[Store]] = {store.name: store for store in (Prometheus, VictoriaMetrics)}
