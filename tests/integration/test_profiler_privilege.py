"""The real profiler with real eBPF, allowed no more than its DaemonSet and its systemd unit allow it."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.peers import report_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent
TRACEFS = Path("/sys/kernel/tracing")
START_SECONDS = 60.0
"""bpftrace compiles its program first, which takes some seconds on a busy machine."""


@contextmanager
def reports() -> Iterator[tuple[str, queue.Queue[Any]]]:
    """Stand in for an orchestrator: its URL, and the reports that it is sent."""
    received: queue.Queue[Any] = queue.Queue()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            report = self.rfile.read(int(self.headers["Content-Length"]))
            refused = report_refusal(b"POST", self.path.encode(), (self.headers["Content-Type"] or "").encode())
            if refused is None:
                received.put(json.loads(report))
            body = b'{"status": "Metrics updated", "accepted": 1, "superseded": 0}'
            self.send_response(refused or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def of_daemonset() -> tuple[list[str], dict[str, str]]:
    """Return the capabilities and the variables of the DaemonSet's container."""
    daemonset = yaml.safe_load((ROOT / "k8s/profiler/profiler-daemonset.yaml").read_text())
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    return container["securityContext"]["capabilities"]["add"], variables


def of_unit() -> tuple[list[str], dict[str, str]]:
    """Return the capabilities and the variables of the systemd unit."""
    text = (ROOT / "etc/systemd/orchestratord-profiler.service").read_text()
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    words = " ".join(re.findall(r"^Environment=(.*)$", text, re.MULTILINE)).split()
    variables = dict(word.split("=", 1) for word in words)
    return [name.removeprefix("CAP_") for name in capabilities.split()], variables


@pytest.mark.parametrize("allowance", [of_daemonset, of_unit])
def test_ebpf_with_few_capabilities(allowance: Any, tmp_path: Path) -> None:
    """The capabilities and variables that are given are enough to measure with eBPF and report all eight families."""
    for program, package in (("bpftrace", "bpftrace"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            pytest.fail(f"no {program} on PATH; Debian's package {package} brings it")
    if not (TRACEFS / "events").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS)], check=True)
    capabilities, variables = allowance()
    allowed = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    limited = ["setpriv", f"--bounding-set={allowed}", "--inh-caps=-all", "--no-new-privs"]
    command = [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "profiler"]
    log = tmp_path / "log"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with reports() as (url, received), log.open("wb") as output:
        profiler = subprocess.Popen(
            [*limited, *command, "--source", "ebpf", "--orchestrator", url, "--node-id", "n1", "--interval", "1"],
            env={"PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", **variables},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            report = received.get(timeout=START_SECONDS)
        except queue.Empty:
            pytest.fail(f"no report within {START_SECONDS:g} s; the profiler's log:\n{log.read_text()}")
        finally:
            profiler.terminate()
            profiler.wait(timeout=START_SECONDS)
    assert report["node_id"] == "n1"
    assert len(report.keys() - {"node_id", "timestamp", "source", "interval_seconds", "profiler_version"}) == 8
    assert report["ctx_switches_graceful"] > 0
