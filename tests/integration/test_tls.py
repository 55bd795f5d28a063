"""TLS on the daemon's listeners: real sockets, and clients of other makers."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests

from orchestratord.runtime.memory_limit import TLS_BYTES
from orchestratord.web.server.tls_transport import SLICE_BYTES
from tests.certificates import Authority
from tests.integration.daemon import LOOPBACK, PATIENCE, TWISTD, Daemon, Server, head, report, until
from tests.integration.upstream import FakeUpstream, found_nothing, never

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration

NOT_AFTER = "orchestrator_tls_certificate_not_after_timestamp_seconds"
#: What a client says first, as far as half of it goes.
HALF_A_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has signed `server`, for 127.0.0.1 and localhost, and `client`."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1", "localhost")
    authority.issue("client")
    return authority


def options(authority: Authority, listen: str = f"tls:{LOOPBACK}", *, client_ca: bool = False) -> list[str]:
    """Return the options of a TLS listener."""
    files = {
        "--listen": listen,
        "--tls.cert_file": authority.certificate("server"),
        "--tls.key_file": authority.key("server"),
    }
    if client_ca:
        files["--tls.client_ca_file"] = authority.path
    return [str(part) for option in files.items() for part in option]


class Tls:
    """The TLS listener of a daemon, as clients see it."""

    def __init__(self, daemon: Daemon, authority: Authority) -> None:
        self.daemon = daemon
        self.authority = authority
        self.port = int(daemon.said(r"127\.0\.0\.1:(\d+) \(TLS\)")[1])
        self.url = f"https://127.0.0.1:{self.port}"

    def get(self, path: str, **more: Any) -> requests.Response:
        """Get a path, as `requests` does it, which trusts the authority alone."""
        return requests.get(f"{self.url}{path}", verify=str(self.authority.path), timeout=PATIENCE, **more)

    def connect(self, certificate: str | None = None) -> ssl.SSLSocket:
        """Return a connection after its handshake."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return self.authority.client_context(certificate).wrap_socket(plain, server_hostname="localhost")

    def counts(self, connections: int) -> bool:
        """Return whether it counts so many connections in TLS."""
        return self.daemon.sample("orchestrator_connections_tls") == connections

    def serial(self) -> int:
        """Return the number of the certificate that a new connection sees."""
        with self.connect() as connection:
            certificate = connection.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)


def ended(connection: socket.socket) -> bool:
    """Wait until the daemon has ended a connection; return whether it did."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True


def test_reports_go_in_and_scrapes_come_out(start: Callable[..., Daemon], authority: Authority) -> None:
    """As they do in clear, beside it, for a client that verifies us; and when the certificate ends is told."""
    daemon = start(*options(authority))
    tls = Tls(daemon, authority)
    answer = requests.post(
        f"{tls.url}/update_metrics", json=report("n1", page_faults=3), verify=str(authority.path), timeout=PATIENCE
    )
    assert answer.json()["accepted"] == 1
    assert daemon.nodes() == ["n1"]
    assert 'page_faults{node_id="n1"} 3' in tls.get("/metrics").text
    assert daemon.sample(NOT_AFTER) == int(daemon.sample(NOT_AFTER) or 0) > 1_700_000_000


def test_a_connection_is_kept_and_large_bodies_pass(start: Callable[..., Daemon], authority: Authority) -> None:
    """A batch of 10,000 in, all of them out again, on one connection."""
    tls = Tls(start(*options(authority)), authority)
    with requests.Session() as session:
        session.verify, session.trust_env = str(authority.path), False
        batch = [report(f"node-{number:05}", page_faults=number) for number in range(10_000)]
        for _ in range(3):
            answer = session.post(f"{tls.url}/update_metrics", json=batch, timeout=PATIENCE)
            assert answer.json()["accepted"] == 10_000
        assert len(session.get(f"{tls.url}/nodes", timeout=PATIENCE).json()["nodes"]) == 10_000
        assert session.get(f"{tls.url}/metrics", timeout=PATIENCE).text.count("\npage_faults{") == 10_000
        details = session.get(f"{tls.url}/nodes?details=1", timeout=PATIENCE, headers={"Connection": "close"})
        assert len(details.content) > 2 * SLICE_BYTES
        assert len(details.json()["nodes"]) == 10_000


def test_any_stream_endpoint(start: Callable[..., Daemon], authority: Authority, tmp_path: Path) -> None:
    """A UNIX socket, say."""
    path = tmp_path / "s"
    start(*options(authority, f"tls:unix:{path}"))
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(PATIENCE)
        plain.connect(str(path))
        with authority.client_context().wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(head("GET", "/-/ready", "Connection: close"))
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_new_certificate_needs_no_restart(start: Callable[..., Daemon], authority: Authority) -> None:
    """New connections get it, old ones go on; a pair that does not match is not used, and the log says so once."""
    daemon = start(*options(authority))
    tls = Tls(daemon, authority)
    first = tls.serial()
    with requests.Session() as session:
        session.verify, session.trust_env = str(authority.path), False
        assert session.get(f"{tls.url}/nodes", timeout=PATIENCE).status_code == 200

        old_key = authority.key("server").read_bytes()
        new = authority.issue("server", "127.0.0.1", "localhost", days=5)
        authority.key("server").write_bytes(old_key)
        daemon.said(r"tls.key_file: .* is not the key of tls.cert_file's first certificate; what was read before stays")
        assert tls.serial() == first

        authority.key("server").write_bytes(new.key_pem)
        until(lambda: tls.serial() == new.certificate.serial_number, "the new certificate")
        until(lambda: daemon.sample(NOT_AFTER) == new.not_after, "its end among the metrics")
        assert session.get(f"{tls.url}/nodes", timeout=PATIENCE).status_code == 200
        assert daemon.output().count("what was read before stays in use") == 1


def test_clients_need_a_certificate_where_there_is_an_authority(
    start: Callable[..., Daemon], authority: Authority
) -> None:
    """Without one the handshake fails; in clear, beside it, nothing changes."""
    daemon = start(*options(authority, client_ca=True))
    tls = Tls(daemon, authority)
    mine = (str(authority.certificate("client")), str(authority.key("client")))
    assert tls.get("/-/ready", cert=mine).status_code == 200
    with pytest.raises(requests.ConnectionError):
        tls.get("/-/ready")
    other = Authority(authority.folder, "other")
    other.issue("stranger")
    with pytest.raises(requests.ConnectionError):
        tls.get("/-/ready", cert=(str(other.certificate("stranger")), str(other.key("stranger"))))
    assert daemon.get("/-/ready").status_code == 200


def test_http_to_the_tls_port_is_no_hang(start: Callable[..., Daemon], authority: Authority) -> None:
    """The connection ends at once; and so does one of noise."""
    daemon = start("--request-timeout", "600", *options(authority))
    port = Tls(daemon, authority).port
    for said in (head("GET", "/-/ready"), b"\0" * 1000, b"\xff" * 1000):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(said)
            assert ended(connection)


def test_what_a_connection_takes(start: Callable[..., Daemon], authority: Authority) -> None:
    """What is counted for it at the most, whatever it does: nothing yet, a handshake, a report, a large answer."""
    tls = Tls(start(*options(authority)), authority)
    count = 100
    with ExitStack() as stack:

        def connect(said: bytes | None) -> None:
            if said is None:
                stack.enter_context(socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE))
                return
            connection = stack.enter_context(tls.connect())
            connection.sendall(said)
            if said:
                with connection.makefile("rb") as answer:
                    lengths = [line for line in iter(answer.readline, b"\r\n") if line.startswith(b"Content-Length")]
                    answer.read(int(lengths[0].partition(b":")[2]))

        body = json.dumps(report("n1")).encode()
        kinds = (None, b"", head("POST", "/update_metrics", length=len(body)) + body, head("GET", "/openapi.yaml"))
        for said in kinds:  # what Python and OpenSSL make once is there
            connect(said)
        for kind, said in enumerate(kinds):
            before = tls.daemon.memory()
            for _ in range(count):
                connect(said)
            there = len(kinds) + (kind + 1) * count
            until(partial(tls.counts, there), "all connections")
            assert (tls.daemon.memory() - before) * 1024 < count * TLS_BYTES + 4_000_000


@pytest.mark.parametrize("said", [b"", HALF_A_HELLO], ids=["nothing", "half"])
def test_a_handshake_that_does_not_end_is_cut(start: Callable[..., Daemon], authority: Authority, said: bytes) -> None:
    """By the deadline for a request to arrive; so is a client that shakes hands and then says nothing."""
    daemon = start("--request-timeout", "1", *options(authority))
    tls = Tls(daemon, authority)
    with socket.create_connection(("127.0.0.1", tls.port), timeout=PATIENCE) as connection:
        connection.sendall(said)
        assert ended(connection)
    with tls.connect() as silent:
        assert ended(silent)


def test_a_stop_does_not_wait_for_tls_last_words(start: Callable[..., Daemon], authority: Authority) -> None:
    """An idle client that never reads is closed at once; a request in flight gets its answer before."""
    with FakeUpstream(never) as upstream:
        daemon = start("--prometheus", upstream.url, "--drain-timeout", "600", *options(authority))
        tls = Tls(daemon, authority)
        with tls.connect() as idle, tls.connect() as silent, tls.connect() as asking:
            idle.sendall(head("GET", "/nodes"))
            assert idle.recv(4096).startswith(b"HTTP/1.1 200")
            asking.sendall(head("GET", "/query?q=up&timeout=3"))
            upstream.until_open(1)
            daemon.stop()
            assert asking.recv(4096).startswith(b"HTTP/1.1 504")
            del silent


def test_what_is_in_flight_when_the_drain_ends_is_cut(start: Callable[..., Daemon], authority: Authority) -> None:
    """In TLS as in clear."""
    with FakeUpstream(never) as upstream:
        daemon = start(
            "--prometheus", upstream.url, "--drain-timeout", "0.2", "--query-timeout", "600", *options(authority)
        )
        with Tls(daemon, authority).connect() as asking:
            asking.sendall(head("GET", "/query?q=up"))
            upstream.until_open(1)
            daemon.stop()
            assert ended(asking)


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ("--tls.cert_file", "tls.cert_file: '.*server.pem' holds no certificate in PEM that can be read"),
        ("--tls.key_file", "tls.key_file: '.*server.key' holds no private key in PEM that can be read"),
        ("--tls.client_ca_file", "tls.client_ca_file: '.*ca.pem' holds no certificate in PEM that can be read"),
    ],
)
def test_a_wrong_file_ends_the_start(authority: Authority, tmp_path: Path, spoilt: str, says: str) -> None:
    """In one line that names option and file, before any socket opens."""
    given = options(authority, f"tls:unix:{tmp_path}/s", client_ca=True)
    (tmp_path / given[given.index(spoilt) + 1]).write_text("nonsense")
    daemon = Daemon(tmp_path / "home", *given, listen=f"unix:{tmp_path}/t")
    try:
        assert daemon.wait() == 1
        daemon.said(f"^twistd orchestrator: {says}$")
        assert not (tmp_path / "t").exists()
    finally:
        daemon.close()


def profiler(home: Path, tls: Tls, *more: str) -> Server:
    """Start a profiler that reports to the TLS listener."""
    return Server(
        (
            *(TWISTD, "--nodaemon", "--pidfile=", "profiler", "--source", "procfs", "--interval", "1"),
            *("--orchestrator", tls.url, "--node-id", "mine", *more),
        ),
        home,
    )


def test_the_profiler_reports_over_tls(start: Callable[..., Daemon], authority: Authority, tmp_path: Path) -> None:
    """With a private authority and a certificate of its own; without the authority it says why it cannot."""
    daemon = start(*options(authority, client_ca=True))
    tls = Tls(daemon, authority)
    mine = ("--certificate", str(authority.certificate("client")), "--key", str(authority.key("client")))
    good = profiler(tmp_path / "good", tls, "--ca", str(authority.path), *mine)
    try:
        distrustful = profiler(tmp_path / "distrustful", tls)
        try:
            distrustful.said(
                "does not accept the reports: certificate verify failed: unable to get local issuer certificate"
            )
        finally:
            distrustful.close()
        until(lambda: daemon.nodes() == ["mine"], "a report over TLS")
    finally:
        good.close()


def test_queries_go_through(start: Callable[..., Daemon], authority: Authority) -> None:
    """From TLS to an upstream in clear, and back."""
    with FakeUpstream(found_nothing) as upstream:
        tls = Tls(start("--prometheus", upstream.url, *options(authority)), authority)
        assert tls.get("/query?q=up").json()["status"] == "success"
