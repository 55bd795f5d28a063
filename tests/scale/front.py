"""HAProxy in front of the orchestrators, as an operator would have it: each request to the next one that is ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.benchmarks.machine import ALL
from tests.benchmarks.servers import ServerError, free_port
from tests.soak.processes import ended, ready

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.servers import Server, Servers

#: A request is sent once: one whose connection broke off gets no answer, and its sender says it again.
_CONFIGURATION = """\
global
    maxconn 8192
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 10s
    timeout http-keep-alive 60s
    retries 2
    option redispatch 1
frontend front
    bind 127.0.0.1:{port}
    http-response set-header x-replica %s
    default_backend orchestrators
backend orchestrators
    balance roundrobin
    option httpchk GET /-/ready
    http-check expect status 200
    default-server check inter 500ms fastinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class Front:
    """HAProxy on a port. It ends with `servers`."""

    def __init__(self, servers: Servers) -> None:
        self.port = free_port()
        self._servers = servers
        self._socket = servers.home / "front.sock"
        self._server: Server | None = None

    async def start(self, ports: Sequence[int]) -> None:
        """Start it before these ports, and return when one of them is served."""
        lines = [f"    server replica-{number} 127.0.0.1:{port}" for number, port in enumerate(ports)]
        configuration = self._servers.home / "front.cfg"
        configuration.write_text(_CONFIGURATION.format(socket=self._socket, port=self.port, servers="\n".join(lines)))
        command = ["haproxy", "-db", "-q", "-f", str(configuration)]
        self._server = self._servers.start("haproxy", command, self.port, None, ALL)
        await ready(self._server)

    async def drain(self, replica: int, *, drained: bool) -> None:
        """Send no request to a replica any more, or again."""
        state = "drain" if drained else "ready"
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        writer.write(f"set server orchestrators/replica-{replica} state {state}\n".encode())
        said = (await reader.read()).decode().strip()
        writer.close()
        if said:
            raise ServerError(f"haproxy does not take a replica's state: {said}")

    async def stop(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.process.terminate()
            await ended(self._servers, self._server)
