"""The exceptions that carry an HTTP status; `orchestratord.web.server.responses` turns them into responses.

A report is refused in these places: `web/server/http_head` (a malformed head), `security/gate` (tokens),
`web/server/request` and `nodes/gunzip` (too large), `web/api/reports` (draining, busy, not JSON),
`nodes/report_decoder` and `nodes/batch` (wrong values), `nodes/intake` (a token of another node), `nodes/store` (the
table is full).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class Fault(Exception):
    """A request that is refused or has failed: `str(fault)` is the text that the client reads."""

    status: ClassVar[int] = 500
    #: The `outcome` label under which a refused report is counted.
    outcome: ClassVar[str] = "failed"
    #: Seconds after which the client should try again; None: no advice.
    retry_after: int | None = None
    #: Whether the connection is of no further use to the client.
    closes: ClassVar[bool] = False
    #: Prometheus' `errorType`, on a route of PromQL.
    error_type: ClassVar[str] = "bad_data"
    #: More headers of the answer.
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def content(self) -> dict[str, str]:
        """The answer's body, as JSON has it."""
        return {"error": str(self)}

    @property
    def envelope(self) -> dict[str, str]:
        """The answer's body on a route of PromQL: Prometheus' error envelope."""
        return {"status": "error", "errorType": self.error_type, "error": str(self)}


class BadReport(Fault):
    """The report is not what the contract says; the text ends with the JSON path."""

    status = 400
    outcome = "invalid"


class NoFamily(BadReport):
    """A report that has names, none of which is a metric family's; `names` are those that are in no catalogue."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        super().__init__(text)
        self.names = names


class AheadOfClock(BadReport):
    """The report's timestamp is further ahead of our clock than is taken: one of the two clocks is wrong."""

    outcome = "ahead"


class BodyTooLarge(Fault):
    """The body, as sent or unpacked, is over the limit."""

    status = 413
    outcome = "too_large"
    closes = True


class UnsupportedBody(Fault):
    """A content type or content encoding that is not taken."""

    status = 415
    outcome = "unsupported"


class TableFull(Fault):
    """A node that is not in the table while the table is full."""

    status = 429
    outcome = "table_full"
    retry_after = 10


class Draining(Fault):
    """The service is about to stop and takes nothing new."""

    status = 503
    outcome = "draining"
    retry_after = 1
    closes = True


class InternalError(Fault):
    """A defect of the daemon."""

    error_type = "internal"


class BadRequest(Fault):
    """A parameter of a route that is no query is wrong."""

    status = 400


class Busy(Fault):
    """Too much of the same is being done already."""

    status = 503
    outcome = "busy"
    error_type = "overloaded"
    retry_after = 1


class UnknownNode(Fault):
    """No fresh report of that node."""

    status = 404


class Unauthorized(Fault):
    """No token, or one that is nobody's. `wrong` tells that there was one."""

    status = 401
    outcome = "unauthorized"
    error_type = "unauthorized"

    def __init__(self, text: str, *, wrong: bool) -> None:
        super().__init__(text)
        self.headers = ((b"WWW-Authenticate", b'Bearer error="invalid_token"' if wrong else b"Bearer"),)


class Forbidden(Fault):
    """A token that is known, but may not do this."""

    status = 403
    outcome = "forbidden"
    error_type = "forbidden"


class KeysPending(Fault):
    """The key that a token is signed with is not there yet; it is being fetched."""

    status = 503
    outcome = "unverified"
    retry_after = 2


class QueryFault(Fault):
    """A query that is refused or has failed; answered in Prometheus' error envelope."""

    error_type: ClassVar[str] = "internal"

    @property
    def content(self) -> dict[str, str]:
        """The answer's body, in Prometheus' error envelope."""
        return self.envelope


class BadQuery(QueryFault):
    """The client's fault: a parameter is missing or out of bounds."""

    status = 400
    error_type = "bad_data"


class UpstreamUnavailable(QueryFault):
    """No Prometheus could be reached, or its answer was none."""

    status = 502
    error_type = "unavailable"


class UpstreamUnreachable(UpstreamUnavailable):
    """There was nobody to answer at all."""


class Overloaded(QueryFault):
    """Too many queries are in flight and waiting, or their answers fill the memory there is for them."""

    status = 503
    error_type = "overloaded"
    retry_after = 1


class QueryTimeout(QueryFault):
    """The deadline passed before the whole answer was there."""

    status = 504
    error_type = "timeout"


class NodesUnavailable(Fault):
    """The store that knows the nodes could not be reached, or did not answer as one does."""

    status = 502


class NodesTimeout(Fault):
    """The store did not say in time what it knows of the nodes."""

    status = 504


def beside_queries(fault: QueryFault) -> Fault:
    """Return the fault of a query that we asked ourselves, for a route that is none: the same status and text."""
    kind = next((kind for kind in (Busy, NodesTimeout) if kind.status == fault.status), NodesUnavailable)
    beside = kind(str(fault))
    beside.retry_after = fault.retry_after
    return beside
