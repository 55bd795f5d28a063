"""Any bytes on a connection: the short way answers them as Twisted's parser does, or leaves them to it.

The first byte says after how many bytes, times eight, a new packet begins.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from orchestratord.nodes.families import BUILT_IN
from orchestratord.promql.client import Answer
from orchestratord.promql.memory import MemoryClient
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.time_slices import TimeSlices
from tests.fakes import body
from tests.wire import Wire

if TYPE_CHECKING:
    from twisted.logger import LogEvent

#: What tells how something was answered; the rest of the headers is Twisted's taste.
_HEADERS = ("content-type", "content-length", "connection", "retry-after", "allow", "x-orchestrator-source")


_failures: list[LogEvent] = []


@implementer(ILogObserver)
def _observe(event: LogEvent) -> None:
    if "log_failure" in event:
        _failures.append(event)


globalLogPublisher.addObserver(_observe)


def check(data: bytes) -> None:
    """Fail unless both ways answer the same, leave the same behind, and nothing is logged as a failure of ours."""
    cut, data = 8 * (data[0] if data else 0), data[1:]
    packets = [packet for packet in (data[:cut], data[cut:]) if packet]
    forget_failures()
    assert seen(packets, twisted=False) == seen(packets, twisted=True)
    check_failures()


def forget_failures() -> None:
    """Begin to watch for failures of ours."""
    _failures.clear()


def check_failures() -> None:
    """Fail if one was logged."""
    assert not _failures, _failures[0]["log_failure"].getTraceback()


def seen(packets: list[bytes], *, twisted: bool) -> list[Any]:
    """Return all that a client, and the next one, can see of these packets; `twisted`: without the short way."""
    wire = Wire()
    wire.report(body("n1", page_faults=3))
    wire.queries._client = MemoryClient(
        TimeSlices(wire.clock),
        wire.upstreams,
        wire.nodes,
        BUILT_IN,
        clocks=wire.clocks,
        mode="always",
        budget=MemoryBudget(10_000_000),
    )
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    if twisted:
        wire.site.context.fast_path = None
    connection = wire.connect()
    for packet in packets:
        if not connection.closed:
            connection.send(packet)
            wire.clock.pump([0] * 3)
    early = answered(connection.answers())
    if connection.closed:
        connection.leave()
    wire.clock.advance(31)  # what has not arrived by now is given up
    late = answered(connection.answers())
    stored = [(entry.report.node_id, entry.report.values) for entry in wire.nodes.snapshot(wire.clocks.monotonic())]
    outcomes = ("accepted", "superseded", "invalid", "too_large", "unsupported", "failed")
    return [early, late, connection.closed, stored, [wire.counted(one) for one in outcomes], wire.upstreams.asked]


def answered(answers: list[Any]) -> list[Any]:
    """Return what tells how requests were answered."""
    return [
        (status, [headers.get(name) for name in _HEADERS], content)
        for status, headers, content in (astuple(answer) for answer in answers)
    ]
