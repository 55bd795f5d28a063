"""Whom we trust upstream, and who we are there, by the options that begin with a prefix such as `prometheus`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from orchestratord.http_client.credentials import basic, bearer
from orchestratord.security.tls import ClientOptions, ClientTls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orchestratord.config.settings import Settings

log = Logger()


def trust(settings: Settings, prefix: str, urls: Sequence[str]) -> ClientTls | None:
    """Return the TLS of `--PREFIX-ca`, `-certificate` and `-key`; None if no URL needs any. Raises FilesError."""
    if not any(url.startswith("https:") for url in urls):
        return None  # the system's authorities take a moment, and a megabyte
    return ClientTls(
        time.monotonic,
        ClientOptions(*(f"--{prefix}-{name}" for name in ("ca", "certificate", "key"))),
        ca=_setting(settings, prefix, "ca"),
        certificate=_setting(settings, prefix, "certificate"),
        key=_setting(settings, prefix, "key"),
    )


def authorization(settings: Settings, prefix: str, urls: Sequence[str]) -> Callable[[], str] | None:
    """Return what gives the header of that name by `--PREFIX-token-file` or `-basic-auth-file`. Raises FilesError."""
    for name, credentials in (("token-file", bearer), ("basic-auth-file", basic)):
        path = _setting(settings, prefix, name)
        if path is not None:
            for url in urls:
                if url.startswith("http:"):
                    log.warn("the credentials for {upstream} travel in clear: it is no https:// URL", upstream=url)
            return credentials(time.monotonic, f"--{prefix}-{name}", path)
    return None


def _setting(settings: Settings, prefix: str, name: str) -> Path | None:
    value: Any = getattr(settings, f"{prefix}-{name}".replace("-", "_"))
    path: Path | None = value
    return path
