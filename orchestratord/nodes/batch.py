"""The JSON array of a batch, split into its reports in steps of bounded work. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from orchestratord.errors import BadReport, BodyTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes that one step splits: some 200 reports.
WINDOW = 49_152
#: Commas in an array that is split in one step, since it is not of the usual shape: 4 ms.
MAX_COMMAS = 65_536
#: Places that are tried for the end of a window: a `}` may be within a report, too.
_TRIES = 4
_COMMA = re.compile(rb"[ \t\r\n]{0,100},")

_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode


def split(body: bytes, most: int, window: int = WINDOW) -> Iterator[list[msgspec.Raw]]:
    """Yield the items of an array, as they are, a window of them at a time; there are `most` at the most.

    `window` is in bytes. An array of objects without further objects in them is split window by window; any other in
    one step.

    Raises msgspec's and Python's errors of decoding where it is no JSON, BodyTooLarge if there are more, BadReport if
    it would take too long to tell.
    """
    found = 0
    at = body.index(b"[") + 1
    while len(body) - at > window:
        items, after = _window(body, at, window)
        if not items:
            yield _rest(_whole(body)[found:], found, most)
            return
        yield _rest(items, found, most)
        found += len(items)
        at = after
    try:
        items = _decode(b"[" + body[at:] if found else body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items = []
    # Where it is wrong, the error tells the place in the whole body; and after a comma there is an item.
    yield _rest(items or _whole(body)[found:], found, most)


def _window(body: bytes, at: int, window: int) -> tuple[list[msgspec.Raw], int]:
    """Return the items that begin at `at`, which is within the array, and where the next one begins; or nothing."""
    end = at + window
    for _ in range(_TRIES):
        end = body.rfind(b"}", at, end)
        if end < 0:
            break
        comma = _COMMA.match(body, end + 1)
        if comma is None:
            continue
        try:
            return _decode(b"[" + body[at : end + 1] + b"]"), comma.end()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return [], at


def _whole(body: bytes) -> list[msgspec.Raw]:
    if body.count(b",") > MAX_COMMAS:
        raise BadReport(f"the batch is no array of flat reports, and has more than {MAX_COMMAS} commas - at $")
    return _decode(body)


def _rest(items: list[msgspec.Raw], found: int, most: int) -> list[msgspec.Raw]:
    if found + len(items) > most:
        raise BodyTooLarge(f"the batch has more reports than the limit of {most}")
    return items
