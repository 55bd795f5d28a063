"""What the clients send: the same nodes and values to everyone, as requests on the wire.

Requests carry the headers that Python's `requests` sends, to ours and to the peers alike; save that queries accept
gzip only where it is said: Prometheus compresses its answers then, which takes it several times what a query does.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

#: The eight families, and how large the values of each are.
FAMILIES = {
    "mem_bytes_allocated": 8_000_000_000,
    "page_faults": 400_000,
    "ctx_switches_graceful": 900_000,
    "ctx_switches_forced": 60_000,
    "fs_read_count": 250_000,
    "fs_read_size_kb": 2_000_000,
    "fs_write_count": 90_000,
    "fs_write_size_kb": 700_000,
}


def node_id(number: int) -> str:
    """Return the name of a node."""
    return f"node-{number:06}"


@cache
def values(number: int) -> tuple[int, ...]:
    """Return the values that a node reports, one for each family."""
    chance = random.Random(number)
    return tuple(int(chance.random() * largest) for largest in FAMILIES.values())


def report(number: int) -> dict[str, object]:
    """Return a node's report."""
    return {"node_id": node_id(number), **dict(zip(FAMILIES, values(number), strict=True))}


def samples(number: int, label: str = "") -> bytes:
    """Return a node's report in the text exposition; `label` is what stands in braces."""
    return "".join(f"{name}{label} {value}\n" for name, value in zip(FAMILIES, values(number), strict=True)).encode()


def reports(count: int, *, close: bool = False, shuffled: bool = False) -> list[bytes]:
    """Return a report of each node; `close` asks for the connection to be closed with the answer."""
    numbers = list(range(count))
    if shuffled:
        random.Random(0).shuffle(numbers)
    return [report_of(number, close=close) for number in numbers]


def report_of(number: int, *, close: bool = False) -> bytes:
    """Return one node's."""
    return post("/update_metrics", json.dumps(report(number)).encode(), close=close)


def batches(count: int, size: int = 100) -> list[bytes]:
    """Return the same in arrays of `size` reports."""
    return [
        post("/update_metrics", json.dumps([report(number) for number in range(first, first + size)]).encode())
        for first in range(0, count, size)
    ]


def pushes(count: int) -> list[bytes]:
    """Return a push of each node as Pushgateway takes it."""
    return [
        post(f"/metrics/job/profiler/instance/{node_id(number)}", typed(number), kind="text/plain")
        for number in range(count)
    ]


def typed(number: int) -> bytes:
    """Return a node's report as Pushgateway's clients send it, with the type of each family."""
    lines = zip(FAMILIES, values(number), strict=True)
    return "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in lines).encode()


def imports(count: int) -> list[bytes]:
    """Return a report of each node as VictoriaMetrics takes it."""
    return [
        post("/api/v1/import/prometheus", samples(number, f'{{node_id="{node_id(number)}"}}'), kind="text/plain")
        for number in range(count)
    ]


def queries(count: int, path: str, *, gzip: bool = False) -> list[bytes]:
    """Return one query for each node and family, in a mixed order; `path` ends with the parameter's name and `=`."""
    texts = [f'{name}{{node_id="{node_id(number)}"}}' for number in range(count) for name in FAMILIES]
    random.Random(0).shuffle(texts)
    return [get(path + quote(text), gzip=gzip) for text in texts]


def ranked(count: int, names: int, path: str) -> list[bytes]:
    """Return `count` queries of one family for `names` nodes each, as schedulers send them; 0 names: for all nodes."""
    chance = random.Random(0)
    family = next(iter(FAMILIES))
    texts = []
    for _ in range(count):
        nodes = "|".join(node_id(chance.randrange(5_000)) for _ in range(names))
        texts.append(f'{family}{{node_id=~"{nodes}"}}' if names else family)
    return [get(path + quote(text)) for text in texts]


def post(path: str, body: bytes, *, kind: str = "application/json", close: bool = False) -> bytes:
    """Return a POST."""
    return _head("POST", path, close=close) + (
        f"Accept-Encoding: gzip, deflate\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    )


def get(path: str, *, gzip: bool = False) -> bytes:
    """Return a GET."""
    return _head("GET", path, close=False) + (b"Accept-Encoding: gzip, deflate\r\n\r\n" if gzip else b"\r\n")


def authorized(requests: Iterable[bytes], token: str) -> list[bytes]:
    """Return the same requests with a bearer token, which stands where Python's `requests` puts it: last."""
    line = f"\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    return [request.replace(b"\r\n\r\n", line, 1) for request in requests]


def write(requests: Sequence[bytes], path: Path) -> Path:
    """Write requests to a file as replay.lua reads it; return its path."""
    path.write_bytes(b"".join(_framed(requests)))
    return path


def _framed(requests: Sequence[bytes]) -> Iterator[bytes]:
    for request in requests:
        yield b"%d\n" % len(request)
        yield request


def _head(method: str, path: str, *, close: bool) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: python-requests/2.32.3\r\n"
        f"Accept: */*\r\nConnection: {'close' if close else 'keep-alive'}\r\n"
    ).encode()
