"""What answers queries: the interface of everything that stands between a route and Prometheus, and its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestratord.promql.params import Query
    from orchestratord.runtime.memory_budget import Reservation


@dataclass(frozen=True)
class Answer:
    """An answer in the format of Prometheus' HTTP API: status, Content-Type and body, and headers that we add.

    The Content-Type is empty for a 204, which has no body. `reservation` is the memory that the body takes from the
    budget for answers; who keeps the body keeps the reservation.
    """

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    reservation: Reservation | None = field(default=None, compare=False, repr=False)


class QueryClient(Protocol):
    """Answers queries: from Prometheus, from memory, or from a cache. Belongs to the reactor thread."""

    async def fetch(self, query: Query) -> Answer:
        """Return the whole answer, or raise a QueryFault; cancelling ends the exchange."""
        ...

    def at_once(self, query: Query) -> Answer | None:
        """Return an answer of status 200 that needs no exchange, or None."""
        ...
