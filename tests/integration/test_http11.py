"""HTTP/1.1 on real sockets: half-closed clients, connections that are given up, several TLS records in a segment."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority
from tests.integration.daemon import LOOPBACK, PATIENCE, Daemon, head, report, until
from tests.integration.upstream import FakeUpstream, found_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


pytestmark = pytest.mark.integration

REPORT = b'{"node_id": "behind", "page_faults": 1}'
START = b"POST /update_metrics HTTP/1.1\r\nHost: x\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(REPORT)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has signed `server`."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1", "localhost")
    return authority


@pytest.fixture
def daemon(start: Callable[..., Daemon], authority: Authority, tmp_path: Path) -> Daemon:
    """A daemon that is listening in clear, in TLS, and on a socket in a folder."""
    return start(
        "--listen", LOOPBACK, "--listen", f"tls:{LOOPBACK}", "--listen", f"unix:{tmp_path}/http",
        "--tls.cert_file", str(authority.certificate("server")), "--tls.key_file", str(authority.key("server")),
    )  # fmt: skip


def everything(sock: Any) -> bytes:
    """Return what comes until the connection ends, by a reset too."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            received += part
    return received


class InTls:
    """A connection in TLS whose records a test puts into segments by hand."""

    def __init__(self, daemon: Daemon, authority: Authority) -> None:
        port = int(daemon.said(r"127\.0\.0\.1:(\d+) \(TLS\)")[1])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = authority.client_context().wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                self._incoming.write(self.socket.recv(65536))
        self.socket.sendall(self._outgoing.read())

    def send(self, *parts: bytes) -> None:
        """Send parts in a record each, all at once."""
        for part in parts:
            self._tls.write(part)
        self.socket.sendall(self._outgoing.read())

    def everything(self) -> bytes:
        """Return what comes until the connection ends."""
        self._incoming.write(everything(self.socket))
        received = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self._tls.read(65536):
                received += part
        return received


GIVEN_UP = {
    "header": [START + b"X : y\r\n" + LENGTH, b"\r\n", REPORT],
    "close": [
        START + b"Connection: close\r\nContent-Length: 16\r\n\r\n" + b'{"node_id": "n"}',
        START + LENGTH + b"\r\n" + REPORT,
    ],
    "first-line": [b"nonsense\r\n", START + LENGTH + b"\r\n" + REPORT],
}


@pytest.mark.parametrize("parts", GIVEN_UP.values(), ids=GIVEN_UP)
def test_several_records_in_a_segment(daemon: Daemon, authority: Authority, parts: list[bytes]) -> None:
    """What stands behind the request that gave the connection up is not carried out, in any kind of connection."""
    daemon.post(report("kept"))
    for attempt in (parts, [*parts, b"DELETE /nodes/kept HTTP/1.1\r\nHost: x\r\n\r\n"]):
        connection = InTls(daemon, authority)
        connection.send(*attempt)
        assert connection.everything().count(b"HTTP/1.1 ") == 1
        connection.socket.close()
        with daemon.wire() as wire:
            wire.send(b"".join(attempt))
            assert everything(wire.socket).count(b"HTTP/1.1 ") == 1
    assert "behind" not in daemon.nodes()
    assert "kept" in daemon.nodes()


@pytest.fixture
def slow(start: Callable[..., Daemon]) -> Iterator[tuple[Daemon, FakeUpstream]]:
    """A daemon and its Prometheus."""
    with FakeUpstream(found_nothing) as upstream:
        yield start("--prometheus", upstream.url), upstream


HALF_CLOSED = {
    "nodes": head("GET", "/nodes"),
    "metrics": head("GET", "/metrics"),
    "query": head("GET", "/query?q=up"),
    "report": head("POST", "/update_metrics", length=len(REPORT)) + REPORT,
}


@pytest.mark.parametrize("data", HALF_CLOSED.values(), ids=HALF_CLOSED)
def test_a_half_closed_client_gets_its_answer(slow: tuple[Daemon, FakeUpstream], data: bytes) -> None:
    """Whole, and then the connection ends by our side too."""
    daemon, _ = slow
    with daemon.wire() as wire:
        wire.send(data)
        wire.half_close()
        received = everything(wire.socket)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_half_closed_client_in_tls(daemon: Daemon, authority: Authority) -> None:
    """As in clear."""
    connection = InTls(daemon, authority)
    connection.send(HALF_CLOSED["report"])
    connection.socket.shutdown(socket.SHUT_WR)
    assert connection.everything().startswith(b"HTTP/1.1 200 ")
    connection.socket.close()
    assert "behind" in daemon.nodes()


@pytest.mark.usefixtures("daemon")
def test_a_half_closed_client_on_a_unix_socket(tmp_path: Path) -> None:
    """As in clear."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(f"{tmp_path}/http")
        connection.sendall(HALF_CLOSED["nodes"])
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_connections_of_half_closed_clients_are_not_kept(daemon: Daemon) -> None:
    """Each is closed with its answer, or at once if it asked for nothing."""
    for data in (b"", head("GET", "/nodes"), b"GET /no"):
        with daemon.wire() as wire:
            wire.send(data)
            wire.half_close()
            everything(wire.socket)
    until(lambda: daemon.sample("orchestrator_connections") == 1, "no connection is left but that of the scrape")


def test_a_request_that_is_none_is_told_and_counted(daemon: Daemon) -> None:
    """In JSON, with a Date, `Connection: close`, and in the metrics of requests."""
    with daemon.wire() as wire:
        wire.send(b"\x16\x03\x01 no http\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert list(answer.json()) == ["error"]
        assert "date" in answer.headers
    count = 'orchestrator_http_requests_total{code="400",method="other",route="other"}'
    assert daemon.sample(count) == 1
    assert "Traceback" not in daemon.output()


def test_a_length_of_5000_digits(daemon: Daemon) -> None:
    """413, and no traceback in the log."""
    with daemon.wire() as wire:
        wire.send(START + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")
        assert wire.answer().status == 413
    assert "Traceback" not in daemon.output()
