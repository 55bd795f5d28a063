"""The profiler of one node: a source that measures, and reports of what it measures."""

from __future__ import annotations

import math
import os
import re
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
from orchestratord.profiler.choice import PreferredSource
from orchestratord.profiler.ebpf import EbpfSource
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
"""An idle connection is given up before the orchestrator, which waits 60 s, closes it under a report."""
_NODE_ID = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilerSettings:
    """What a profiler is told; times are in seconds. A wrong value raises ValueError, its field's name first.

    The first token in `token_file` is sent with every report, as it stands there at that time.
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
        if not _NODE_ID.fullmatch(self.node_id):
            raise ValueError(f"node_id {self.node_id!r} is not 1 to 253 characters of A-Z a-z 0-9 . _ : -")
        if not (math.isfinite(self.interval) and 1 <= self.interval <= 3600):
            raise ValueError(f"interval {self.interval:g} is not from 1 to 3600 seconds")
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is none of {', '.join(SOURCES)}")
        for field in ("ca", "certificate", "key"):
            if getattr(self, field) is not None and url.scheme != "https":
                raise ValueError(f"{field} {str(getattr(self, field))!r} is for an orchestrator at an https:// URL")
        for field, other in (("certificate", "key"), ("key", "certificate")):
            if getattr(self, field) is not None and getattr(self, other) is None:
                raise ValueError(f"{field} {str(getattr(self, field))!r} needs --{other} as well")

    @property
    def report_url(self) -> str:
        """Where the reports go: the orchestrator's URL with the path that reports have."""
        url = urlsplit(self.orchestrator)
        path = url.path.rstrip("/")
        return urlunsplit(url._replace(path=path if path.endswith(REPORT_PATH) else path + REPORT_PATH))


def host_node_id() -> str:
    """Return this host's name as a node id: what a node id may not hold is a `-`."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname())[:253] or "localhost"


class Profiler(Service):
    """Reports what its source measures, from start to stop; may be started again."""

    name = "profiler"

    def __init__(self, source: Source, reporter: Reporter, close: Callable[[], Deferred[None]]) -> None:
        """`close` closes the reporter's idle connections."""
        self._source = source
        self._reporter = reporter
        self._close = close
        self._told: str | None = None

    def startService(self) -> None:
        """Begin to measure."""
        Service.startService(self)
        self._source.start(self._deliver, self._complain)

    def stopService(self) -> Deferred[None]:
        """End; fires when the source has ended and no connection is left."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        source_ended = self._source.stop()
        await self._reporter.stop()
        await source_ended
        await self._close()

    def _deliver(self, bucket: Bucket) -> None:
        """Say what the first bucket was measured with, in the word of its reports; `auto` knows only by then."""
        if self._told != bucket.source:
            self._told = bucket.source
            log.info("this node is measured with {source}", source=self._told)
        self._reporter.offer(bucket)

    def _complain(self, reason: str) -> None:
        log.error("nothing to report, {source} does not measure: {reason}", source=self._source.name, reason=reason)


def profiler_service(reactor: Any, settings: ProfilerSettings) -> Service:
    """Return the profiler of this host; it opens nothing before it is started.

    Raises FilesError if the settings' files are not good.
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
    """Posts reports. treq is not used: it puts each host through IDNA, which refuses underscores and IPv6 addresses."""

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
    """Return what gives the first token in a file; the kubelet puts a new one there every hour or so."""
    file = ReloadedFile(time.monotonic, "--token-file", path, parse_tokens)
    return lambda: file.value()[0]


def _source(reactor: Any, settings: ProfilerSettings) -> Source:
    ebpf = EbpfSource(reactor, settings.interval)
    tree = ProcTree(Path("/proc"), os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK"))
    procfs = ProcfsSource(reactor, settings.interval, tree)
    if settings.source == "auto":
        return PreferredSource(ebpf, procfs)
    return ebpf if settings.source == "ebpf" else procfs
