"""From Settings to what delivers reports to a store that many orchestrators share: wiring, and nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService

from orchestratord.http_client.agent import connection_pool, http_agent
from orchestratord.nodes.snapshot_service import in_own_thread
from orchestratord.remote_write.client import RemoteWriteClient
from orchestratord.remote_write.codec import HEADERS, Encoder
from orchestratord.remote_write.delivery import SHARDS, Delivery
from orchestratord.remote_write.metrics import RemoteWriteMetrics
from orchestratord.remote_write.retrying_sender import RetryingSender
from orchestratord.remote_write.sample_row import SampleRowFormat, row_names
from orchestratord.remote_write.staleness import StaleMarkers
from orchestratord.remote_write.wal.log import WriteAheadLog
from orchestratord.wiring.outbound import authorization, trust

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from orchestratord.config.settings import Settings
    from orchestratord.nodes.directory import StoreDirectory
    from orchestratord.nodes.store import NodeStore
    from orchestratord.runtime.clock import Clocks

#: Seconds between sweeps at the most: a node's series are to end soon after it has.
SWEEP_EVERY = 2.0


class RemoteWrite(MultiService):
    """Delivers what a table stores to `--remote-write`, and ends there what the table loses.

    `pack` makes the rows that the table's reports are to have. Raises FilesError if certificates or credentials are not
    good.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        url: str,
        nodes: NodeStore,
        fleet: StoreDirectory,
        *,
        clocks: Clocks,
    ) -> None:
        super().__init__()
        names = row_names(settings.families)
        form = SampleRowFormat(names)
        self.pack = form.sample
        spool = WriteAheadLog(settings.data_dir / "spool", names, max_bytes=settings.spool_max_bytes, now=clocks.time)
        metrics = RemoteWriteMetrics(
            spool, clocks.time, limit_bytes=settings.spool_max_bytes, samples_per_row=len(names)
        )
        #: To be registered wherever the daemon's own metrics are.
        self.metrics = metrics
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
            reactor, nodes, fleet, self._delivery, form=form, names=names, clocks=clocks, marked=metrics.marker
        )
        nodes.observers += [self._delivery, stale_markers]
        self.flush = self._delivery.flush
        self.forget = stale_markers.forget
        #: Why no report gets to the store; None while they do.
        self.trouble = lambda: sender.trouble
        for service in (self._delivery, stale_markers):
            service.setServiceParent(self)

    def open(self) -> None:
        """Find what an earlier process has spooled. Blocks, so it comes before the ports open; never fails."""
        self._delivery.open()

    def stopService(self) -> Deferred[Any]:
        """Deliver what there is, and close the connections to the store."""
        stopped: Deferred[Any] = super().stopService()
        return stopped.addCallback(lambda _: self._pool.closeCachedConnections())
