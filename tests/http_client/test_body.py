"""The body of a response, read with a bound."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from orchestratord.errors import Overloaded
from orchestratord.http_client.body import (
    FREE_PARTS,
    LEAST_PART,
    BodyCutOff,
    BodyOverLimit,
    TinyChunks,
    close,
    read_body,
)
from orchestratord.runtime.memory_budget import MemoryBudget


class FakeResponse:
    """A response whose body the test delivers; it is the body's transport too."""

    def __init__(self) -> None:
        self.closed = False
        self.protocol: Any = None

    def deliverBody(self, protocol: Any) -> None:
        """Take the reader of the body."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def loseConnection(self) -> None:
        """Close, of which the reader hears."""
        self.closed = True
        self.end(ConnectionLost())

    def receive(self, *parts: bytes) -> None:
        """Let parts arrive, even after the connection was closed."""
        for part in parts:
            self.protocol.dataReceived(part)

    def end(self, reason: Exception) -> None:
        """Let the body end."""
        self.protocol.connectionLost(Failure(reason))


class Reading:
    """A body of at most 10 bytes, or the limit, that is read into a budget of 100."""

    def __init__(self, budget: int = 100, *, limit: int = 10, may_end_unmarked: bool = False) -> None:
        self.budget = MemoryBudget(budget)
        self.reservation = self.budget.reservation()
        self.response = FakeResponse()
        self.outcome: Any = None
        response: Any = self.response
        self.reading = Deferred.fromCoroutine(
            read_body(response, limit, reservation=self.reservation, may_end_unmarked=may_end_unmarked)
        )
        self.reading.addBoth(self._ended)

    def _ended(self, outcome: Any) -> None:
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome


def test_a_whole_body() -> None:
    """Its parts are joined; the reservation holds them, and the connection stays open."""
    reading = Reading()
    reading.response.receive(b"01234", b"56789")
    assert not reading.reading.called
    reading.response.end(ResponseDone())
    assert (reading.outcome, reading.budget.held, reading.response.closed) == (b"0123456789", 10, False)


def test_a_body_over_the_limit() -> None:
    """The connection is closed, the memory is free, and what came before is told."""
    reading = Reading()
    reading.response.receive(b"01234", b"567890", b"more")
    assert isinstance(reading.outcome, BodyOverLimit)
    assert (reading.outcome.received, str(reading.outcome)) == (b"01234", "the answer is over the limit of 10 bytes")
    assert (reading.budget.held, reading.response.closed) == (0, True)


def test_a_body_without_memory() -> None:
    """The connection is closed, and the memory is free."""
    reading = Reading(budget=3)
    reading.response.receive(b"012", b"3")
    assert isinstance(reading.outcome, Overloaded)
    assert (reading.budget.held, reading.response.closed) == (0, True)


def test_a_body_in_tiny_chunks() -> None:
    """Each chunk takes time and memory besides its bytes; the connection is closed, and the memory is free."""
    reading = Reading(1_000_000, limit=1_000_000)
    reading.response.receive(*[b"x" * LEAST_PART] * FREE_PARTS * 2)
    assert not reading.reading.called
    reading = Reading(1_000_000, limit=1_000_000)
    reading.response.receive(*[b"x"] * (FREE_PARTS + 100))
    assert isinstance(reading.outcome, TinyChunks)
    assert str(reading.outcome) == "the answer comes in tiny chunks"
    assert (reading.budget.held, reading.response.closed) == (0, True)


@pytest.mark.parametrize("reason", [ResponseFailed([Failure(ConnectionLost())]), PotentialDataLoss()])
def test_a_body_that_is_cut_off(reason: Exception) -> None:
    """Only a body whose end was marked is whole."""
    reading = Reading()
    reading.response.receive(b"012")
    reading.response.end(reason)
    assert isinstance(reading.outcome, BodyCutOff)
    assert (reading.outcome.received, str(reading.outcome)) == (b"012", "the answer broke off after 3 bytes")
    assert reading.budget.held == 0


def test_a_body_that_ends_with_its_connection() -> None:
    """It is whole for those who can tell by its content."""
    reading = Reading(may_end_unmarked=True)
    reading.response.receive(b"012")
    reading.response.end(PotentialDataLoss())
    assert reading.outcome == b"012"


def test_cancelling_closes_the_connection() -> None:
    """The reader hears of that, which changes nothing any more."""
    reading = Reading()
    reading.response.receive(b"012")
    reading.reading.cancel()
    assert isinstance(reading.outcome, CancelledError)
    assert (reading.budget.held, reading.response.closed) == (0, True)


def test_a_body_that_nobody_wants() -> None:
    """Its connection is closed."""
    response: Any = FakeResponse()
    close(response)
    assert response.closed
