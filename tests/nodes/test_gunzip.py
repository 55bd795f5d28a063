"""gzip bodies: whatever is in them, each step is bounded, and what is made to take long is refused."""

from __future__ import annotations

import gzip
import struct
import zlib

import pytest

from orchestratord.errors import BadReport, BodyTooLarge
from orchestratord.nodes.gunzip import MAX_MEMBERS, SLACK, STEP_IN, STEP_OUT, gunzip, gunzip_in_steps

MEBIBYTE = 1_048_576
REPORT = b'{"node_id":"n1","page_faults":1}'
EMPTY = gzip.compress(b"")
LAST = gzip.compress(REPORT)


def member(deflated: bytes, data: bytes = b"", *, flags: int = 0, fields: bytes = b"") -> bytes:
    """Return a member of this deflate stream; `fields` are what the flags announce."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + fields
    return head + deflated + struct.pack("<II", zlib.crc32(data), len(data))


def deflated(data: bytes) -> bytes:
    """Return a raw deflate stream."""
    return zlib.compress(data, wbits=-15)


def bits(text: str) -> bytes:
    """Return bits as bytes, in deflate's order."""
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text) // 8 * 8, 8))


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        (EMPTY * (MEBIBYTE // len(EMPTY)) + LAST, MAX_MEMBERS),
        (gzip.compress(b" ") * 50_000 + LAST, MAX_MEMBERS),
        (member(deflated(b""), flags=16, fields=b"comment\0") * 30_000 + LAST, MAX_MEMBERS),
        (member(deflated(b""), flags=4, fields=b"\xff\xff" + bytes(65_535)) * 15 + LAST, SLACK // STEP_IN + 1),
        (member(deflated(REPORT), REPORT, flags=8, fields=b"n" * MEBIBYTE + b"\0"), SLACK // STEP_IN + 1),
        (member(b"\0\0\0\xff\xff" * 200_000 + b"\x01\0\0\xff\xff"), SLACK // STEP_IN + 1),
        (member(bits("0100000000" * 800_000) + b"\x03\0"), SLACK // STEP_IN + 1),
    ],
    ids=["empty members", "small members", "comments", "extra fields", "a name", "stored blocks", "fixed blocks"],
)
def test_what_is_made_to_take_long_is_refused(body: bytes, steps: int) -> None:
    """After a few steps, whatever comes behind them."""
    parts: list[bytes] = []
    with pytest.raises(BadReport, match=r"the gzip body (has|is) more than .* - at \$\Z"):
        parts.extend(gunzip_in_steps(body, MEBIBYTE))
    assert len(parts) <= steps


def test_each_step_gives_a_bounded_part() -> None:
    """Of what unpacks to a thousand times its size, and of what does not get shorter at all."""
    for data in (b" " * MEBIBYTE, bytes(range(256)) * 4096):
        parts = list(gunzip_in_steps(gzip.compress(data), MEBIBYTE))
        assert b"".join(parts) == data
        assert max(map(len, parts)) <= STEP_OUT
    stored = gzip.compress(data, 0)
    parts = list(gunzip_in_steps(stored, MEBIBYTE))
    assert max(map(len, parts)) <= STEP_IN
    assert len(stored) // STEP_IN <= len(parts) <= len(stored) // STEP_IN + 2


def test_the_limit_is_met_before_the_rest_is_looked_at() -> None:
    """A bomb is one step more than its limit."""
    bomb = gzip.compress(bytes(100 * MEBIBYTE))
    steps = gunzip_in_steps(bomb, STEP_OUT)
    assert len(next(steps)) == STEP_OUT
    with pytest.raises(BodyTooLarge, match="over the limit of 262144 bytes"):
        next(steps)


def test_what_honest_clients_send() -> None:
    """Members one after the other, as bgzip writes them, a name and a comment, and flushes after every report."""
    text = b"[" + b",".join(b'{"node_id":"n%d"}' % number for number in range(50_000)) + b"]"
    blocks = [text[at : at + 65_280] for at in range(0, len(text), 65_280)]
    assert gunzip(b"".join(map(gzip.compress, blocks)) + EMPTY, len(text)) == text
    assert gunzip(member(deflated(REPORT), REPORT, flags=24, fields=b"report.json\0of n1\0"), 100) == REPORT
    flushing = zlib.compressobj(wbits=31)
    packed = b"".join(
        flushing.compress(text[at : at + 200]) + flushing.flush(zlib.Z_FULL_FLUSH) for at in range(0, len(text), 200)
    )
    assert gunzip(packed + flushing.flush(), len(text)) == text
    assert gunzip(EMPTY * MAX_MEMBERS, 0) == b""
    assert gunzip(b"", 100) == b""


def test_what_ends_early_or_goes_on() -> None:
    """It is named, wherever it is cut."""
    for cut in range(1, len(LAST)):
        with pytest.raises(BadReport, match="the gzip body ends early"):
            gunzip(LAST[:cut], 100)
    with pytest.raises(BadReport, match="not valid gzip"):
        gunzip(LAST + b"more", 100)


def test_gunzip_unpacks_every_member() -> None:
    """As gzip files may be: several members, one after the other."""
    assert gunzip(gzip.compress(b"one") + gzip.compress(b"two"), 100) == b"onetwo"
    assert gunzip(b"", 100) == b""


def test_gunzip_never_unpacks_more_than_the_limit() -> None:
    """Exactly the limit passes; a bomb does not, nor one in many members."""
    assert gunzip(gzip.compress(b"x" * 100), 100) == b"x" * 100
    for bomb in (gzip.compress(b"\0" * 10_000_000), gzip.compress(b"x" * 60) * 2):
        with pytest.raises(BodyTooLarge, match="over the limit of 100 bytes"):
            gunzip(bomb, 100)


@pytest.mark.parametrize(
    "data",
    [b"plain", gzip.compress(b"x" * 50, mtime=0)[:-9], gzip.compress(b"x", mtime=0)[:-8] + b"\0" * 8],
    ids=["plain", "cut", "checksum"],
)
def test_gunzip_names_what_is_no_gzip(data: bytes) -> None:
    """Plain text, a member that ends early, a wrong checksum."""
    with pytest.raises(BadReport, match=r"gzip.* - at \$"):
        gunzip(data, 100)
