"""The static files of the pages: a style sheet, a script, an icon."""

from __future__ import annotations

import hashlib
from importlib.resources import files

_TYPES = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


class Asset:
    """One file, which is read once. `content_hash` is 16 hexadecimal digits."""

    def __init__(self, name: str) -> None:
        self.content_type = _TYPES[name]
        self.body = files("orchestratord.web.pages").joinpath(name).read_bytes()
        self.content_hash = hashlib.sha256(self.body).hexdigest()[:16]


class Assets:
    """All files, by name. A path contains a hash of the content, so that a browser may cache the file for ever."""

    def __init__(self) -> None:
        self._files = {name: Asset(name) for name in _TYPES}

    def __call__(self, name: str) -> str:
        """Return the path of a file; raises KeyError if there is no file of that name."""
        return f"/static/{name}?v={self._files[name].content_hash}"

    def get(self, name: str) -> Asset | None:
        """Return a file, or None if there is no file of that name."""
        return self._files.get(name)
