"""Twisted's cache of header names: only short names go in, whatever clients and upstreams send."""

from __future__ import annotations

from typing import Any

from twisted.web import http_headers

#: Bytes of a name that is cached. Twisted keeps up to 10,000 names for the life of the process.
MAX_REMEMBERED = 64


class _Short(dict[Any, bytes]):
    """Keeps short names only."""

    def __setitem__(self, name: Any, canonical: bytes) -> None:
        if len(name) <= MAX_REMEMBERED:
            super().__setitem__(name, canonical)


def remember_short_names_only() -> None:
    """Let Twisted cache the canonical form of short names only: at most 3 MB instead of 300 MB."""
    encoder: Any = getattr(http_headers, "_nameEncoder", None)
    if hasattr(encoder, "_canonicalHeaderCache"):
        encoder._canonicalHeaderCache = _Short()  # noqa: SLF001 - there is no other way to bound it
