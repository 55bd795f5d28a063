"""From Settings to what delivers reports to a store that several orchestrators share."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.application.service import MultiService

from orchestratord.http_client.agent import connection_pool, http_agent
from orchestratord.nodes.snapshot_service import in_own_thread
from orchestratord.remote_write.client import RemoteWriteClient
from orchestratord.remote_write.codec import HEADERS, Encoder
from orchestratord.remote_write.delivery import SHARDS, Delivery
from orchestratord.remote_write.metrics import RemoteWriteMetrics
from orchestratord.remote_write.node_directory import StoreDirectory
from orchestratord.remote_write.retrying_sender import RetryingSender
from orchestratord.remote_write.sample_row import SampleRowFormat, row_names
from orchestratord.remote_write.staleness import StaleMarkers
from orchestratord.remote_write.wal.log import WriteAheadLog
from orchestratord.wiring.nodes import NodeSource
from orchestratord.wiring.outbound import authorization, trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.registry import Collector
    from twisted.internet.defer import Deferred

    from orchestratord.config.settings import Settings
    from orchestratord.nodes.report import Packer
    from orchestratord.nodes.store import NodeStore
    from orchestratord.promql.upstreams import Upstreams
    from orchestratord.wiring.runtime import Runtime


class ReportDelivery(NamedTuple):
    """What a report passes on its way to the shared store; without remote write nothing.

    `pack` makes a report's row, while the report is decoded. `flush` hands rows that wait in memory to the kernel.
    `trouble` returns why no report reaches the store, or None. `collectors` belong in /metrics.
    """

    pack: Packer | None = None
    flush: Callable[[], None] | None = None
    trouble: Callable[[], str | None] | None = None
    collectors: Sequence[Collector] = ()


class RemoteWrite(MultiService):
    """Delivers to `url` what the table stores, and marks there as stale what the table loses.

    `source` finds the nodes of all replicas in the store, through `upstreams`. Raises FilesError if certificates or
    credentials are not good.
    """

    def __init__(self, runtime: Runtime, settings: Settings, url: str, nodes: NodeStore, upstreams: Upstreams) -> None:
        super().__init__()
        reactor, clocks = runtime.reactor, runtime.clocks
        # Without --query-cache: each lookup is at a moment of its own.
        directory = StoreDirectory(
            upstreams,
            settings.families,
            settings.external_label,
            clocks,
            stale_after=settings.stale_after,
            query_timeout=settings.query_timeout,
            in_thread=runtime.in_thread,
        )
        names = row_names(settings.families)
        form = SampleRowFormat(names)
        spool = WriteAheadLog(settings.data_dir / "spool", names, max_bytes=settings.spool_max_bytes, now=clocks.time)
        metrics = RemoteWriteMetrics(
            spool, clocks.time, limit_bytes=settings.spool_max_bytes, samples_per_row=len(names)
        )
        self._pool = connection_pool(reactor, SHARDS)
        receiver = RemoteWriteClient(
            reactor,
            http_agent(reactor, trust(settings, "remote-write", [url]), pool=self._pool),
            url,
            headers=(*HEADERS, *settings.remote_write_header),
            authorization=authorization(settings, "remote-write", [url]),
            timeout=settings.remote_write_timeout,
            now=clocks.time,
        )
        encoder = Encoder(names, settings.external_label)
        sender = RetryingSender(reactor, encoder, receiver, metrics, random=random.random)
        self._delivery = Delivery(
            reactor,
            spool,
            sender,
            metrics,
            clocks.time,
            samples_per_row=len(names),
            delay=settings.remote_write_delay,
            sync_every=settings.spool_sync,
            drain=settings.drain_timeout,
            in_thread=lambda work: in_own_thread(reactor, work),
        )
        stale_markers = StaleMarkers(
            reactor, nodes, directory, self._delivery, form=form, names=names, clocks=clocks, marked=metrics.marker
        )
        nodes.observers += [self._delivery, stale_markers]
        self.source = NodeSource(directory, stale_markers.forget)
        self.delivery = ReportDelivery(form.sample, self._delivery.flush, lambda: sender.trouble, (metrics,))
        for service in (self._delivery, stale_markers):
            service.setServiceParent(self)

    def open(self) -> None:
        """Find what an earlier process has spooled. It blocks, so call it before the ports open. It never fails."""
        self._delivery.open()

    def stopService(self) -> Deferred[Any]:
        """Deliver what is left, and close the connections to the store."""
        stopped: Deferred[Any] = super().stopService()
        return stopped.addCallback(lambda _: self._pool.closeCachedConnections())
