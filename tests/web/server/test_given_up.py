"""A connection that is given up: nothing that still comes on it is carried out, in clear and in TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs

from orchestratord.web.server.connection_limit import ConnectionLimit
from tests.certificates import Authority
from tests.fakes import body
from tests.web.tls_client import TlsClient
from tests.wire import Wire, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire import Connection

REPORT = body("behind", page_faults=1)
BEHIND = request("POST", "/update_metrics", REPORT, Content_Type="application/json")
FORGET = request("DELETE", "/nodes/kept")
HEAD = b"POST /update_metrics HTTP/1.1\r\nHost: x\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(REPORT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has signed `server`."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("server", "localhost")
    return authority


@pytest.fixture(params=["clear", "tls"])
def connect(request: pytest.FixtureRequest, authority: Authority) -> Callable[[Wire], Connection | TlsClient]:
    """What makes a connection."""
    return (lambda wire: TlsClient(wire, authority)) if request.param == "tls" else Wire.connect


def given_up(connection: Any, *parts: bytes) -> None:
    """Send parts, each in a record of its own, or in a packet; those of TLS are in one segment."""
    if isinstance(connection, TlsClient):
        connection.send(*parts)
    else:
        for part in parts:
            connection.send(part)


#: What gives a connection up by itself, and with which answers.
ENDS: dict[str, tuple[list[bytes], list[int]]] = {
    "first-line": ([b"nonsense\r\n"], [400]),
    "header": ([HEAD + b"X : y\r\n", LENGTH + b"\r\n" + REPORT], [400]),
    "header-in-three-records": ([HEAD + b"X : y\r\n" + LENGTH, b"\r\n", REPORT], [400]),
    "header-then-delete": ([HEAD + b"X : y\r\n", FORGET], [400]),
    "control-character": ([HEAD + b"X: \x00\r\n" + LENGTH + b"\r\n" + REPORT], [400]),
    "no-host": ([b"GET /nodes HTTP/1.1\r\n\r\n"], [400]),
    "two-lengths": ([HEAD + LENGTH + LENGTH + b"\r\n", REPORT], [400]),
    "chunk": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"], [400]),
    "coding": ([HEAD + b"Transfer-Encoding: gzip\r\n\r\n", REPORT], [400]),
    "long-line": ([b"GET /" + b"x" * 70_000], [414]),
    "long-header": ([HEAD + b"X: " + b"x" * 70_000 + b"\r\n"], [414]),
    "many-headers": ([HEAD + b"a: b\r\n" * 600], [400]),
    "too-long": ([HEAD + b"Content-Length: 2000001\r\n\r\n"], [413]),
    "too-long-chunked": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"fffff\r\n" + b"x" * 1_000_001], [413]),
    "too-long-then-bad-chunk": (
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\nf4241\r\n", b"x" * 1_000_001, b"\r\nzz\r\n"],
        [413],
    ),
    "close": ([request("POST", "/update_metrics", body("n"), Connection="close")], [200]),
    "close-and-something": ([request("POST", "/update_metrics", body("n"), Connection="x, Close")], [200]),
    "close-with-a-bad-report": ([request("POST", "/update_metrics", b"{", Connection="close")], [400]),
    "close-not-express": ([request("POST", "/update_metrics", body("n"), Connection="close", X="y")], [200]),
    "close-of-a-get": ([request("GET", "/nodes", Connection="close")], [200]),
    "http-1.0": ([b"GET /nodes HTTP/1.0\r\n\r\n"], [200]),
}


@pytest.mark.parametrize("way", ["express", "ordinary"])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("parts", "statuses"), ENDS.values(), ids=ENDS)
def test_nothing_behind_is_carried_out(
    connect: Callable[[Wire], Any], parts: list[bytes], statuses: list[int], joined: bool, way: str
) -> None:
    """In packets and records of its own, or in the same; answered is what gave the connection up, and nothing else."""
    wire = Wire()
    wire.report(body("kept"))
    if way == "ordinary":
        wire.site.context.fast_path = None
    connection = connect(wire)
    with capturedLogs() as logs:
        if joined:
            given_up(connection, b"".join(parts) + BEHIND + FORGET)
        else:
            given_up(connection, *parts, BEHIND, FORGET)
        given_up(connection, BEHIND)
    assert [answer.status for answer in connection.answers()] == statuses
    given_up(connection, FORGET)
    assert connection.answers() == []
    assert "kept" in wire.ids()
    assert "behind" not in wire.ids()
    assert not [event for event in logs if "log_failure" in event]
    assert wire.arriving.held == 0


def ended_by_deadline(wire: Wire, connection: Any) -> list[int]:
    """A request did not arrive in time."""
    given_up(connection, HEAD)
    wire.clock.pump([1] * 31)
    return [408]


def ended_idle(wire: Wire, connection: Any) -> list[int]:
    """No request came for a while."""
    given_up(connection, request("GET", "/-/healthy"))
    wire.clock.pump([1] * 62)
    return [200]


def ended_by_drain(wire: Wire, connection: Any) -> list[int]:
    """The daemon stops."""
    given_up(connection, request("GET", "/-/healthy"))
    Deferred.fromCoroutine(wire.site.drain(5))
    return [200]


def ended_for_memory(wire: Wire, connection: Any) -> list[int]:
    """What arrives fills the memory that there is for it."""
    assert wire.arriving.limit < 40_000
    given_up(connection, HEAD + b"X: " + b"x" * 40_000)
    return [503]


@pytest.mark.parametrize("end", [ended_by_deadline, ended_idle, ended_by_drain, ended_for_memory])
def test_nothing_after_an_end_of_ours_is_carried_out(
    connect: Callable[[Wire], Any], end: Callable[[Wire, Any], list[int]]
) -> None:
    """Whatever reason we have to end it."""
    wire = Wire(max_arriving=30_000)
    wire.report(body("kept"))
    connection = connect(wire)
    statuses = end(wire, connection)
    given_up(connection, BEHIND, FORGET)
    assert [answer.status for answer in connection.answers()] == statuses
    given_up(connection, BEHIND)
    assert connection.answers() == []
    assert wire.ids() in (["kept"], [])  # some of the ends took longer than a node stays fresh
    assert wire.arriving.held == 0


class Deaf(Protocol):
    """Ends at its first data, and counts what comes."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        """End."""
        self.data.append(data)
        self.transport.loseConnection()  # type: ignore[union-attr]


def test_the_tls_side_itself_is_silent_after_an_end(authority: Authority) -> None:
    """Whatever protocol it wraps: records behind the one that ended it are not given out."""
    wire = Wire()
    deaf = Deaf()
    site: Any = Factory.forProtocol(lambda: deaf)
    wire.site = site
    client = TlsClient(wire, authority)
    client.send(b"one", b"two", b"three")
    assert deaf.data == [b"one"]


def test_a_connection_too_many_is_refused_once(authority: Authority) -> None:
    """Its 503 does not depend on what comes."""
    wire = Wire()
    connections = ConnectionLimit(0)
    wire.site.context.connections = connections
    client = TlsClient(wire, authority)
    client.send(BEHIND, FORGET, BEHIND)
    assert [answer.status for answer in client.answers()] == [503]
    assert wire.ids() == []
