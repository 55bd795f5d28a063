"""docs/TLS.md is run as it stands: its shell commands, but for the ports and the interface."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.integration.daemon import PATIENCE, TWISTD, Server, free_port, run, until
from tests.integration.document import blocks, document

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.integration


class Page:
    """The page's commands, in a folder; those that serve go on in the background until the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.port, prometheus = free_port(), free_port()
        text = document("TLS.md")
        for written, meant in (
            ("tls:tcp:5443", f"tls:tcp:{self.port}:interface=127.0.0.1"),
            ("localhost:5443", f"localhost:{self.port}"),
            ("localhost:9443", f"localhost:{prometheus}"),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
        ):
            assert written in text
            text = text.replace(written, meant)
        self._blocks = iter(blocks(text, "sh"))
        self._path = {"PATH": f"{Path(TWISTD).parent}:/usr/local/bin:/usr/bin:/bin"}

    def next(self, *, expect: str) -> str:
        """Return the next block, which must hold this."""
        block = next(self._blocks)
        assert expect in block
        return block

    def run(self, *, expect: str) -> subprocess.CompletedProcess[str]:
        """Run the next block as a script."""
        return self.again(self.next(expect=expect))

    def again(self, block: str) -> subprocess.CompletedProcess[str]:
        """Run a block."""
        return run("sh", "-eu", given=block, cwd=self.folder, env=self._path)

    def serve(self, *, expect: str) -> Server:
        """Start the next block's one command, which does not end by itself."""
        server = Server(
            ("sh", "-c", f"cd {self.folder} && exec {self.next(expect=expect)}"), self.folder / expect, self._path
        )
        self._stack.callback(server.close)
        return server


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page, and an end of everything that it started."""
    with ExitStack() as stack:
        yield Page(tmp_path, stack)


def test_the_page_is_true(page: Page) -> None:
    """From an empty folder to a report and a query over TLS, a client that is refused, and a renewal."""
    made = page.run(expect="openssl")
    assert made.returncode == 0, made.stderr
    assert page.run(expect="prometheus.yml").returncode == 0
    prometheus = page.serve(expect="prometheus")
    prometheus.said("Server is ready")
    daemon = page.serve(expect="orchestrator")
    daemon.said(rf"serves on 127.0.0.1:{page.port} \(TLS\)")
    profiler = page.serve(expect="profiler")

    asked = page.next(expect="/query")

    def answered() -> str | None:
        got = page.again(asked)
        assert got.returncode == 0, got.stderr
        return got.stdout if '{"nodes":["node-1"]}' in got.stdout and '"node_id":"node-1"' in got.stdout else None

    until(answered, "a report of the profiler, scraped by Prometheus and asked for through us")
    refused = page.run(expect="! curl")
    assert refused.returncode == 0, refused.stdout
    assert not refused.stdout

    mine = (str(page.folder / "client.pem"), str(page.folder / "client.key"))
    authority = str(page.folder / "ca.pem")

    def ends() -> float:
        url = f"https://localhost:{page.port}/metrics"
        answer = requests.get(url, verify=authority, cert=mine, timeout=PATIENCE)
        name = "orchestrator_tls_certificate_not_after_timestamp_seconds"
        found = re.search(rf"^{name} (\S+)$", answer.text, re.MULTILINE)
        assert found
        return float(found[1])

    def names() -> str:
        """Return the names and addresses that the server's certificate is for."""
        command = ("openssl", "x509", "-in", "server.pem", "-noout", "-ext", "subjectAltName")
        return run(*command, cwd=page.folder).stdout

    before, named = ends(), names()
    assert "orchestrator-service.default.svc.cluster.local" in named
    renewed = page.run(expect="server.csr")
    assert renewed.returncode == 0, renewed.stderr
    assert names() == named
    until(lambda: ends() > before, "the new certificate, which ends later")
    assert page.again(asked).returncode == 0
    for server in (profiler, daemon):
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.output()
        assert "Unhandled" not in server.output()
