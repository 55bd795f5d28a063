"""How long a server asks to be left alone: the header Retry-After. Pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest wait that is believed, in seconds.
MAX_RETRY_AFTER = 300.0


def retry_after(values: Sequence[bytes] | None, now: float) -> float | None:
    """Return the seconds that the first of a response's values of Retry-After asks for, from 0 to MAX_RETRY_AFTER.

    None if there is no valid one. `now` is the Unix time, for a Retry-After that is a date.
    """
    value = (values or [b""])[0].decode("latin-1").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
        # The oldest of the three formats of HTTP's dates names no time zone.
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)
