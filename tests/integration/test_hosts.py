"""IPv6 addresses, and names with an underscore, in every URL that a daemon or a profiler sends requests to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import TWISTD, Daemon, Server, free_port, until
from tests.integration.stores import Prometheus
from tests.integration.upstream import FakeUpstream, refused_by_kubernetes
from tests.tokens import AUDIENCE, ISSUER, jwk, key_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.upstream import Exchange

pytestmark = pytest.mark.integration


@pytest.fixture(params=["[::1]", "my_host"])
def host(request: pytest.FixtureRequest) -> str:
    """Give a host as it stands in a URL."""
    name: str = request.param
    return name


@pytest.fixture
def under(tmp_path: Path) -> tuple[str, ...]:
    """Give what starts a program for which my_host is ::1."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 my_host\n")
    return ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts))


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """Give a real Prometheus that listens on ::1."""
    prometheus = Prometheus(tmp_path / "prometheus", host="[::1]")
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.close()


def jwks(exchange: Exchange) -> None:
    """Answer as an issuer does."""
    exchange.reply("200 OK", "application/jwk-set+json", key_set(jwk("k1")))


def test_every_url(tmp_path: Path, host: str, under: tuple[str, ...], prometheus: Prometheus) -> None:
    """Reports come from a profiler, go to a store, and queries are answered from there; the issuer's keys are there."""
    port = free_port()
    with FakeUpstream(jwks, host="::1", refuses=refused_by_kubernetes) as issuer:
        daemon = Daemon(
            tmp_path / "daemon",
            *("--listen", rf"tcp:{port}:interface=\:\:1"),
            *("--prometheus", f"http://{host}:{prometheus.port}"),
            *("--remote-write", f"http://{host}:{prometheus.port}/api/v1/write"),
            *("--oidc.jwks", f"http://[::1]:{issuer.port}/openid/v1/jwks"),
            *("--oidc.issuer", ISSUER, "--oidc.audience", AUDIENCE),
            *("--token-file", f"report={tmp_path / 'token'}"),
            *("--data-dir", str(tmp_path / "data")),
            under=under,
        )
        (tmp_path / "token").write_text("the-token-of-a-test")
        profiler = None
        try:
            daemon.started()
            daemon.said("has 1 keys for report tokens")
            profiler = Server(
                (
                    *(*under, TWISTD, "--nodaemon", "--pidfile=", "profiler", "--node-id", "n1", "--source", "procfs"),
                    *("--interval", "1", "--orchestrator", f"http://{host}:{port}"),
                    *("--token-file", str(tmp_path / "token")),
                ),
                tmp_path / "profiler",
            )
            profiler.said("accepts the reports of n1")
            answered = until(
                lambda: daemon.get("/query", {"q": 'page_faults{node_id="n1"}'}).json()["data"]["result"], "n1"
            )
            assert answered[0]["metric"]["node_id"] == "n1"
            daemon.stop()
        finally:
            for server in (profiler, daemon):
                if server is not None:
                    server.close()
