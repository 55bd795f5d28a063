"""Waits for servers to be ready, and to be gone, while other tasks go on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.benchmarks import payloads
from tests.benchmarks.servers import ServerError
from tests.soak.client import NoAnswer, once

if TYPE_CHECKING:
    from tests.benchmarks.servers import Server, Servers

#: Seconds that a server has for its start, and for its end.
PATIENCE = 30.0


async def ready(server: Server, path: str = "/-/ready") -> None:
    """Return when a GET is answered with 200; raise ServerError if the server has ended, or takes too long."""
    request = payloads.get(path).replace(b"keep-alive", b"close")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        server.check()
        try:
            if (await once(server.port, request, 5)).status == 200:
                return
        except NoAnswer:
            pass
        await asyncio.sleep(0.02)
    raise ServerError(f"{server.name} was not ready within {PATIENCE:g} s: {said(server)}")


async def ended(servers: Servers, server: Server) -> int:
    """Return the exit code of a server that was told to end; raise ServerError if it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while (code := server.process.poll()) is None:
        if time.monotonic() > deadline:
            raise ServerError(f"{server.name} did not end within {PATIENCE:g} s")
        await asyncio.sleep(0.01)
    servers.stop(server)
    return code


def said(server: Server) -> str:
    """Return the end of what a server has logged."""
    return server.log.read_text(errors="replace")[-800:]
