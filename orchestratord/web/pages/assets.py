"""The files that the pages refer to: a style sheet, a script, an icon."""

from __future__ import annotations

import hashlib
from importlib.resources import files

_TYPES = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


class Asset:
    """One file, read once."""

    def __init__(self, name: str) -> None:
        self.content_type = _TYPES[name]
        self.body = files("orchestratord.web.pages").joinpath(name).read_bytes()
        self.content_hash = hashlib.sha256(self.body).hexdigest()[:16]


class Assets:
    """All files, by name. A path carries a mark of the content, so that a browser may keep it for ever."""

    def __init__(self) -> None:
        self._files = {name: Asset(name) for name in _TYPES}

    def __call__(self, name: str) -> str:
        """Return the path of a file."""
        return f"/static/{name}?v={self._files[name].content_hash}"

    def get(self, name: str) -> Asset | None:
        """Return a file, if there is one of that name."""
        return self._files.get(name)
