"""Orchestrators side by side before real stores: the short form of `make soak-scale`, and what the stores show it."""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING

import pytest

from orchestratord.remote_write.codec import HEADERS, Encoder
from orchestratord.remote_write.sample_row import STALE, SampleRow
from tests.benchmarks import payloads
from tests.benchmarks.servers import Servers
from tests.integration.daemon import ROOT, Server, until
from tests.scale.book import NAMES, Book, Breach, Entry, Findings
from tests.scale.stores import STORES, Store
from tests.soak.client import once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

#: Seconds; it takes half a minute.
SOAK_PATIENCE = 180.0
NODE = 7
ID = payloads.node_id(NODE)


@pytest.fixture
def scale(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Give a function that starts a short run before a store."""
    started: list[Server] = []

    def start(store: str) -> Server:
        command = (sys.executable, "-m", "tests.scale", "--short", "--seed", "4", "--store", store)
        started.append(Server(command, tmp_path, {"PYTHONPATH": str(ROOT)}))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.close()


@pytest.mark.parametrize("store", STORES)
def test_side_by_side(scale: Callable[[str], Server], store: str) -> None:
    """Replicas and the store go and come back: all that was answered 200 is there, once, and what ended is gone."""
    run = scale(store)
    code = run.wait(SOAK_PATIENCE)
    assert code == 0, run.output()
    assert "| promises kept | all |" in run.output()
    assert "| lost | **0** |" in run.output()
    assert run.members() == {}


def test_interrupted(scale: Callable[[str], Server]) -> None:
    """Ctrl-C ends it, and all servers that it has started."""
    run = scale("prometheus")
    until(lambda: "haproxy" in run.members().values(), "the servers")
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    run.gone()


def written(*rows: SampleRow, **labels: str) -> bytes:
    """Return a request that writes these rows."""
    body = Encoder(NAMES, tuple(labels.items())).encode(rows).body
    request = payloads.post("/api/v1/write", body, close=True)
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS if name != "Content-Type")
    return request.replace(b"application/json\r\n", f"application/x-protobuf\r\n{lines}".encode(), 1)


def row(entry: Entry) -> SampleRow:
    """Return a report's row."""
    samples = entry.samples()
    return SampleRow(ID.encode(), entry.at, struct.pack(f"<{len(NAMES)}d", *(samples[name] for name in NAMES)))


@pytest.mark.parametrize("name", STORES)
def test_what_a_store_has_is_seen(tmp_path: Path, name: str) -> None:
    """Each sample with its time and value, a second series, a missing report, and where a series had ended."""
    with Servers(tmp_path) as servers:
        asyncio.run(look(STORES[name](servers)))


async def look(store: Store) -> None:
    """Write by hand what is right, and then what is wrong, and compare."""
    await store.start()
    now = time.time()
    book = Book()
    entries = [book.sent(NODE, 0, round(now * 1000) - 20_000 + 2000 * number) for number in range(5)]
    for entry in entries:
        entry.answered = entry.left = 0.1

    async def write(*rows: SampleRow, **labels: str) -> None:
        answer = await once(store.port, written(*rows, **labels), 10)
        assert answer.status in {200, 204}, answer

    async def found() -> Findings:
        await store.hurry()
        findings = Findings(lambda *_: None, store.rounding)
        book.compare(await store.samples(now - 60), findings)
        book.compare_series(await store.series(now - 60, now + 60), {"cluster": "soak"}, findings)
        book.compare_ends(await store.ends(now - 60, 0.2), 10, findings)
        return findings

    async def becomes(check: Callable[[Findings], bool]) -> None:
        deadline = time.monotonic() + 10
        while not check(await found()):
            assert time.monotonic() < deadline, await found()
            await asyncio.sleep(0.1)

    await write(*(row(entry) for entry in entries[:3]), cluster="soak")
    await becomes(lambda findings: (findings.found, findings.lost) == (3, 2))
    assert set((await found()).counts) == {Breach.LOST}
    # A report that comes late, and one that comes twice.
    await write(row(entries[4]), cluster="soak")
    await write(*map(row, entries[2:]), cluster="soak")
    await becomes(lambda findings: findings.found == 5)
    assert (await found()).counts == {}
    # The end of the node, after the last report, and then wrongly between two of them.
    await write(SampleRow(ID.encode(), entries[4].at + 1, STALE * len(NAMES)), cluster="soak")
    assert (await found()).counts == {}
    await write(SampleRow(ID.encode(), entries[1].at + 300, STALE * len(NAMES)), cluster="soak")
    await becomes(lambda findings: set(findings.counts) == {Breach.ENDED})
    await write(row(entries[0]), cluster="soak", replica="a")
    await becomes(lambda findings: {Breach.LABELS, Breach.SERIES} <= set(findings.counts))
    assert await store.stop() == 0
