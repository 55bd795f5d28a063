"""A TCP relay between the daemon and its Prometheus, which can do to answers what bad networks and servers do."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from enum import Enum
from typing import Self

#: Seconds between the bytes of an answer that trickles, and by which one that is late is late.
TRICKLE, LATE = 0.05, 0.3


class Mode(Enum):
    """What is done to the answers."""

    PASS = "passes"
    DELAY = "delayed"
    STALL = "stalled"
    CUT = "cut half way"
    TRICKLE = "trickling"
    GARBAGE = "garbage"


class Relay:
    """Listens on a port of 127.0.0.1 and passes on to another; what it does to answers can be changed at any time."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._mode = Mode.PASS
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def change(self, mode: Mode) -> None:
        """Do this to answers from now on; those that stalled break off."""
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
                try:
                    upwards = asyncio.ensure_future(_pass_on(reader, far_writer))
                    try:
                        await self._answers(far_reader, writer, upwards)
                    finally:
                        upwards.cancel()
                        await asyncio.gather(upwards, return_exceptions=True)
                finally:
                    far_writer.close()
        finally:
            writer.close()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upwards: asyncio.Future[None]
    ) -> None:
        """Pass answers on until either side ends the connection, or the mode does."""
        while True:
            reading = asyncio.ensure_future(reader.read(65_536))
            await asyncio.wait((reading, upwards), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                return
            data = reading.result()
            if not data:
                return
            if not await self._answer(data, writer):
                return
            await writer.drain()

    async def _answer(self, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Pass on what has come of an answer, or what the mode makes of it; return whether the connection goes on."""
        mode, changed = self._mode, self._changed
        if mode is Mode.STALL:
            await changed.wait()
            return False
        if mode is Mode.CUT:
            writer.write(data[: len(data) // 2])
            return False
        if mode is Mode.GARBAGE:
            writer.write(random.Random(len(data)).randbytes(len(data)))
            return False
        if mode is Mode.DELAY:
            await asyncio.sleep(LATE)
        if mode is Mode.TRICKLE:
            for position in range(len(data)):
                writer.write(data[position : position + 1])
                await writer.drain()
                await asyncio.sleep(TRICKLE)
                if self._mode is not mode:
                    return False
        else:
            writer.write(data)
        return True


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
