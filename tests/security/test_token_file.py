"""The format of a token file."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.security.token_file import MAX_TOKEN, MAX_TOKENS, parse_tokens


class TestParseTokens:
    """parse_tokens: a token file."""

    def test_lines(self) -> None:
        """One token a line; blanks around it, blank lines and comments do not count."""
        data = b"# new\r\n  abcdefghijklmnop  \n\n#old\nABC-._~+/0123456789==\n"
        assert parse_tokens(data) == (b"abcdefghijklmnop", b"ABC-._~+/0123456789==")

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "holds no token"),
            (b"\n# only this\n", "holds no token"),
            (b"a-good-token-0123\nshort\n", "line 2 is not a token"),
            (b"two words in a line", "line 1 is not a token"),
            ("schlüssel-schlüssel".encode(), "line 1 is not a token"),
            (b"=0123456789abcdef", "line 1 is not a token"),
            (b"x" * (MAX_TOKEN + 1), "line 1 is not a token"),
            (b"\x00" * 20, "line 1 is not a token"),
            (b"".join(b"token-%016d\n" % number for number in range(MAX_TOKENS + 1)), "more than 100"),
        ],
    )
    def test_what_is_no_token_file(self, data: bytes, said: str) -> None:
        """The text says what and where, and nothing of what is in the file."""
        with pytest.raises(ValueError, match=said) as raised:
            parse_tokens(data)
        assert not any(word.decode("latin-1") in str(raised.value) for word in data.split() if len(word) > 4)

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Whatever a file holds is tokens or a ValueError."""
        with suppress(ValueError):
            assert all(16 <= len(token) <= MAX_TOKEN for token in parse_tokens(data))
