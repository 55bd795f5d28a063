"""A Prometheus that this process runs: configured to scrape this orchestrator, restarted if it dies, ended with us."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.runner.procmon import ProcessMonitor

from orchestratord.runtime.ip_families import joined, loopback

if TYPE_CHECKING:
    from pathlib import Path

    from twisted.internet.defer import Deferred

log = Logger()

SCRAPE_INTERVAL = "5s"
_NAME = "prometheus"

_CONFIGURATION = """\
# Written by orchestratord at every start; changes are lost.
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
  evaluation_interval: 15s
rule_files:
  - rules.yml
scrape_configs:
  - job_name: orchestrator
    static_configs:
      - targets: ['{target}']
"""
_AUTHORIZATION = """\
    authorization:
      credentials_file: scrape-token
"""


class EmbeddedError(Exception):
    """The embedded Prometheus cannot be started; the text says why, and what to do, in one line."""


def find_programs(binary: str) -> tuple[str, str]:
    """Return the paths of Prometheus and of setpriv; raise EmbeddedError if one is not there."""
    prometheus = shutil.which(binary)
    if prometheus is None:
        raise EmbeddedError(
            f"--prometheus: 'embedded' needs the program {binary!r}, which is not there: install Debian's package"
            " prometheus, or name one with --prometheus-binary"
        )
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedError("--prometheus: 'embedded' needs the program 'setpriv': install Debian's package util-linux")
    return prometheus, setpriv


def free_address() -> str:
    """Return a `HOST:PORT` on loopback on which no process listens at this moment."""
    host = loopback()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return joined(host, probe.getsockname()[1])


def prepare(data_dir: Path) -> Path:
    """Make the directory of the embedded Prometheus and return it; raise EmbeddedError if it cannot be made."""
    home = data_dir / _NAME
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "prometheus.yml").touch()
    except OSError as error:
        raise EmbeddedError(f"--data-dir: {str(data_dir)!r} cannot be written: {error.strerror}") from None
    return home


class EmbeddedPrometheus(ProcessMonitor):
    """Runs Prometheus on loopback, restarts it when it dies, and ends it with this process, however that ends.

    `home` is a directory that `prepare` made; `address` the `HOST:PORT` to serve on; `retention` a Prometheus duration.
    `scrape` sets the target, `HOST:PORT` of this orchestrator, and must be called before `startService`; `authorize`
    sets the bearer token of its scrapes, before `scrape`, and again whenever it changes.
    """

    maxRestartDelay = 10

    def __init__(self, reactor: Any, programs: tuple[str, str], home: Path, address: str, retention: str) -> None:
        super().__init__(reactor)
        self._time = reactor
        self._home = home
        prometheus, setpriv = programs
        arguments = [
            setpriv,
            "--pdeathsig=KILL",  # the kernel ends it with this process, even if this process is killed
            "--",
            prometheus,
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--storage.tsdb.retention.time={retention}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ]
        self.addProcess(_NAME, arguments, env={"PATH": "/usr/bin:/bin", "HOME": str(home)})

    def authorize(self, token: bytes | None) -> None:
        """Write the token into the file that Prometheus reads at every scrape; with None, remove the file."""
        file = self._home / "scrape-token"
        if token is None:
            file.unlink(missing_ok=True)
            return
        # A new file replaces the old one, so that a scrape never reads half a token. Only the owner may read it.
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writing:  # noqa: PTH123
            writing.write(token)
        new.replace(file)

    def scrape(self, target: str) -> None:
        """Write the configuration that scrapes the target, and the rules beside it."""
        (self._home / "rules.yml").write_bytes(files("orchestratord").joinpath("rules.yml").read_bytes())
        text = _CONFIGURATION.format(interval=SCRAPE_INTERVAL, target=target)
        if (self._home / "scrape-token").exists():
            text += _AUTHORIZATION
        (self._home / "prometheus.yml").write_text(text)

    def startProcess(self, name: str) -> None:
        """Start Prometheus, and log it: at the start, or after it died."""
        if name not in self.protocols:
            log.info("starting the embedded Prometheus, its data under {home}", home=str(self._home))
        super().startProcess(name)

    def stopService(self) -> Deferred[None]:  # type: ignore[override]  # IService allows a Deferred
        """Ask Prometheus to end, and kill it if it does not; fires when its process is gone."""
        super().stopService()

        def check() -> None:
            if not self.protocols:
                gone.stop()

        gone = LoopingCall(check)
        gone.clock = self._time
        return gone.start(0.02).addCallback(lambda _: None)
