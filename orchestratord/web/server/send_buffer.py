"""The rest of an answer, while the client does not read it."""

from __future__ import annotations

from collections import deque

#: Bytes that are written to the connection at once: as many as Twisted gives the kernel in one call.
PIECE = 131_072


class SendBuffer:
    """The parts of an answer in order, returned in pieces of at most PIECE bytes; nothing is copied before."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._offset = 0
        #: Bytes that wait.
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add a part."""
        if data:
            self._parts.append(data)
            self.size += len(data)

    def piece(self) -> bytes:
        """Remove and return the next piece."""
        part = self._parts[0]
        piece = part[self._offset : self._offset + PIECE]
        self._offset += len(piece)
        self.size -= len(piece)
        if self._offset >= len(part):
            self._parts.popleft()
            self._offset = 0
        return piece

    def clear(self) -> None:
        """Drop everything."""
        self._parts.clear()
        self._offset = self.size = 0
