"""Floods of every kind against the real daemon: its memory stays within bounds, and others are served meanwhile."""

from __future__ import annotations

import gzip
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import PATIENCE, Daemon, Wire, full_report, head, pause, report, until
from tests.integration.upstream import Exchange, FakeUpstream, HeldUpstream

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration

MEGABYTE = 1_000_000
#: In kB. What Python and the C library keep for themselves, generously.
SOME = 60_000


class Watch:
    """How much more memory a daemon had in use than when this was made, at the most, in kB."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        daemon.post(report("warm")).raise_for_status()
        daemon.get("/metrics")
        self._before = daemon.peak_memory()

    def grown(self, *, served: bool = True) -> int:
        """Return by how much it has grown; the daemon serves others, new nodes too, or this fails."""
        assert self._daemon.post(report("meanwhile")).status_code == 200 or not served
        assert self._daemon.get("/-/healthy").status_code == 200
        return self._daemon.peak_memory() - self._before


def send_what_goes(wire: Wire, data: bytes) -> bool:
    """Send as much as the daemon takes for now; return whether it still takes anything at all."""
    wire.socket.setblocking(False)
    try:
        wire.socket.send(data)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        wire.socket.settimeout(PATIENCE)
    return True


def status(wire: Wire) -> int | None:
    """Return the status of an answer; None if the connection was ended instead."""
    with suppress(AssertionError, OSError):
        return wire.answer().status
    return None


def test_new_nodes(start: Callable[..., Daemon]) -> None:
    """A hundred times as many names as the table takes: 429, and the nodes in it are served."""
    daemon = start("--max-nodes", "1000")
    daemon.post([full_report(f"known-{number}") for number in range(990)]).raise_for_status()
    watch = Watch(daemon)
    for flood in range(100):
        names = [full_report(f"flood-{flood}-{number}") for number in range(1000)]
        assert daemon.post(names).status_code == 429
    with daemon.wire() as wire:
        for flood in range(5000):
            wire.request("POST", "/update_metrics", body=json.dumps(report(f"single-{flood}")).encode())
            assert wire.answer().status in {200, 429}
    assert len(daemon.nodes()) == 1000
    assert daemon.post(full_report("known-0", 7)).status_code == 200
    assert watch.grown(served=False) < SOME


def test_huge_bodies(start: Callable[..., Daemon]) -> None:
    """Those that say so are refused unread; those that stay just under the limit, and never end, share one bound."""
    daemon = start("--max-report-bytes", str(MEGABYTE), "--limits.max_arriving_bytes", str(20 * MEGABYTE))
    watch = Watch(daemon)
    with ExitStack() as stack:
        # Of those that do not say, a daemon that is kept from its work finds so many at once that they have no room.
        for length, refusals in (
            ("Content-Length: 1000000000", {413, None}),
            ("Transfer-Encoding: chunked", {413, 503, None}),
        ):
            wires = [stack.enter_context(daemon.wire()) for _ in range(100)]
            for wire in wires:
                wire.send(head("POST", "/update_metrics", length))
                chunk = b"3d0900\r\n" if "chunked" in length else b""
                send_what_goes(wire, chunk + b"x" * (4 * MEGABYTE))
            assert {status(wire) for wire in wires} <= refusals
        unfinished = [stack.enter_context(daemon.wire()) for _ in range(100)]
        for wire in unfinished:
            wire.send(head("POST", "/update_metrics", length=MEGABYTE))
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda wire: send_most(wire, MEGABYTE - 1), unfinished))
        held = daemon.sample("orchestrator_arriving_held_bytes")
        assert held is not None
        assert 10 * MEGABYTE < held <= 20 * MEGABYTE
        assert watch.grown() < SOME + 2 * 20_000
    # Not nothing, for the request that asks is held too.
    until(lambda: (daemon.sample("orchestrator_arriving_held_bytes") or 0) < 10_000, "an end of what was held")


def send_most(wire: Wire, size: int) -> None:
    """Send so many bytes of a body, or fewer if it is refused meanwhile."""
    with suppress(OSError):
        wire.send(b"x" * size)


def test_gzip_bombs(start: Callable[..., Daemon]) -> None:
    """Many at once, of 100 MB each, and batches that unpack to just the limit."""
    bomb = gzip.compress(b" " * 100 * MEGABYTE)
    batch = json.dumps([full_report(f"n{number}") for number in range(4000)]).encode()
    packed = gzip.compress(batch[:-1].ljust(MEGABYTE) + b"]")
    daemon = start("--limits.max_arriving_bytes", str(20 * MEGABYTE))
    watch = Watch(daemon)
    with ThreadPoolExecutor(20) as pool:

        def statuses(body: bytes) -> list[int]:
            posted = [pool.submit(daemon.post_bytes, body, Content_Encoding="gzip") for _ in range(100)]
            return [one.result().status_code for one in posted]

        assert set(statuses(bomb)) == {413}
        batches = statuses(packed)
    assert set(batches) <= {200, 503}
    assert 200 in batches
    assert watch.grown() < SOME + 2 * 20_000


def test_heads_without_end(start: Callable[..., Daemon]) -> None:
    """Hundreds of connections that send headers, and never the end of them."""
    daemon = start("--limits.max_arriving_bytes", str(10 * MEGABYTE))
    watch = Watch(daemon)
    start_of_head = b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(400))
    with ExitStack() as stack:
        wires = [stack.enter_context(daemon.wire()) for _ in range(200)]
        for wire in wires:
            wire.send(start_of_head)
        assert watch.grown() < SOME + 10_000
        held = daemon.sample("orchestrator_arriving_held_bytes")
        assert held is not None
        assert held <= 10 * MEGABYTE


def test_a_thousand_slow_connections(start: Callable[..., Daemon]) -> None:
    """Each sends a byte now and then: all are cut at the deadline, and reports and queries are served meanwhile."""
    daemon = start("--request-timeout", "3")
    watch = Watch(daemon)
    request = head("POST", "/update_metrics", length=1000) + b"x" * 100
    with ExitStack() as stack:
        slow = [stack.enter_context(daemon.wire()) for _ in range(1000)]
        alive, sent = slow, 0
        while alive:
            alive = [wire for wire in alive if still_open(wire) and send_what_goes(wire, request[sent : sent + 1])]
            sent += 1
            assert sent < len(request), f"{len(alive)} are still there"
            assert daemon.post(report("meanwhile")).status_code == 200
            pause(0.3)
        until(lambda: daemon.sample("orchestrator_connections") == 1, "an end of all connections")
    assert watch.grown() < SOME


def still_open(wire: Wire) -> bool:
    """Return whether the daemon has not ended the connection."""
    wire.socket.setblocking(False)
    try:
        return wire.socket.recv(1000, socket.MSG_PEEK) != b"" and False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        wire.socket.settimeout(PATIENCE)


def streams(size: int) -> Callable[[Exchange], None]:
    """Return what answers with so many bytes, as fast as they are taken."""
    piece = b" " * 65_536

    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            exchange.send(piece)
        exchange.send(piece[: size % len(piece)])

    return answer


def test_an_answer_of_300_megabytes(start: Callable[..., Daemon]) -> None:
    """Cut at the limit while it comes: 502."""
    with FakeUpstream(streams(300 * MEGABYTE)) as upstream:
        daemon = start("--prometheus", upstream.url, "--limits.max_answer_bytes", str(20 * MEGABYTE))
        watch = Watch(daemon)
        for _ in range(3):
            answer = daemon.get("/query", {"q": "up"})
            assert (answer.status_code, answer.json()["errorType"]) == (502, "unavailable")
        upstream.until_open(0)
        assert watch.grown() < SOME + 20_000


def test_many_huge_answers_at_once(start: Callable[..., Daemon]) -> None:
    """Each is within the limit, all together are not: some are passed on whole, the others are 503 overloaded."""
    size, budget = 10 * MEGABYTE, 50 * MEGABYTE
    with FakeUpstream(streams(size)) as upstream:
        options = (
            "--limits.max_answer_bytes",
            str(size),
            "--limits.max_answers_bytes",
            str(budget),
            "--query-timeout",
            str(PATIENCE),
        )
        daemon = start("--prometheus", upstream.url, *options)
        watch = Watch(daemon)
        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda number: daemon.get("/query", {"q": f"up > {number}"}), range(60)))
        whole = [answer for answer in answers if answer.status_code == 200]
        assert whole
        assert all(len(answer.content) == size for answer in whole)
        refused = [answer for answer in answers if answer.status_code != 200]
        assert all((one.status_code, one.json()["errorType"]) == (503, "overloaded") for one in refused)
        assert watch.grown() < SOME + 50_000 + 2 * 10_000
        until(lambda: daemon.sample("orchestrator_answers_held_bytes") == 0, "an end of what was held")


def test_clients_that_never_read(start: Callable[..., Daemon]) -> None:
    """Of answers, of listings, of scrapes, of reports' answers: little waits for them, and they are cut."""
    with FakeUpstream(streams(10 * MEGABYTE)) as upstream:
        options = ("--limits.max_answer_bytes", str(10 * MEGABYTE), "--limits.max_answers_bytes", str(20 * MEGABYTE))
        daemon = start("--prometheus", upstream.url, *options, "--answer-timeout", "4", "--idle-timeout", "4")
        for first in range(0, 21_000, 3000):
            fleet = [full_report(f"node-{number}") for number in range(first, first + 3000)]
            daemon.post(fleet).raise_for_status()
        watch = Watch(daemon)
        with ExitStack() as stack:
            wires = [stack.enter_context(unread(daemon)) for _ in range(80)]
            for number, wire in enumerate(wires):
                targets = ("/nodes?details=true", "/metrics", f"/query?q={number % 4}", "/metrics?name[]=page_faults")
                wire.get(targets[number % 4])
            deaf = stack.enter_context(unread(daemon))
            answer_me = head("POST", "/update_metrics", length=18) + b'{"node_id":"deaf"}'
            deaf.socket.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                while True:
                    deaf.socket.send(answer_me * 100)
            until(
                lambda: daemon.sample("orchestrator_connections") == 1, "an end of those that do not read", 2 * PATIENCE
            )
            # At a time: eight listings of 7 MB, ten scrapes a part of which is made, two of prometheus_client's.
            assert watch.grown() < SOME + 8 * 7_000 + 10 * 5_000 + 2 * 30_000 + 20_000


def test_clients_that_never_read_shut_nothing_for_others(start: Callable[..., Daemon]) -> None:
    """Scrapes, listings and answers find room within seconds, though the deadline for an answer is an hour."""
    size = 8 * MEGABYTE
    with FakeUpstream(streams(size)) as upstream:
        options = (
            "--limits.max_answer_bytes",
            str(size),
            "--limits.max_answers_bytes",
            str(2 * size),
            "--answer-timeout",
            "3600",
        )
        daemon = start("--prometheus", upstream.url, *options)
        for first in range(0, 21_000, 3000):
            fleet = [full_report(f"node-{number}") for number in range(first, first + 3000)]
            daemon.post(fleet).raise_for_status()
        targets = (*["/metrics"] * 10, *["/nodes?details=true"] * 8, "/query?q=1", "/query?q=2")
        with ExitStack() as stack:
            for target in targets:
                stack.enter_context(unread(daemon)).get(target)
            until(lambda: daemon.get("/metrics").status_code == 200, "a scrape")
            until(lambda: daemon.get("/nodes?details=true").status_code == 200, "a listing")
            until(lambda: daemon.get("/query", {"q": "up"}).status_code == 200, "an answer")
            until(lambda: daemon.sample("orchestrator_slow_readers") == 0, "an end of those that do not read")
            assert daemon.sample("orchestrator_slow_readers_cut_total") == len(targets)


def unread(daemon: Daemon) -> Wire:
    """Return a connection that takes little before it is read."""
    wire = daemon.wire()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return wire


def test_requests_behind_one_that_waits(start: Callable[..., Daemon]) -> None:
    """They are not read until it is answered, however many come; then every one is answered."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url, "--query-timeout", "600")
        watch = Watch(daemon)
        with daemon.wire() as wire:
            wire.get("/query?q=up")
            upstream.until_open(1)
            wire.socket.setblocking(False)
            piece, sent = head("GET", "/-/ready", "X-Padding: " + "x" * 5000), 0
            with suppress(BlockingIOError):
                while sent < 200 * MEGABYTE:
                    sent += wire.socket.send((piece * 20)[sent % len(piece) :])
            assert sent < 50 * MEGABYTE
            held = daemon.sample("orchestrator_arriving_held_bytes")
            assert held is not None
            assert held < MEGABYTE
            assert watch.grown() < SOME
            wire.socket.settimeout(PATIENCE)
            upstream.release()
            for _ in range(1 + sent // len(piece)):
                assert wire.answer().status == 200
