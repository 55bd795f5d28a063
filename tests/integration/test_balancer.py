"""The profiler behind a TCP balancer that gives each new connection to the next of two replicas."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from treq.client import HTTPClient
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from orchestratord.profiler.reporter import Reporter
from tests.profiler.fakes import bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twisted.internet.interfaces import IAddress

pytestmark = pytest.mark.integration

reactor: Any = _reactor
DEADLINE = 30.0


class Replica(Resource):
    """Takes reports, and counts them and the connections that they came over."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.reports = 0
        self.clients: set[int] = set()

    def render_POST(self, request: Request) -> bytes:
        """Take a report."""
        client: Any = request.getClientAddress()
        self.clients.add(client.port)
        self.reports += 1
        return b'{"status": "Metrics updated", "accepted": 1, "superseded": 0}'


class RoundRobin(ProxyFactory):
    """Gives each connection to the next of these ports."""

    noisy = False

    def __init__(self, ports: list[int]) -> None:
        super().__init__("127.0.0.1", 0)
        self._ports = cycle(ports)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Choose the port for a connection."""
        self.port = next(self._ports)
        return super().buildProtocol(addr)


class Cluster:
    """Two replicas, the balancer before them, and the pool of one profiler's connections."""

    def __init__(self) -> None:
        self.replicas = [Replica(), Replica()]
        self.listeners: list[Any] = [
            reactor.listenTCP(0, Site(replica), interface="127.0.0.1") for replica in self.replicas
        ]
        factory = RoundRobin([listener.getHost().port for listener in self.listeners])
        self.listeners.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        self.pool = HTTPConnectionPool(reactor, persistent=True)

    def reporter(self, max_age: float) -> Reporter:
        """Return what reports through the balancer."""
        agent: Any = Agent(reactor, pool=self.pool)
        url = f"http://127.0.0.1:{self.listeners[-1].getHost().port}/update_metrics"
        renew = self.pool.closeCachedConnections
        return Reporter(reactor, HTTPClient(agent), url, "n", deadline=5, interval=1, renew=renew, max_age=max_age)


@pytest_twisted.async_yield_fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Give a cluster that does not outlive the test."""
    made = Cluster()
    yield made
    await made.pool.closeCachedConnections()
    for listener in made.listeners:
        await listener.stopListening()


@pytest_twisted.ensureDeferred
async def test_every_replica_gets_reports(cluster: Cluster) -> None:
    """A connection that gets old is replaced between two reports: no report is lost, and each replica has its share."""
    reporter = cluster.reporter(max_age=0.05)
    deadline = reactor.seconds() + DEADLINE
    offered = 0
    while min(replica.reports for replica in cluster.replicas) < 5:
        assert reactor.seconds() < deadline, [replica.reports for replica in cluster.replicas]
        if sum(replica.reports for replica in cluster.replicas) == offered:
            reporter.offer(bucket(offered))
            offered += 1
        await deferLater(reactor, 0.005)
    await reporter.stop()
    connections = [len(replica.clients) for replica in cluster.replicas]
    assert min(connections) >= 1
    assert sum(connections) < offered
