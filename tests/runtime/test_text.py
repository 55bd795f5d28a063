"""Text from outside, as it is shown."""

from __future__ import annotations

from orchestratord.runtime.text import printable


def test_what_is_no_character_is_shown_as_such() -> None:
    """Nor may a text turn the order of those around it."""
    assert printable("a\x00b\x1bc\u202ed\ud800e") == "a?b?c?d?e".replace("?", "\N{REPLACEMENT CHARACTER}")
    assert printable("<b>ä 漢</b>") == "<b>ä 漢</b>"
