"""The Authorization header from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from twisted.internet.task import Clock

from orchestratord.http_client.credentials import MAX_LINE, basic, bearer
from orchestratord.runtime.file_reload import LOOK_SECONDS, FilesError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_token_rotates(tmp_path: Path) -> None:
    """The header's value follows the file; the line feed does not belong to the value."""
    file, clock = tmp_path / "token", Clock()
    file.write_text("one.a-b_c~d+e/f==\n")
    value = bearer(clock.seconds, "prometheus_http.credentials_file", file)
    assert value() == "Bearer one.a-b_c~d+e/f=="
    file.write_text("another")
    clock.advance(LOOK_SECONDS)
    assert value() == "Bearer another"


def test_user_and_password(tmp_path: Path) -> None:
    """As RFC 7617 has it, in UTF-8; a password may hold a colon and blanks."""
    file = tmp_path / "file"
    file.write_text("Aladdin:open sesame\n")
    assert basic(Clock().seconds, "--x", file)() == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    file.write_text("u:p:ä")
    assert basic(Clock().seconds, "--x", file)() == "Basic dTpwOsOk"


@pytest.mark.parametrize("kind", [bearer, basic])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"secret with blanks",
        b"u:secret\nu:secret",
        b"\xffsecret",
        b"secret\x00:x",
        b"secret:x" + b"x" * MAX_LINE,
    ],
)
def test_a_file_that_holds_none(kind: Callable[..., object], content: bytes, tmp_path: Path) -> None:
    """One line that names option and file, and tells nothing of what is in it."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(FilesError, match=rf"^--prometheus-x: '{file}' ") as raised:
        kind(Clock().seconds, "--prometheus-x", file)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
