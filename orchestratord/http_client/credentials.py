"""Credentials for upstreams: the value of an Authorization header, from a file that is reloaded when it changes."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from orchestratord.runtime.file_reload import Reloaded, WrongFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Characters of the longest line that is accepted; Kubernetes' tokens have about 1,500.
MAX_LINE = 16_384


def bearer(seconds: Callable[[], float], option: str, path: Path) -> Callable[[], str]:
    """Return a function that returns the header's value for the token in a file; `seconds` is a monotonic clock.

    Raises FilesError if the file is wrong now; its text names the option and the file, and never has the token.
    """

    def parse(contents: Mapping[str, bytes]) -> str:
        line = _line(option, contents[option])
        if not re.fullmatch(r"[!-~]+", line):
            raise WrongFile(option, "holds no token: one line of printable ASCII without blanks")
        return f"Bearer {line}"

    return Reloaded(seconds, {option: path}, parse).value


def basic(seconds: Callable[[], float], option: str, path: Path) -> Callable[[], str]:
    """Return a function that returns the header's value for the `user:password` in a file; otherwise as `bearer`."""

    def parse(contents: Mapping[str, bytes]) -> str:
        line = _line(option, contents[option])
        if not re.fullmatch(r"[^:]+:.*", line) or not line.isprintable():
            raise WrongFile(option, "holds no user:password in one line")
        return "Basic " + base64.b64encode(line.encode()).decode()

    return Reloaded(seconds, {option: path}, parse).value


def _line(option: str, content: bytes) -> str:
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise WrongFile(option, "is not UTF-8") from None
    if "\n" in text or len(text) > MAX_LINE:
        raise WrongFile(option, f"must hold one line of {MAX_LINE} characters at most")
    return text
