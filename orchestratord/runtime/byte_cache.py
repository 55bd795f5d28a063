"""A cache whose bound is bytes: each thing that is kept counts what it and its key take."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

#: Bytes for a key's and a value's place in the cache itself.
_PLACE = 300


class ByteCache(Generic[K, V]):
    """Keeps what was asked for most recently, `limit` bytes of it.

    `size` tells the bytes that a key and its value take. Belongs to the reactor thread.
    """

    def __init__(self, limit: int, size: Callable[[K, V], int]) -> None:
        self.limit = limit
        #: Bytes that all that is kept takes, keys and the cache's own memory included.
        self.held = 0
        self._size = size
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def get(self, key: K, default: V | None = None) -> V | None:
        """Return what is kept under a key, or the default."""
        found = self._kept.get(key)
        if found is None:
            return default
        self._kept.move_to_end(key)
        return found[0]

    def peek(self, key: K) -> V | None:
        """Return what is kept under a key, or None, as if nobody had asked."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def oldest(self) -> tuple[K, V] | None:
        """Return the key and the value that nobody has put or got for longest, or None."""
        for key, (value, _) in self._kept.items():
            return key, value
        return None

    def put(self, key: K, value: V) -> None:
        """Keep a value, and let those go that nobody has asked for longest; one over the limit is not kept."""
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
        """Keep nothing under a key any more."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.held -= found[1]
