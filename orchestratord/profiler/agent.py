"""The profiler of one node: a source that measures, and a reporter that sends the counts."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers

from orchestratord.http_client.agent import WholeBody, http_agent
from orchestratord.http_client.urls import WrongUrl, http_url
from orchestratord.nodes.report import NODE_ID, as_node_id
from orchestratord.profiler.ebpf import EbpfSource
from orchestratord.profiler.preferred_source import PreferredSource
from orchestratord.profiler.procfs import ProcfsSource, ProcTree
from orchestratord.profiler.reporter import Reporter
from orchestratord.runtime.file_reload import ReloadedFile
from orchestratord.security.tls import ClientOptions, ClientTls
from orchestratord.security.token_file import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.iweb import IAgent

    from orchestratord.profiler.bucket import Bucket, Source

log = Logger()

SOURCES = ("auto", "ebpf", "procfs")
REPORT_PATH = "/update_metrics"
_IDLE_SECONDS = 45
"""Idle connections are closed after this time. The orchestrator closes them after 60 s, which could hit a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilerSettings:
    """The settings of a profiler; times are in seconds.

    A wrong value raises ValueError; its text begins with the name of the field.
    The first token in `token_file` is sent with every report. The file is read again when it changes.
    """

    orchestrator: str
    node_id: str
    interval: float = 10.0
    source: str = "auto"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    request_deadline: float = 5.0
    token_file: Path | None = None

    def __post_init__(self) -> None:
        try:
            url = http_url(self.orchestrator)
        except WrongUrl as error:
            raise ValueError(f"orchestrator {self.orchestrator!r} {error}") from None
        if not NODE_ID.fullmatch(self.node_id):
            raise ValueError(f"node_id {self.node_id!r} is not 1 to 253 characters of A-Z a-z 0-9 . _ : -")
        if not (math.isfinite(self.interval) and 1 <= self.interval <= 3600):
            raise ValueError(f"interval {self.interval:g} is not from 1 to 3600 seconds")
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} must be one of {', '.join(SOURCES)}")
        for field in ("ca", "certificate", "key"):
            if getattr(self, field) is not None and url.scheme != "https":
                raise ValueError(f"{field} {str(getattr(self, field))!r} is for an orchestrator at an https:// URL")
        for field, other in (("certificate", "key"), ("key", "certificate")):
            if getattr(self, field) is not None and getattr(self, other) is None:
                raise ValueError(f"{field} {str(getattr(self, field))!r} needs --{other} as well")

    @property
    def report_url(self) -> str:
        """The URL for reports: that of the orchestrator, with REPORT_PATH unless it has it already."""
        url = urlsplit(self.orchestrator)
        path = url.path.rstrip("/")
        return urlunsplit(url._replace(path=path if path.endswith(REPORT_PATH) else path + REPORT_PATH))


def host_node_id() -> str:
    """Return this host's name as a node id; characters that a node id may not have become `-`."""
    return as_node_id(socket.gethostname()) or "localhost"


class Profiler(Service):
    """Reports what its source measures, from start to stop. It can be started again."""

    name = "profiler"

    def __init__(self, source: Source, reporter: Reporter, close: Callable[[], Deferred[None]]) -> None:
        """`close` closes the reporter's idle connections."""
        self._source = source
        self._reporter = reporter
        self._close = close
        self._logged_source: str | None = None

    def startService(self) -> None:
        """Start to measure."""
        Service.startService(self)
        self._source.start(self._deliver, self._complain)

    def stopService(self) -> Deferred[None]:
        """Stop; fires when the source has stopped and all connections are closed."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        source_ended = self._source.stop()
        await self._reporter.stop()
        await source_ended
        await self._close()

    def _deliver(self, bucket: Bucket) -> None:
        """Send a bucket, and log its source if that is new: `auto` knows its source only at the first bucket."""
        if self._logged_source != bucket.source:
            self._logged_source = bucket.source
            log.info("this node is measured with {source}", source=self._logged_source)
        self._reporter.offer(bucket)

    def _complain(self, reason: str) -> None:
        log.error("nothing to report, {source} cannot measure: {reason}", source=self._source.name, reason=reason)


def profiler_service(reactor: Any, settings: ProfilerSettings) -> Service:
    """Return the profiler of this host. It opens no connection before it is started.

    Raises FilesError if a file in the settings is not valid.
    """
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = 1
    pool.cachedConnectionTimeout = _IDLE_SECONDS
    trust = None
    if settings.report_url.startswith("https:"):
        options = ClientOptions("--ca", "--certificate", "--key")
        trust = ClientTls(time.monotonic, options, ca=settings.ca, certificate=settings.certificate, key=settings.key)
    agent = http_agent(reactor, trust, connect_seconds=settings.request_deadline, pool=pool)
    reporter = Reporter(
        reactor,
        _Client(agent),
        settings.report_url,
        settings.node_id,
        deadline=settings.request_deadline,
        interval=settings.interval,
        renew=pool.closeCachedConnections,
        token=None if settings.token_file is None else _current(settings.token_file),
    )
    return Profiler(_source(reactor, settings), reporter, pool.closeCachedConnections)


class _Client:
    """Posts reports. Not treq: it encodes hosts with IDNA, which refuses underscores and IPv6 addresses."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def post(
        self,
        url: str,
        /,
        *,
        data: bytes,
        headers: dict[bytes | str, bytes | str],
        allow_redirects: bool,
        unbuffered: bool,
    ) -> Deferred[Any]:
        """Send a request. Redirects are never followed, and nothing is buffered."""
        del allow_redirects, unbuffered
        raw: Any = {name: [value] for name, value in headers.items()}
        return self._agent.request(b"POST", url.encode(), Headers(raw), WholeBody(data))


def _current(path: Path) -> Callable[[], bytes]:
    """Return a function that returns the first token in a file; the kubelet writes a new one about every hour."""
    file = ReloadedFile(time.monotonic, "--token-file", path, parse_tokens)
    return lambda: file.value()[0]


def _source(reactor: Any, settings: ProfilerSettings) -> Source:
    ebpf = EbpfSource(reactor, settings.interval)
    tree = ProcTree(Path("/proc"), os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK"))
    procfs = ProcfsSource(reactor, settings.interval, tree)
    if settings.source == "auto":
        return PreferredSource(ebpf, procfs)
    return ebpf if settings.source == "ebpf" else procfs
