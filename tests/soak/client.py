"""HTTP for many clients in one process: whole requests out, whole answers in, of any status."""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_GZIP = re.compile(rb"\r\ncontent-encoding: *gzip", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
#: Bytes of a head.
_MOST_HEAD = 65_536


class NoAnswer(Exception):
    """There is no whole answer. `sent` tells whether any of the request may have arrived."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; its body unpacked, its head as it came."""

    status: int
    body: bytes
    head: bytes = b""


class Connection:
    """A client's connection to a port of 127.0.0.1, opened when needed, and kept as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, seconds: float) -> Answer:
        """Send a request and return its answer; raise NoAnswer if there is none within so many seconds."""
        opened = False
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await self._opened()
                opened = True
                writer.write(request)
                await writer.drain()
                answer, closes = await _read(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            why = f"none within {seconds:g} s" if isinstance(error, TimeoutError) else _reason(error)
            raise NoAnswer(why, sent=opened) from None
        except asyncio.CancelledError:
            self.close()
            raise
        if closes:
            self.close()
        return answer

    def close(self) -> None:
        """Leave; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def abort(self) -> None:
        """Leave with a reset."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def send(self, data: bytes) -> None:
        """Send bytes, and do not wait for an answer; raise OSError if that cannot be."""
        _, writer = await self._opened()
        writer.write(data)
        await writer.drain()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_MOST_HEAD)
        return self._streams


async def once(port: int, request: bytes, seconds: float) -> Answer:
    """Ask on a connection of its own, as `requests.post` does."""
    connection = Connection(port)
    try:
        return await connection.ask(request, seconds)
    finally:
        connection.close()


async def _read(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """Return the answer, and whether the server closes the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1."):
        raise ValueError(f"no HTTP: {head[:60]!r}")
    status = int(head[9:12])
    length = _LENGTH.search(head)
    if length is not None:
        body = await reader.readexactly(int(length[1]))
    elif _CHUNKED.search(head):
        body = await _chunks(reader)
    else:
        body = b"" if status in {204, 304} else await reader.read()
    if _GZIP.search(head):
        body = gzip.decompress(body)
    return Answer(status, body, head), _CLOSE.search(head) is not None or head.startswith(b"HTTP/1.0")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
