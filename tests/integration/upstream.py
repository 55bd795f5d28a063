"""Fake Prometheus servers for the integration tests: each connection is one request, answered by a function."""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

from tests.integration.daemon import PATIENCE, until
from tests.peers import jwks_refusal, refusal, remote_write_refusal, report_refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext
    from types import TracebackType

#: What Prometheus answers to a query that finds nothing.
EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'


@dataclass(frozen=True)
class Asked:
    """A request as an upstream has seen it; the headers' names in lower case."""

    method: str
    path: str
    params: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes = b""


class Exchange:
    """One request to a fake upstream, and what is to be answered."""

    def __init__(self, sock: socket.socket, asked: Asked, closing: Event) -> None:
        self.socket = sock
        self.asked = asked
        self.closing = closing

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def reply(self, status: str, content_type: str, body: bytes, *headers: str) -> None:
        """Answer whole."""
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def hang_up_seen(self) -> bool:
        """Wait until the other side ends the connection; return whether it did before the test's end."""
        self.socket.settimeout(0.05)
        while not self.closing.is_set():
            try:
                if self.socket.recv(4096) == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


def refused_by_prometheus(asked: Asked) -> int | None:
    """Return the status with which Prometheus refuses a request, or None. It may have a route prefix of one part."""
    path = re.sub(r"^/[^/]+(?=/api/v1/)", "", asked.path).encode()
    return refusal(asked.method.encode(), path, _type(asked))


def refused_by_orchestrator(asked: Asked) -> int | None:
    """Return the status with which the orchestrator refuses a report or a query before it reads it, or None.

    Its routes below /api/v1/ are as strict as Prometheus'.
    """
    if asked.path.startswith("/api/v1/"):
        return refused_by_prometheus(asked)
    if asked.path == "/query":
        return None if asked.method == "GET" else refusal(asked.method.encode(), b"/api/v1/query", _type(asked))
    return report_refusal(asked.method.encode(), asked.path.encode(), _type(asked))


def _type(asked: Asked) -> bytes:
    return asked.headers.get("content-type", "").encode()


def refused_by_store(asked: Asked) -> int | None:
    """Return the status with which a remote-write receiver refuses a request, or None."""
    headers = {name.encode(): value.encode() for name, value in asked.headers.items()}
    return remote_write_refusal(asked.method.encode(), asked.path.encode(), headers)


def refused_by_kubernetes(asked: Asked) -> int | None:
    """Return the status with which a kube-apiserver refuses a request for its keys, or None."""
    return jwks_refusal(asked.method, asked.path, asked.headers.get("accept"))


class FakeUpstream:
    """Listens on loopback; `answer` deals with each request on a thread of its own, and then the connection ends.

    What `refuses` says is refused. With `tls`, in TLS; a connection whose handshake fails is no request.
    """

    def __init__(
        self,
        answer: Callable[[Exchange], None],
        tls: SSLContext | None = None,
        *,
        probed: Callable[[Exchange], None] | None = None,
        host: str = "127.0.0.1",
        refuses: Callable[[Asked], int | None] = refused_by_prometheus,
    ) -> None:
        self.answer = answer
        #: What deals with the daemon's own probes, which are not in `asked`: `answer` in the place of `well` makes the
        #: upstream as bad as that.
        self.probed = probed or well
        self.probes = 0
        self._refuses = refuses
        self._tls = tls
        self.asked: list[Asked] = []
        #: Requests that `answer` is dealing with.
        self.open = 0
        self._lock = Lock()
        self._closing = Event()
        self._threads: list[Thread] = []
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def until_open(self, count: int) -> None:
        """Return when so many requests are in the works."""
        until(lambda: self.open == count, f"{count} requests in the works")

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, ExitStack() as stack:
            sock.settimeout(PATIENCE)
            try:
                if self._tls is not None:
                    sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
                asked = _read(sock)
            except OSError:
                return
            if asked is None:
                return
            exchange = Exchange(sock, asked, self._closing)
            refused = self._refuses(asked)
            try:
                if refused is not None or "host" not in asked.headers:
                    exchange.reply(f"{refused or 400} Refused", "text/plain; charset=utf-8", b"refused")
                    return
                if asked.headers.get("user-agent", "").endswith("(probe)"):
                    self.probes += 1
                    self.probed(exchange)
                    return
            except OSError:
                return
            with self._lock:
                self.asked.append(asked)
                self.open += 1
            try:
                self.answer(exchange)
            except OSError:
                return  # the daemon has left; that is for the test to judge
            finally:
                with self._lock:
                    self.open -= 1


def well(exchange: Exchange) -> None:
    """Answer a probe as a Prometheus that is well."""
    exchange.reply("200 OK", "application/json", b'{"status":"success","data":{"version":"2.42.0"}}')


def found_nothing(exchange: Exchange) -> None:
    """Answer as a Prometheus that finds nothing."""
    exchange.reply("200 OK", "application/json", EMPTY)


class HeldUpstream(FakeUpstream):
    """Finds nothing, but does not say so before it is released."""

    def __init__(self) -> None:
        self._released = Event()
        super().__init__(self._hold)

    def release(self) -> None:
        """Answer what was asked, and from now on at once."""
        self._released.set()

    def _hold(self, exchange: Exchange) -> None:
        if self._released.wait(PATIENCE):
            found_nothing(exchange)


def never(exchange: Exchange) -> None:
    """Keep the connection open and say nothing."""
    exchange.hang_up_seen()


def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    asked = exchange.asked
    body = json.dumps({"method": asked.method, "path": asked.path, "params": asked.params}).encode()
    exchange.reply("200 OK", "application/json", body)


def _read(sock: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += sock.recv(65536)
    method, target, _ = first.split()
    url = urlsplit(target)
    return Asked(
        method, url.path, parse_qsl(url.query or body.decode("latin-1"), keep_blank_values=True), headers, body
    )
