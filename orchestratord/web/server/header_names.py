"""The names of headers that Twisted remembers: short ones, whatever clients and upstreams send."""

from __future__ import annotations

from typing import Any

from twisted.web import http_headers

#: Bytes of a header's name that is remembered; Twisted remembers 10,000 names, for as long as the process lives.
MAX_REMEMBERED = 64


class _Short(dict[Any, bytes]):
    """Keeps short names only."""

    def __setitem__(self, name: Any, canonical: bytes) -> None:
        if len(name) <= MAX_REMEMBERED:
            super().__setitem__(name, canonical)


def remember_short_names_only() -> None:
    """Have Twisted remember the canonical form of short names only: 3 MB at most, rather than 300 MB for ever."""
    encoder: Any = getattr(http_headers, "_nameEncoder", None)
    if hasattr(encoder, "_canonicalHeaderCache"):
        encoder._canonicalHeaderCache = _Short()  # noqa: SLF001 - there is no other way to bound it
