"""An answer, or the rest of one, that waits for its client to read."""

from __future__ import annotations

from collections import deque

#: Bytes that go to the connection at once: as many as Twisted gives the kernel in one call.
PIECE = 131_072


class SendBuffer:
    """Parts of an answer in their order, given out in pieces of PIECE bytes at the most; they are not copied before."""

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
        """Return the next piece, and forget it."""
        part = self._parts[0]
        piece = part[self._offset : self._offset + PIECE]
        self._offset += len(piece)
        self.size -= len(piece)
        if self._offset >= len(part):
            self._parts.popleft()
            self._offset = 0
        return piece

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()
        self._offset = self.size = 0
