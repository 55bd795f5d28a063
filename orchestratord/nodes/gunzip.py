"""Decompresses gzip bodies in steps of bounded work, for any content. Pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from orchestratord.errors import BadReport, BodyTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The most bytes that one step reads and returns: about a millisecond for the worst input, which is thousands of tiny
#: blocks, each with its own Huffman table.
STEP_IN, STEP_OUT = 8192, 262_144
#: The most members of a body; each costs as much time as 1 kB of text. `bgzip` makes one member of 64 kB.
MAX_MEMBERS = 64
#: The most bytes by which a body may be longer than its content so far: names and comments in headers. Any other body
#: that is longer than its content is made to cost time.
SLACK = 65_536


def gunzip_in_steps(body: bytes, limit: int) -> Iterator[bytes]:
    """Yield the parts of a gzip body's content, at most `limit` bytes in all, each in about a millisecond.

    No part is valid until the iterator has ended without an exception.

    Raises BodyTooLarge over the limit, BadReport if it is not gzip, ends early, or is made to take long.
    """
    if not body:
        return
    given = 0
    members = 1
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    pending = body[:STEP_IN]
    taken = len(pending)
    while True:
        try:
            part = member.decompress(pending, min(limit - given + 1, STEP_OUT))
        except zlib.error as error:
            raise BadReport(f"the body is not valid gzip ({error}) - at $") from None
        given += len(part)
        if given > limit:
            raise BodyTooLarge(f"the unpacked body is over the limit of {limit} bytes")
        rest = member.unused_data if member.eof else member.unconsumed_tail
        if taken - len(rest) > given + SLACK:
            raise BadReport(f"the gzip body is more than {SLACK} bytes longer than what is in it - at $")
        yield part
        if member.eof:
            if not rest and taken == len(body):
                return
            members += 1
            if members > MAX_MEMBERS:
                raise BadReport(f"the gzip body has more than {MAX_MEMBERS} members - at $")
            member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        elif not part and not rest and taken == len(body):
            raise BadReport("the gzip body ends early - at $")
        more = body[taken : taken + STEP_IN - len(rest)]
        taken += len(more)
        pending = rest + more


def gunzip(body: bytes, limit: int) -> bytes:
    """Return the content of a gzip body; raises what `gunzip_in_steps` raises."""
    return b"".join(gunzip_in_steps(body, limit))
