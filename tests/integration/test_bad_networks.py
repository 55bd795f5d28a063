"""Networks that lose, delay and cut; name servers that know nothing, or never answer."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import requests

from tests.integration.daemon import PATIENCE, Daemon, full_report, run, until
from tests.integration.networks import enter_network
from tests.integration.relay import Relay
from tests.integration.upstream import EMPTY, FakeUpstream, found_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: Seconds that a profiler here waits for an answer.
GIVES_UP = 0.7


class NodeDirectory:
    """Nodes that report through a network, one after the other, and what each knows of its reports.

    The orchestrator promises: what was answered 200 is there until another report of the node replaces it. A report
    without an answer may be there too, if it was the answer that was lost; nothing else may.
    """

    def __init__(self, port: int, name: str, nodes: int) -> None:
        self._url = f"http://127.0.0.1:{port}/update_metrics"
        self._names = [f"{name}-{number}" for number in range(nodes)]
        self._count = 0
        #: By node, the values that it may have now.
        self.possible: dict[str, set[int]] = {node: set() for node in self._names}
        #: Nodes of which a report was answered 200.
        self.answered: set[str] = set()

    def report(self, rounds: int) -> None:
        """Have every node report so many times."""
        for _ in range(rounds):
            for node in self._names:
                self._count += 8
                self.possible[node].add(self._count)
                with suppress(requests.RequestException):
                    requests.post(self._url, json=full_report(node, self._count), timeout=GIVES_UP).raise_for_status()
                    self.possible[node] = {self._count}
                    self.answered.add(node)

    def check(self, daemon: Daemon) -> None:
        """Check what the daemon has, asked past the network."""
        listed = set(daemon.nodes())
        scraped = daemon.get("/metrics").text
        for node, possible in self.possible.items():
            if node not in listed:
                assert node not in self.answered, f"{node} was answered 200 and is not there"
                continue
            values = daemon.metrics(node)
            assert values is not None
            first = int(values["mem_bytes_allocated"])
            assert first in possible, f"{node} has {first}, of {possible}"
            assert list(values.values()) == list(range(first, first + 8))
            assert f'\nmem_bytes_allocated{{node_id="{node}"}} {first}\n' in scraped


@pytest.mark.parametrize("seed", [20261123, 4])
def test_connections_that_are_cut_and_stalled(start: Callable[..., Daemon], seed: int) -> None:
    """Whatever is lost on the way, a report answered 200 is there, whole, and no part of any other is."""
    print(f"seed {seed}")  # noqa: T201 - what a failing test is to be repeated with
    daemon = start()
    with Relay(daemon.port, seed) as relay, ThreadPoolExecutor(8) as pool:
        fleets = [NodeDirectory(relay.port, f"fleet-{number}", 4) for number in range(8)]
        for _ in range(2):
            list(pool.map(NodeDirectory.report, fleets, [2] * len(fleets)))
            for fleet in fleets:
                fleet.check(daemon)
        assert all(relay.fates.values()), relay.fates
    assert any(fleet.answered for fleet in fleets)


#: A network of its own that loses packets at random, both ways, once nothing but loopback is in it.
LOSSY = """
ip link set lo up
nft add table inet lossy
nft add chain inet lossy input '{ type filter hook input priority 0; }'
nft add rule inet lossy input numgen random mod 100 '<' 15 counter drop
exec "$@"
"""


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon in a network of its own, which loses 15 % of all packets."""
    daemon = Daemon(tmp_path, under=("unshare", "--net", "sh", "-e", "-c", LOSSY, "lossy"))
    try:
        yield daemon.started()
        daemon.stop()
    finally:
        daemon.close()


def test_packets_that_are_lost(lossy: Daemon) -> None:
    """Where reports, answers, and what opens and ends connections are lost, the promise holds all the same."""
    with ThreadPoolExecutor(1, initializer=enter_network, initargs=(lossy.pid,)) as inside:
        fleet = NodeDirectory(lossy.port, "node", 8)
        inside.submit(fleet.report, 4).result()
        assert fleet.answered
        inside.submit(patiently, fleet.check, lossy).result()
    counted = run("nsenter", "--target", str(lossy.pid), "--net", "nft", "list", "ruleset")
    lost = re.search(r"counter packets (\d+)", counted.stdout)
    assert lost, counted.stderr
    assert int(lost[1]) > 10


def patiently(check: Callable[[Daemon], None], daemon: Daemon) -> None:
    """Check, with as many tries as a network takes that resets connections."""

    def tried() -> bool:
        with suppress(requests.ConnectionError):
            check(daemon)
            return True
        return False

    until(tried, "a whole look at what is there", 2 * PATIENCE)


def test_a_name_that_does_not_exist(start: Callable[..., Daemon]) -> None:
    """502, or the next Prometheus; and everything else is served."""
    nowhere = "http://prometheus.invalid:9090"
    with FakeUpstream(found_nothing) as upstream:
        alone, first_of_two = (
            start("--prometheus", nowhere),
            start("--prometheus", nowhere, "--prometheus", upstream.url),
        )
        answer = alone.get("/query", {"q": "up"})
        assert (answer.status_code, answer.json()["errorType"]) == (502, "unavailable")
        assert "prometheus.invalid" in answer.json()["error"]
        assert first_of_two.get("/query", {"q": "up"}).content == EMPTY
        assert alone.post(full_report("n1")).status_code == 200
        assert alone.nodes() == ["n1"]


@pytest.fixture
def never_resolved(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Give a function that starts a daemon whose name server is there and never answers."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("nameserver 127.9.9.9\noptions timeout:30 attempts:5\n")
    under = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(configuration))
    daemons: list[Daemon] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        name_server.bind(("127.9.9.9", 53))
        name_server.settimeout(PATIENCE)

        def start(*options: str) -> Daemon:
            daemon = Daemon(tmp_path / "daemon", *options, under=under)
            daemons.append(daemon)
            return daemon.started()

        try:
            yield start
            assert name_server.recv(4096)  # it was asked
            for daemon in daemons:
                daemon.stop()
        finally:
            for daemon in daemons:
                daemon.close()


def test_a_name_server_that_never_answers(never_resolved: Callable[..., Daemon]) -> None:
    """Queries are 502 or go to the next Prometheus in time; listings and scrapes do not wait, nor does the stop."""
    with FakeUpstream(found_nothing) as upstream, ThreadPoolExecutor(30) as pool:
        daemon = never_resolved("--prometheus", "http://prometheus.example:9090", "--prometheus", upstream.url)
        asked = [pool.submit(daemon.get, "/query", {"q": f"up > {number}"}) for number in range(30)]
        assert daemon.post(full_report("n1")).status_code == 200
        for _ in range(3):
            assert daemon.nodes() == ["n1"]
            assert daemon.get("/metrics", {"name[]": "page_faults"}).text.endswith('page_faults{node_id="n1"} 2.0\n')
        assert {one.result().content for one in asked} == {EMPTY}
        # The lookup goes on for minutes; a stop that waited for it would not end in time.
