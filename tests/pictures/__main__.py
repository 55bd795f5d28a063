"""Take the screenshots: `python -m tests.pictures`. It takes about three minutes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING
from urllib.parse import quote

import requests

from tests.integration.browser import Browser
from tests.integration.daemon import PATIENCE, ROOT, Daemon, tied
from tests.integration.stores import Prometheus
from tests.pictures.simulated_nodes import simulated_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.pictures.simulated_nodes import Node

PICTURES = ROOT / "docs" / "pictures"
#: Seconds between two reports of a node, and seconds of reports before the first screenshot.
REPORT_SECONDS, WARM_UP_SECONDS = 10.0, 90.0
STEP = 15
QUERY = 'avg_over_time(page_faults{node_id=~"gpu-[1-5]"}[2m]) and page_faults'
#: Nodes that stop reporting, and how many seconds before the screenshot: one is late then, one is gone.
SILENT = {"web-17": 48.0, "batch-04": 75.0}


def write_history(nodes: Iterable[Node], home: Path, target: str) -> None:
    """Write the last hour of these nodes into the data directory of a Prometheus that has not been started yet."""
    home.mkdir(parents=True)
    end = int(time.time()) // STEP * STEP
    samples: dict[str, list[str]] = {}
    for node in nodes:
        for at in range(end - 3900, end, STEP):
            for family, value in node.counts(at).items():
                labels = f'instance="{target}",job="orchestrator",node_id="{node.name}"'
                samples.setdefault(family, []).append(f"{family}{{{labels}}} {value} {at}\n")
    text = home / "past.txt"
    with text.open("w") as file:
        for family, lines in samples.items():
            file.write(f"# TYPE {family} gauge\n")
            file.writelines(lines)
        file.write("# EOF\n")
    command = ("promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(home / "data"))
    subprocess.run(tied(*command), check=True, stdout=subprocess.DEVNULL)
    text.unlink()


class Traffic:
    """Sends reports of the nodes, and queries of a scheduler, each on a thread, until the end of the block."""

    def __init__(self, daemon: Daemon, nodes: list[Node], ends: float) -> None:
        self._daemon, self._nodes, self._ends = daemon, nodes, ends
        self._stopped = Event()
        self._threads = [Thread(target=self._send_reports), Thread(target=self._send_queries)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _send_reports(self) -> None:
        parts, turn = 20, 0
        while not self._stopped.wait(0 if turn < parts else REPORT_SECONDS / parts):
            now = time.time()
            batch = [
                {"node_id": node.name, **node.counts(now)}
                for node in self._nodes[turn % parts :: parts]
                if now < self._ends - SILENT.get(node.name, 0)
            ]
            if batch:
                self._daemon.post(batch).raise_for_status()
            turn += 1

    def _send_queries(self) -> None:
        with requests.Session() as session:
            turn = 0
            while not self._stopped.wait(0.08):
                name = self._nodes[turn * 7 % len(self._nodes)].name
                question = f'page_faults{{node_id="{name}"}}'
                session.get(f"{self._daemon.url}/query", params={"q": question}, timeout=PATIENCE)
                turn += 1


def take_all(home: Path, browser: Browser) -> None:
    """Take all screenshots."""
    prometheus = Prometheus(home / "prometheus")
    daemon = Daemon(home / "daemon", "--prometheus", prometheus.url).started()
    small, large = simulated_nodes(60), simulated_nodes(2000)
    write_history(small, home / "prometheus", f"127.0.0.1:{daemon.port}")
    try:
        prometheus.start(daemon.port)
        ends = time.time() + WARM_UP_SECONDS
        with Traffic(daemon, small, ends):
            Event().wait(ends - time.time())
            save(browser, f"{daemon.url}/?metric=page_faults", "fleet", height=1130)
            save(browser, f"{daemon.url}/fleet?sort=page_faults", "nodes", height=760)
            save(browser, f"{daemon.url}/nodes/db-3", "node", height=760)
            save(browser, f"{daemon.url}/graph?q={quote(QUERY)}", "query", height=940)
            save(browser, f"{daemon.url}/?metric=page_faults", "narrow", width=390, height=844, scheme="dark")
        with Traffic(daemon, large, time.time() + 1000):
            Event().wait(WARM_UP_SECONDS)
            save(browser, f"{daemon.url}/?metric=fs_read_count", "fleet-2000", height=960, scheme="dark")
    finally:
        daemon.close()
        prometheus.close()


def save(browser: Browser, url: str, name: str, *, scheme: str = "light", width: int = 1280, height: int) -> None:
    """Save a screenshot of a page, `width` by `height` pixels."""
    view = browser.look(url, scheme=scheme, width=width, height=height)
    view.page.wait_for_load_state("networkidle")
    path = PICTURES / f"{name}.png"
    view.page.screenshot(path=path)
    subprocess.run(("pngquant", "--force", "--strip", "--output", str(path), str(path)), check=True)
    view.page.context.close()


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, Browser() as browser:
        take_all(Path(home), browser)
    sys.stdout.write("".join(f"{path} {path.stat().st_size // 1024} kB\n" for path in sorted(PICTURES.glob("*.png"))))
