"""The real daemon where there is IPv4, IPv6, or both: in networks of its own, which have nothing but loopback."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import requests

from tests.certificates import Authority
from tests.integration.daemon import PATIENCE, Daemon, asked, report, until
from tests.integration.networks import enter_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: What makes a network, by what it has.
NETWORKS = {
    "both": "ip link set lo up",
    "both, kept apart": "echo 1 > /proc/sys/net/ipv6/bindv6only; ip link set lo up",
    "IPv6": "ip link set lo up; ip address delete 127.0.0.1/8 dev lo",
    # Its addresses are gone; the kernel still has IPv6.
    "IPv4": "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up",
}
LOOPBACKS = {
    "both": ("127.0.0.1", "::1"),
    "both, kept apart": ("127.0.0.1", "::1"),
    "IPv6": ("::1",),
    "IPv4": ("127.0.0.1",),
}


class Networked:
    """A daemon in a network of its own, and who asks it there."""

    def __init__(self, home: Path, network: str, *options: str) -> None:
        under = ("unshare", "--net", "sh", "-e", "-c", f'{NETWORKS[network]}; exec "$@"', "network")
        self.daemon = Daemon(home, *options, listen=None, under=under)
        self.daemon.said("serves on")
        self._inside = ThreadPoolExecutor(1, initializer=enter_network, initargs=(self.daemon.pid,))

    def ask(self, method: str, url: str, **options: object) -> requests.Response:
        """Make a request from within."""
        return self._inside.submit(asked, method, url, **options).result()

    def close(self) -> None:
        """End it by force."""
        self._inside.shutdown()
        self.daemon.close()


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Callable[..., Networked]]:
    """Give a function that starts a daemon in a network; it must end cleanly."""
    made: list[Networked] = []

    def start(network: str, *options: str) -> Networked:
        made.append(Networked(tmp_path / f"networked-{len(made)}", network, *options))
        return made[-1]

    try:
        yield start
        for networked in made:
            networked.daemon.stop()
    finally:
        for networked in made:
            networked.close()


def url_of(host: str, port: int | str, scheme: str = "http") -> str:
    """Return a base URL."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@pytest.mark.parametrize("network", NETWORKS)
def test_the_default_serves_what_the_machine_has(inside: Callable[..., Networked], network: str) -> None:
    """Reports, queries and the administrators' port; the log tells each client by its own address."""
    networked = inside(network, "--access-log", "--admin-listen", "tcp:0")
    networked.daemon.said(r"serves on 0\.0\.0\.0:5000, \[::\]:5000;")
    admin = networked.daemon.said(r"probes and administration on \S*:(\d+)")[1]
    for host in LOOPBACKS[network]:
        base = url_of(host, 5000)
        assert networked.ask("POST", f"{base}/update_metrics", json=report(f"n-{host}")).status_code == 200
        assert networked.ask("POST", f"{base}/update_metrics", json={}).status_code == 400
        assert f"n-{host}" in networked.ask("GET", f"{base}/nodes").json()["nodes"]
        assert networked.ask("GET", f"{url_of(host, admin)}/-/ready").status_code == 200
        networked.daemon.said(rf'#info\] {re.escape(host)} "GET /nodes" 200')
        networked.daemon.said(rf"report from {re.escape(host)} refused")
    assert "ffff" not in networked.daemon.output()


@pytest.mark.parametrize("network", NETWORKS)
def test_tls_serves_what_the_machine_has(inside: Callable[..., Networked], tmp_path: Path, network: str) -> None:
    """On a port of the kernel's choice, which is the same for both."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1", "::1")
    files = ("--tls.cert_file", str(authority.certificate("server")), "--tls.key_file", str(authority.key("server")))
    networked = inside(network, "--listen", "tls:tcp:0", *files)
    (port,) = set(re.findall(r":(\d+) \(TLS\)", networked.daemon.output()))
    for host in LOOPBACKS[network]:
        answer = networked.ask("GET", f"{url_of(host, port, 'https')}/nodes", verify=str(authority.path))
        assert answer.json() == {"nodes": []}


def test_an_interface_that_is_named_is_the_only_one(inside: Callable[..., Networked]) -> None:
    """As before."""
    networked = inside("both", "--listen", "tcp:5000:interface=127.0.0.1")
    assert networked.ask("GET", f"{url_of('127.0.0.1', 5000)}/nodes").status_code == 200
    with pytest.raises(requests.ConnectionError):
        networked.ask("GET", f"{url_of('::1', 5000)}/nodes")


@pytest.mark.parametrize("network", ["both", "IPv6", "IPv4"])
def test_the_embedded_prometheus_scrapes(inside: Callable[..., Networked], network: str) -> None:
    """It is where the loopback is that there is, and finds the daemon there."""
    networked = inside(network, "--prometheus", "embedded")
    orchestrator = url_of(LOOPBACKS[network][0], 5000)

    def up() -> bool:
        try:
            answer = networked.ask("GET", f"{orchestrator}/api/v1/query", params={"query": "up"})
        except requests.ConnectionError:
            return False
        return answer.ok and [series["value"][1] for series in answer.json()["data"]["result"]] == ["1"]

    until(up, "a scrape", PATIENCE)
