"""A least-recently-used cache that is bounded by the bytes of its keys and values."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

#: Bytes that the cache itself needs for each entry.
_PLACE = 300


class ByteCache(Generic[K, V]):
    """Keeps the entries that were used most recently, up to `limit` bytes.

    `size` returns the bytes that a key and its value take. Belongs to the reactor thread.
    """

    def __init__(self, limit: int, size: Callable[[K, V], int]) -> None:
        self.limit = limit
        #: Bytes of all entries, keys and the cache's own memory included.
        self.held = 0
        self._size = size
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._kept)

    def get(self, key: K, default: V | None = None) -> V | None:
        """Return the value of a key, or the default; the entry becomes the most recently used."""
        found = self._kept.get(key)
        if found is None:
            return default
        self._kept.move_to_end(key)
        return found[0]

    def peek(self, key: K) -> V | None:
        """Return the value of a key, or None; this does not count as a use."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def oldest(self) -> tuple[K, V] | None:
        """Return the key and the value of the least recently used entry, or None."""
        for key, (value, _) in self._kept.items():
            return key, value
        return None

    def put(self, key: K, value: V) -> None:
        """Keep a value, and drop the least recently used entries; a value over the limit is not kept."""
        self.drop(key)
        size = _PLACE + self._size(key, value)
        if size > self.limit:
            return
        self._kept[key] = (value, size)
        self.held += size
        while self.held > self.limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self.held -= freed

    def drop(self, key: K) -> None:
        """Drop the entry of a key, if there is one."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.held -= found[1]
