"""The probes and DELETE /nodes/<id> on a port of their own, in the daemon as it is wired."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from tests.integration.daemon import LOOPBACK, PATIENCE, Daemon, Wire, report, until
from tests.integration.upstream import FakeUpstream, never

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration


def admin_port(daemon: Daemon) -> int:
    """Return the administrators' port, which the log names."""
    return int(daemon.said(r"probes and administration on 127\.0\.0\.1:(\d+);")[1])


def test_who_answers_what(start: Callable[..., Daemon]) -> None:
    """The administrators' port the probes and DELETE, and nothing else; the main one all but these."""
    daemon = start("--admin-listen", LOOPBACK)
    admin = f"http://127.0.0.1:{admin_port(daemon)}"

    def codes(method: str, path: str) -> tuple[int, int]:
        main = requests.request(method, f"{daemon.url}{path}", timeout=PATIENCE)
        return main.status_code, requests.request(method, f"{admin}{path}", timeout=PATIENCE).status_code

    assert daemon.post(report("n1", page_faults=1)).status_code == 200
    assert requests.post(f"{admin}/update_metrics", json=report("n2"), timeout=PATIENCE).status_code == 404
    assert codes("GET", "/-/healthy") == (404, 200)
    assert codes("GET", "/-/ready") == (404, 200)
    assert codes("GET", "/nodes") == (200, 404)
    assert codes("GET", "/nodes/n1") == (200, 405)
    assert codes("GET", "/metrics") == (200, 404)
    assert codes("GET", "/") == (200, 404)
    assert codes("GET", "/query") == (400, 404)
    assert daemon.nodes() == ["n1"]
    assert codes("DELETE", "/nodes/n1") == (405, 204)
    assert daemon.nodes() == []


def test_readiness_is_told_to_the_end(start: Callable[..., Daemon]) -> None:
    """While requests in flight finish, the main port is closed, and the other answers 503 to new connections."""
    with FakeUpstream(never) as upstream:
        daemon = start("--prometheus", upstream.url, "--admin-listen", LOOPBACK, "--query-timeout", "600")
        port = admin_port(daemon)
        with daemon.wire() as asking, Wire(port) as kept:
            asking.get("/query?q=up&timeout=5")
            kept.get("/-/ready")
            assert kept.answer().status == 200
            upstream.until_open(1)
            daemon.signal(15)  # type: ignore[arg-type]

            def closed() -> bool:
                try:
                    daemon.wire().close()
                except ConnectionRefusedError:
                    return True
                return False

            until(closed, "an end of the main port")
            for wire in (kept, Wire(port)):
                with wire:
                    wire.get("/-/ready")
                    answer = wire.answer()
                    assert (answer.status, answer.body) == (503, b"draining\n")
            assert asking.answer().status == 504


def test_bounds_hold_there_too(start: Callable[..., Daemon]) -> None:
    """A request has a deadline to arrive, and a body a limit."""
    daemon = start("--admin-listen", LOOPBACK, "--request-timeout", "1", "--max-report-bytes", "100")
    with Wire(admin_port(daemon)) as slow:
        slow.send(b"GET /-/ready HTTP/1.1\r\n")
        assert slow.answer().status == 408
        assert slow.ended()
    with Wire(admin_port(daemon)) as large:
        large.request("DELETE", "/nodes/x", body=b"x" * 101)
        assert large.answer().status == 413
