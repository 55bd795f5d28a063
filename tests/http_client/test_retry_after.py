"""How long a server asks to be left alone."""

from __future__ import annotations

import pytest

from orchestratord.http_client.retry_after import MAX_RETRY_AFTER, retry_after

#: 20 s before the dates below.
NOW = 784111757.0


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["7"], 7.0),
        ([" 0 "], 0.0),
        (["86400"], MAX_RETRY_AFTER),
        (["Sun, 06 Nov 1994 08:49:37 GMT"], 20.0),
        (["Sunday, 06-Nov-94 08:49:37 GMT"], 20.0),
        (["Sun Nov  6 08:49:37 1994"], 20.0),
        (["Sun, 06 Nov 1994 08:00:00 GMT"], 0.0),
        (["7", "9"], 7.0),
        ([""], None),
        (["-1"], None),
        (["1.5"], None),
        (["soon"], None),
        (["99999999999"], None),
        ([], None),
    ],
)
def test_a_wait(values: list[str], seconds: float | None) -> None:
    """Seconds, or a date in one of HTTP's three formats; bounded; anything else is no wait."""
    assert retry_after([value.encode() for value in values], NOW) == seconds
