"""What a server's Retry-After asks for. Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

#: The longest wait that is believed, in seconds.
MAX_RETRY_AFTER = 300.0


def seconds_to_wait(value: str, now: float) -> float | None:
    """Return the seconds that a Retry-After asks for, MAX_RETRY_AFTER at most; None if it is not a valid one.

    It is a number of seconds or a date; `now` is the Unix time.
    """
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        wait = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)
