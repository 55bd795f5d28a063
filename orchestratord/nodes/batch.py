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
#: The most commas in an array that is split in one step, because it is not of the usual form: 4 ms.
MAX_COMMAS = 65_536
#: Places that are tried as the end of a window: a `}` may also be inside a report.
_TRIES = 4
_COMMA = re.compile(rb"[ \t\r\n]{0,100},")

_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode


def split(body: bytes, most: int, window: int = WINDOW) -> Iterator[list[msgspec.Raw]]:
    """Yield the undecoded items of an array, one window of `window` bytes at a time.

    An array of flat objects is split window by window, any other array in one step.

    Raises the decoding errors of msgspec and Python if the body is not JSON, BodyTooLarge if there are more than `most`
    items, BadReport if splitting would take too long.
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
    # The whole body is decoded again so that an error names its place in it. After a comma there must be an item.
    yield _rest(items or _whole(body)[found:], found, most)


def _window(body: bytes, at: int, window: int) -> tuple[list[msgspec.Raw], int]:
    """Return the items from `at`, inside the array, and where the next item begins; no items if that fails."""
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
        raise BadReport(f"the batch is not an array of flat reports, and has more than {MAX_COMMAS} commas - at $")
    return _decode(body)


def _rest(items: list[msgspec.Raw], found: int, most: int) -> list[msgspec.Raw]:
    if found + len(items) > most:
        raise BodyTooLarge(f"the batch has more reports than the limit of {most}")
    return items
