"""A report is with the kernel before its answer is: whichever way it goes, and whatever the connection is at."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import body
from tests.wire import Connection, Wire, request

PLAIN: dict[str, Any] = {"Content_Type": "application/json"}
#: Not the short way.
ODD: dict[str, Any] = {"Content_Type": "application/json", "X_Other": "1"}


class Settling:
    """A site whose settling is watched: what had been written to the connection at each call."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.connection: Connection = self.wire.connect()
        self.written: list[int] = []
        flush: Any = lambda: self.written.append(len(self.connection.transport.value()))  # noqa: E731
        self.wire.site.context.flush = flush
        reports: Any = self.wire.site.context.hot[b"/update_metrics"]
        reports._flush = flush

    def post(self, data: bytes, headers: dict[str, Any]) -> int:
        """Post a report, and return the status."""
        self.connection.send(request("POST", "/update_metrics", data, **headers))
        for _ in range(100):
            self.wire.clock.advance(0)
        (answer,) = self.connection.answers()
        return answer.status


def socket(settling: Settling, *, waiting: bytes = b"", added: bytes = b"") -> None:
    """Give the connection what Twisted's has: what waits to be written, and what was added since."""
    transport: Any = settling.connection.transport
    transport.dataBuffer = waiting
    transport._tempDataBuffer = [added] if added else []


def test_an_idle_connection_can_wait_for_the_turns_end() -> None:
    """Twisted writes in the next turn: all reports of this one are one write to the spool."""
    settling = Settling()
    socket(settling)
    assert settling.post(body("n1"), PLAIN) == 200
    assert settling.written == []


@pytest.mark.parametrize("busy", [{"waiting": b"x"}, {"added": b"x"}])
def test_a_connection_that_has_something_to_write_cannot(busy: dict[str, bytes]) -> None:
    """Twisted writes right after it has read."""
    settling = Settling()
    socket(settling, **busy)
    assert settling.post(body("n1"), PLAIN) == 200
    assert settling.written == [0]


def test_what_is_not_known_of_a_connection_is_taken_for_the_worst() -> None:
    """One that is not Twisted's own."""
    settling = Settling()
    assert settling.post(body("n1"), PLAIN) == 200
    assert settling.written == [0]


@pytest.mark.parametrize("data", [body("n1"), b"[" + b",".join(body(f"n{index % 5}") for index in range(3000)) + b"]"])
def test_the_long_way_settles_before_it_answers(data: bytes) -> None:
    """Short bodies, and long batches that are decoded in slices."""
    settling = Settling()
    socket(settling)
    assert settling.post(data, ODD) == 200
    assert settling.written == [0]


def test_what_is_refused_settles_nothing() -> None:
    """Nothing was stored."""
    settling = Settling()
    assert settling.post(b"{", PLAIN) == 400
    assert settling.written == []
