"""The clients: wrk for as much as a server takes, a paced one for how long an answer takes at a given rate."""

from __future__ import annotations

import re
import selectors
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.http11 import Connection
from tests.benchmarks.machine import CLIENT
from tests.benchmarks.servers import HERE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.benchmarks.servers import Server

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_MOST_ERRORS = 0.001


class LoadError(Exception):
    """A load whose figures would mean nothing: a server refused some of it."""


@dataclass(frozen=True)
class Load:
    """What a server took."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float


def wrk(server: Server, requests: Path, *, connections: int, seconds: float, first: int = 0) -> Load:
    """Send the requests of a file, from the `first`, over so many connections as fast as they are answered.

    Raises LoadError if an answer is not a 2xx, or connections fail.
    """
    # wrk takes whole seconds only; a kept duration below one would be read as "for ever".
    duration = max(1, round(seconds))
    core = ["taskset", "-c", ",".join(map(str, sorted(CLIENT)))]
    options = ["-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "60s", "--latency"]
    command = [*core, "wrk", *options, "-s", str(HERE / "replay.lua"), f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(
        [*command, "--", str(requests), str(first)], capture_output=True, text=True, timeout=duration + 60, check=False
    )
    server.check()
    text = done.stdout
    if done.returncode or "Requests/sec" not in text:
        raise LoadError(f"wrk failed on {server.name}: {text}{done.stderr}")
    if "Non-2xx" in text:
        raise LoadError(f"{server.name} did not answer all with 2xx: {text}")
    count = int(_found(r"(\d+) requests in", text))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if not count or (errors and sum(map(int, errors.groups())) > _MOST_ERRORS * count):
        raise LoadError(f"{server.name} broke connections: {text}")
    return Load(
        count, float(_found(r"Requests/sec: +([\d.]+)", text)), _percentile("50", text), _percentile("99", text)
    )


def _percentile(which: str, text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", _found(rf"{which}% +(\S+)", text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise LoadError(f"wrk's output has no {pattern!r}: {text}")
    return match[1]


@dataclass(frozen=True)
class Timed:
    """One answer of the paced client: when the request was due (`time.monotonic`), and how long it took from then."""

    due: float
    milliseconds: float


def paced(
    port: int, requests: Sequence[bytes], *, per_second: float, seconds: float, connections: int = 2
) -> list[Timed]:
    """Send requests in turn at an even pace over kept connections.

    A request's time runs from when it was due, so that one that had to wait for its turn while the server was busy
    counts with its wait. Raises HttpError if an answer is not a 2xx.
    """
    opened = [Connection(port) for _ in range(connections)]
    idle = deque(opened)
    in_flight: dict[Connection, float] = {}
    timed: list[Timed] = []
    with selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.monotonic()
        total = int(per_second * seconds)
        for number in range(total):
            due = began + number / per_second
            while not idle or time.monotonic() < due:
                wait = due - time.monotonic() if idle else None
                for key, _ in selector.select(None if wait is None else max(0.0, wait)):
                    _collect(key.data, in_flight, timed, idle)
            connection = idle.popleft()
            in_flight[connection] = due
            connection.send(requests[number % len(requests)])
        while in_flight:
            for key, _ in selector.select():
                _collect(key.data, in_flight, timed, idle)
    for connection in opened:
        connection.close()
    return timed


def _collect(
    connection: Connection, in_flight: dict[Connection, float], timed: list[Timed], idle: deque[Connection]
) -> None:
    if connection.receive() is not None:
        due = in_flight.pop(connection)
        timed.append(Timed(due, (time.monotonic() - due) * 1000))
        idle.append(connection)
