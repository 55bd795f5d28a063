"""One POST to a remote-write receiver: what its answers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.http_client.retry_after import MAX_RETRY_AFTER
from orchestratord.remote_write.client import RemoteWriteClient, Reply, Verdict
from orchestratord.remote_write.codec import HEADERS
from tests.fakes import NOW
from tests.peers import remote_write_refusal

if TYPE_CHECKING:
    from twisted.web.http import Request


class Store(Resource):
    """Answers a POST as the test wants, and remembers the requests."""

    isLeaf = True

    def __init__(self, status: int | None = 204, body: bytes = b"", **headers: str) -> None:
        super().__init__()
        self.status = status
        self.body = body
        self.headers = headers
        self.requests: list[tuple[bytes, bytes, bytes, dict[bytes, list[bytes]]]] = []
        self.lost: list[Failure] = []

    def render(self, request: Request) -> bytes | int:
        """Answer, or never if there is no status."""
        content: Any = request.content
        headers = {name: list(values) for name, values in request.requestHeaders.getAllRawHeaders()}
        given = {name.lower(): values[-1] for name, values in headers.items()}
        refused = remote_write_refusal(request.method, request.path, given)
        if refused is not None:
            request.setResponseCode(refused)
            return b"refused"
        self.requests.append((request.method, request.uri, content.read(), headers))
        request.notifyFinish().addErrback(self.lost.append)
        if self.status is None:
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name.replace("_", "-"), value)
        return self.body


def receiver(agent: Any, clock: Clock | None = None, **options: Any) -> RemoteWriteClient:
    """Return a receiver at a path that a store has."""
    options = {"headers": HEADERS, "authorization": None, "timeout": 10.0, "now": lambda: NOW} | options
    return RemoteWriteClient(clock or Clock(), agent, "http://store:9090/api/v1/write", **options)


def sent(store: Store, body: bytes = b"x", **options: Any) -> Reply:
    """Return what became of a body that was sent to a store."""
    agent = RequestTraversalAgent(store)
    results: list[Any] = []
    Deferred.fromCoroutine(receiver(agent, **options).send(body)).addBoth(results.append)
    agent.flush()
    (reply,) = results
    assert isinstance(reply, Reply), reply
    return reply


def test_a_body_goes_out_whole_with_its_headers() -> None:
    """The caller's, who we are, and what stands for us."""
    store = Store()
    reply = sent(store, b"\x00body", headers=[*HEADERS, ("X-Scope-OrgID", "a")], authorization=lambda: "Bearer b")
    assert reply == Reply(Verdict.ACCEPTED)
    ((method, uri, body, headers),) = store.requests
    assert (method, uri, body) == (b"POST", b"/api/v1/write", b"\x00body")
    assert headers[b"X-Scope-Orgid"] == [b"a"]
    assert headers[b"Authorization"] == [b"Bearer b"]
    assert headers[b"User-Agent"][0].startswith(b"orchestratord/")
    assert headers[b"Content-Length"] == [b"5"]
    assert headers[b"Content-Type"] == [b"application/x-protobuf"]
    assert headers[b"Content-Encoding"] == [b"snappy"]
    assert headers[b"X-Prometheus-Remote-Write-Version"] == [b"0.1.0"]
    assert b"Accept" not in headers


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 301, 307, 401, 403, 404, 405, 410])
def test_who_is_not_well_is_asked_again(status: int) -> None:
    """5xx and 429, and who refuses us; and a redirect, which is not followed, loses nothing."""
    reply = sent(Store(status, b"try\r\n later\x1b[1m"))
    assert reply == Reply(Verdict.RETRY, f"answered {status}: try later\\x1b[1m")


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_data_that_is_refused(status: int) -> None:
    """The same would be refused again."""
    assert sent(Store(status, b"out of order")) == Reply(Verdict.REFUSED, f"answered {status}: out of order")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "out of bounds"),
        (500, "too old sample"),  # Prometheus 2.42, which would answer so for ever
        (409, "add 9 samples: out of bounds"),
        (400, "the sample's timestamp is too old (err-mimir-sample-timestamp-too-old)"),
    ],
)
def test_a_sample_that_is_too_old(status: int, words: str) -> None:
    """Whatever the store and its status are."""
    reply = sent(Store(status, words.encode() + b"\n"))
    assert reply == Reply(Verdict.REFUSED, f"answered {status}: " + ascii(words)[1:-1], too_old=True)


@pytest.mark.parametrize(
    ("asked", "after"),
    [
        ("7", 7.0),
        ("86400", MAX_RETRY_AFTER),
        ("Mon, 23 Nov 2026 09:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2020 09:00:30 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("99999999999", None),
    ],
)
def test_it_says_how_long_it_wants_to_be_left_alone(asked: str, after: float | None) -> None:
    """In seconds or as a date; not for ever."""
    assert sent(Store(503, Retry_After=asked)).after == after


def test_a_long_answer_is_not_read_to_its_end() -> None:
    """Its status has been heard."""
    reply = sent(Store(400, b"no " * 100_000))
    assert reply.verdict is Verdict.REFUSED
    assert len(reply.words) < 400


def test_no_answer_in_time_is_tried_again() -> None:
    """The connection is ended."""
    store, clock = Store(None), Clock()
    agent = RequestTraversalAgent(store)
    results: list[Any] = []
    Deferred.fromCoroutine(receiver(agent, clock, timeout=3.0).send(b"x")).addBoth(results.append)
    agent.flush()
    clock.advance(2.9)
    assert results == []
    clock.advance(0.1)
    assert results == [Reply(Verdict.RETRY, "no whole answer within 3 s")]
    agent.flush()
    assert store.lost


class Failing:
    """An agent that cannot reach anybody."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def request(self, *_: Any) -> Deferred[Any]:
        """Fail."""
        result: Deferred[Any] = Deferred()
        result.errback(self.error)
        return result


@pytest.mark.parametrize("error", [Refused("no route"), ResponseNeverReceived([Failure(Refused("no route"))])])
def test_who_cannot_be_reached_is_tried_again(error: Exception) -> None:
    """With the reason in a line."""
    results: list[Any] = []
    Deferred.fromCoroutine(receiver(Failing(error)).send(b"x")).addBoth(results.append)
    (reply,) = results
    assert reply.verdict is Verdict.RETRY
    assert "no route" in reply.words


def test_it_can_be_cancelled() -> None:
    """At the end of the daemon; the exchange ends with it."""
    store = Store(None)
    agent = RequestTraversalAgent(store)
    results: list[Any] = []
    sending = Deferred.fromCoroutine(receiver(agent).send(b"x"))
    sending.addBoth(results.append)
    agent.flush()
    sending.cancel()
    agent.flush()
    assert results[0].check(CancelledError)
    assert store.lost
