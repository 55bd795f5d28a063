"""A network that delays, stalls and cuts connections at random: a TCP relay, its fates drawn from a seed."""

from __future__ import annotations

import socket
from random import Random
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from tests.integration.daemon import PATIENCE

if TYPE_CHECKING:
    from types import TracebackType

#: What may become of a connection: the first is twice as likely as any other.
FATES = ("passed", "passed", "refused", "request cut", "request stalled", "answer lost", "answer cut", "answer stalled")


class Relay:
    """Listens on loopback and passes connections on to a port, each with a delay and a fate of its own."""

    def __init__(self, port: int, seed: int) -> None:
        self._target = port
        self._random = Random(seed)
        #: How many connections had which fate.
        self.fates = dict.fromkeys(FATES, 0)
        self._closing = Event()
        self._threads: list[Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._start(Thread(target=self._accept, daemon=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _start(self, thread: Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            fate = self._random.choice(FATES)
            self.fates[fate] += 1
            arguments = (client, fate, self._random.uniform(0, 0.05), self._random.random())
            self._start(Thread(target=self._pass, args=arguments, daemon=True))

    def _pass(self, client: socket.socket, fate: str, delay: float, part: float) -> None:
        with client:
            client.settimeout(PATIENCE)
            if fate == "refused":
                return
            try:
                with socket.create_connection(("127.0.0.1", self._target), timeout=PATIENCE) as server:
                    self._exchange(client, server, fate, delay, part)
            except OSError:
                return  # one of the two has left

    def _exchange(self, client: socket.socket, server: socket.socket, fate: str, delay: float, part: float) -> None:
        request = _until_blank_line_and_body(client)
        self._closing.wait(delay)
        if fate.startswith("request"):
            server.sendall(request[: int(len(request) * part)])
            if fate == "request stalled":
                self._stall(client)
            return
        server.sendall(request)
        answer = server.recv(65_536)
        self._closing.wait(delay)
        if fate == "passed":
            client.sendall(answer)
        elif fate == "answer cut":
            client.sendall(answer[: int(len(answer) * part)])
        elif fate == "answer stalled":
            self._stall(client)

    def _stall(self, client: socket.socket) -> None:
        """Say nothing more until the client gives up."""
        client.settimeout(0.05)
        while not self._closing.is_set():
            try:
                if client.recv(4096) == b"":
                    return
            except TimeoutError:
                continue


def _until_blank_line_and_body(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65_536)
        if not more:
            raise ConnectionResetError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")),
        0,
    )
    while len(body) < length:
        body += client.recv(65_536)
    return head + b"\r\n\r\n" + body
