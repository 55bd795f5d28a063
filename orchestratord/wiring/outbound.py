"""TLS and credentials of outbound requests, from a table of settings such as `[prometheus_http]`."""

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
    """Return the TLS of the table `[PREFIX_http]`; None if no URL needs it. Raises FilesError."""
    if not any(url.startswith("https:") for url in urls):
        return None  # reading the system's authorities takes time, and a megabyte of memory
    return ClientTls(
        time.monotonic,
        ClientOptions(*(f"{_table(prefix)}.{name}" for name in ("ca_file", "cert_file", "key_file"))),
        ca=_setting(settings, prefix, "ca"),
        certificate=_setting(settings, prefix, "certificate"),
        key=_setting(settings, prefix, "key"),
    )


def authorization(settings: Settings, prefix: str, urls: Sequence[str]) -> Callable[[], str] | None:
    """Return what gives the value of the Authorization header, by the table `[PREFIX_http]`; None: no header.

    Logs a warning for each URL to which credentials are sent without TLS. Raises FilesError.
    """
    for name, key, credentials in (
        ("token-file", "credentials_file", bearer),
        ("basic-auth-file", "basic_auth_file", basic),
    ):
        path = _setting(settings, prefix, name)
        if path is not None:
            for url in urls:
                if url.startswith("http:"):
                    log.warn("credentials are sent to {upstream} unencrypted: it is not an https:// URL", upstream=url)
            return credentials(time.monotonic, f"{_table(prefix)}.{key}", path)
    return None


def _table(prefix: str) -> str:
    return f"{prefix.replace('-', '_')}_http"


def _setting(settings: Settings, prefix: str, name: str) -> Path | None:
    value: Any = getattr(settings, f"{prefix}-{name}".replace("-", "_"))
    path: Path | None = value
    return path
