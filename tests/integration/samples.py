"""Samples written into a store by remote write 1.0, encoded by hand: nothing here is owed to our own encoder."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import requests

from tests.integration.daemon import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
#: Bytes of one literal of snappy's block format.
_LITERAL = 65_536


class Sample(NamedTuple):
    """One sample; the time is in Unix seconds."""

    labels: Mapping[str, str]
    value: float | bytes
    at: float


def write(url: str, samples: Iterable[Sample]) -> None:
    """Post the samples, each as a series of its own; raises what requests raises if they are not taken."""
    body = b"".join(_field(1, _series(sample)) for sample in samples)
    requests.post(url, data=_snappy(body), headers=_HEADERS, timeout=PATIENCE).raise_for_status()


def _series(sample: Sample) -> bytes:
    labels = (_field(1, name.encode()) + _field(2, text.encode()) for name, text in sorted(sample.labels.items()))
    value = sample.value if isinstance(sample.value, bytes) else struct.pack("<d", sample.value)
    point = b"\x09" + value + b"\x10" + _varint(round(sample.at * 1000))
    return b"".join(_field(1, label) for label in labels) + _field(2, point)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _snappy(data: bytes) -> bytes:
    """Return snappy's block format of the data, all of it literal."""
    parts = [data[at : at + _LITERAL] for at in range(0, len(data), _LITERAL)]
    return _varint(len(data)) + b"".join(b"\xf4" + struct.pack("<H", len(part) - 1) + part for part in parts)
