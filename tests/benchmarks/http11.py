"""A client with next to no cost of its own: whole requests out, whole answers in, over one kept connection."""

from __future__ import annotations

import re
import socket
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class HttpError(Exception):
    """An answer that is none, or not a 2xx."""


class Connection:
    """A connection to a server on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Return the whole answer once it is there, None before. Waits for one packet, raises HttpError if not 2xx."""
        data = self.socket.recv(262_144)
        if not data:
            raise HttpError("the server closed the connection")
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = _LENGTH.search(self._received, 0, end)
        if length is None and not self._received.startswith(b"HTTP/1.1 204"):
            raise HttpError(f"an answer without a length: {self._received[:200]!r}")
        if len(self._received) < end + 4 + int(length[1] if length else 0):
            return None
        answer, self._received = self._received, b""
        if not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            raise HttpError(f"not a 2xx: {answer[:300]!r}")
        return answer

    def exchange(self, request: bytes) -> bytes:
        """Send a request and return its answer."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def close(self) -> None:
        """Leave."""
        self.socket.close()


def send_all(port: int, requests: Iterable[bytes]) -> None:
    """Send requests one after the other over one connection; raise HttpError if one is not answered with 2xx."""
    connection = Connection(port)
    try:
        for request in requests:
            connection.exchange(request)
    finally:
        connection.close()


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (names in lower case) and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def scrape(port: int, token: str = "") -> float:
    """Scrape `/metrics` as Prometheus does, gzip and text 0.0.4; return the seconds until the last byte was there."""
    wanted = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding": "gzip"}
    if token:
        wanted["Authorization"] = f"Bearer {token}"
    started = time.perf_counter()
    status, headers, body = get(port, "/metrics", wanted)
    seconds = time.perf_counter() - started
    if status != 200 or headers.get("content-encoding") != "gzip" or not body:
        raise HttpError(f"a scrape was answered with {status} and {headers}")
    return seconds


def metric(port: int, name: str) -> float:
    """Return the sum of a metric's samples at `/metrics`."""
    _, _, body = get(port, f"/metrics?name[]={name}")
    lines = [line for line in body.decode().splitlines() if re.match(rf"{re.escape(name)}[ {{]", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
