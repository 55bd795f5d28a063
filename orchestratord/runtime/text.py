"""Text from outside, made safe to show. Pure."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Return a text in which control, format, surrogate and unassigned characters are replaced by U+FFFD.

    Format characters include those that reverse the order of the text around them.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Cn"} else c for c in text
    )
