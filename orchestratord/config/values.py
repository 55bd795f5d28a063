"""The values of settings: each function checks what the user gave and returns what Settings holds. Pure.

Each raises ValueError with what the value must be, such as "must be true or false".
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from twisted.internet.endpoints import serverFromString

from orchestratord.http_client.urls import WrongUrl, http_url
from orchestratord.security.gate import Role
from orchestratord.security.tls import TLS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

#: Whether the nodes' families are in `/metrics`; auto: yes, except with remote write.
Expose = Literal["auto", "always", "never"]

#: The value of `--prometheus` that has the daemon start a Prometheus of its own.
EMBEDDED = "embedded"

#: Most characters of an external label's name, and of its value.
MAX_LABEL = 200


def seconds(low: float, high: float) -> Callable[[Any], float]:
    """Return a check for a number of seconds within bounds."""

    def check(value: Any) -> float:
        number = _number(value)
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return number

    return check


def off_or_seconds(low: float, high: float) -> Callable[[Any], float]:
    """Return a check for a number of seconds within bounds, or 0."""

    def check(value: Any) -> float:
        number = _number(value)
        if number is None or not (number == 0 or low <= number <= high):
            raise ValueError(f"must be 0, or a number of seconds from {low:g} to {high:g}")
        return number

    return check


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a check for a whole number within bounds."""

    def check(value: Any) -> int:
        number = _number(value)
        if number is None or number != int(number) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(number)

    return check


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def switch(value: Any) -> bool:
    """Check a switch: a bool, or a word such as `yes` or `off`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value.lower() in {"1", "true", "yes", "on"}:
            return True
        if value.lower() in {"0", "false", "no", "off"}:
            return False
    raise ValueError("must be true or false")


def some_text(value: Any) -> str:
    """Check a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def endpoint(value: Any) -> str:
    """Check an endpoint description by making the endpoint, which opens nothing."""
    text = some_text(value)
    inner = text.removeprefix(TLS_PREFIX)
    if inner != text and inner.startswith("ssl:"):
        raise ValueError("must not ask for TLS twice")
    try:
        serverFromString(None, inner)
    except Exception as error:  # noqa: BLE001 - a parser may come from any plugin, and raise anything
        raise ValueError(f"must be a Twisted endpoint description such as tcp:5000 ({error})") from None
    return text


def base_url(value: Any) -> str:
    """Check the base URL of a Prometheus, or the word for an embedded one."""
    text = some_text(value)
    if text == EMBEDDED:
        return text
    try:
        url = http_url(text)
    except WrongUrl as error:
        raise ValueError(f"{error}; it is the base URL of a Prometheus, or {EMBEDDED!r}") from None
    if "?" in text:
        raise ValueError("must be a base URL, without a query")
    return url.geturl().rstrip("/")


def remote_write_url(value: Any) -> str:
    """Check the URL of a remote-write receiver."""
    url = http_url(some_text(value))
    if not url.path.strip("/"):
        raise ValueError("must have the path of a remote-write receiver, as in http://prometheus:9090/api/v1/write")
    return url.geturl()


def label(value: Any) -> tuple[str, str]:
    """Check a label of every delivered series; return its name and value."""
    name, equals, text = some_text(value).partition("=")
    if not equals or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or not text.isprintable() or not text:
        raise ValueError("must be name=value, such as cluster=blue: a name of letters, digits and _, and a value")
    if name == "node_id":
        raise ValueError("must not be node_id, which every series already has")
    if name.startswith("__"):
        raise ValueError("must have a name that does not begin with __: such names are reserved for the store")
    if len(name) > MAX_LABEL or len(text) > MAX_LABEL:
        raise ValueError(f"must not be longer than {MAX_LABEL} characters")
    return name, text


def header(value: Any) -> tuple[str, str]:
    """Check a header of outbound requests; return its name and value."""
    match = re.fullmatch(
        r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)[ \t]*", str(value)
    )
    if not match:
        raise ValueError("must be 'Name: value' in printable ASCII")
    if match[1].lower() in {"host", "content-length", "transfer-encoding", "connection", "content-type"}:
        raise ValueError(f"must not be {match[1]}, which the HTTP client sets itself")
    return match[1], match[2]


def retention(value: Any) -> str:
    """Check how long the embedded Prometheus keeps its data."""
    text = some_text(value)
    if not re.fullmatch(r"[1-9]\d{0,5}(h|d|w|y)", text):
        raise ValueError("must be a duration such as 24h or 15d")
    return text


def one_of(words: Any) -> Callable[[Any], Any]:
    """Return a check that a value is one of a Literal's."""

    def check(value: Any) -> Any:
        if value not in get_args(words):
            raise ValueError(f"must be one of {', '.join(get_args(words))}")
        return value

    return check


def file_path(value: Any) -> Path:
    """Check a path; `~` is the home directory."""
    return Path(some_text(value)).expanduser()


def token_file(value: Any) -> tuple[Role, Path]:
    """Check ROLE=PATH: a role and the file of its tokens."""
    role, _, path = some_text(value).partition("=")
    if role not in set(Role) or not path.strip():
        raise ValueError(f"must be ROLE=PATH, with one of the roles {', '.join(Role)}")
    return Role(role), file_path(path)


def key_set(value: Any) -> str:
    """Check where a key set is: a path, or a URL whose server is known: https, or on this machine."""
    text = some_text(value)
    if "://" not in text:
        return str(file_path(text))
    try:
        url = http_url(text)
    except WrongUrl as error:
        raise ValueError(f"{error}; it is a file, or an https URL") from None
    on_this_machine = url.hostname in {"127.0.0.1", "::1", "localhost"}
    if not (url.scheme == "https" or on_this_machine):
        raise ValueError("must be a file, or an https URL: over http, anybody on the network could replace the keys")
    return url.geturl()
