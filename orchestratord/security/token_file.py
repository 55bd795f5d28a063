"""The format of a token file: one bearer token a line. Pure; reads no file."""

from __future__ import annotations

import re

#: Characters of a token: enough that it cannot be guessed, and as many as a JWT needs.
MIN_TOKEN, MAX_TOKEN = 16, 8192
#: Tokens of a file. Each is compared with every token that a client sends.
MAX_TOKENS = 100
#: RFC 6750's b64token.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def parse_tokens(data: bytes) -> tuple[bytes, ...]:
    """Return the tokens of a file in its order: one a line; blank lines and `#` comments are skipped.

    Raises ValueError, whose text quotes nothing of the file.
    """
    tokens: list[bytes] = []
    for number, line in enumerate(data.splitlines(), 1):
        token = line.strip()
        if not token or token.startswith(b"#"):
            continue
        if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise ValueError(f"line {number} is not a token of {MIN_TOKEN} to {MAX_TOKEN} of A-Z a-z 0-9 - . _ ~ + / =")
        tokens.append(token)
    if not tokens:
        raise ValueError("holds no token")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"holds {len(tokens)} tokens, more than {MAX_TOKENS}")
    return tuple(tokens)
