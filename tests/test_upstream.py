"""Queries to Prometheus: deadlines, failover, bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from OpenSSL import SSL
from treq.testing import StubTreq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable
from orchestratord.query import Query
from orchestratord.room import Room
from orchestratord.turns import Turns
from orchestratord.upstream import MAX_URL_PARAMS, SKIP_SECONDS, Answer, Upstreams
from tests.fakes import Metrics

if TYPE_CHECKING:
    from twisted.web.http import Request

QUERY = Query("/api/v1/query", (("query", 'up{a="b c"}'), ("time", "1")))
GOOD = Answer(200, b"application/json", b'{"status":"success"}')


class Prometheus(Resource):
    """Answers every path as the test wants, and remembers the requests."""

    isLeaf = True

    def __init__(self, answer: Answer | None = GOOD) -> None:
        super().__init__()
        self.answer = answer
        self.requests: list[tuple[bytes, bytes, bytes]] = []
        self.headers: list[dict[bytes, list[bytes]]] = []
        self.lost: list[Failure] = []
        self.waiting: list[Any] = []

    def render(self, request: Request) -> bytes | int:
        """Answer, or wait for ever if there is no answer."""
        content: Any = request.content
        self.requests.append((request.method, request.uri, content.read()))
        self.headers.append({name: list(values) for name, values in request.requestHeaders.getAllRawHeaders()})
        request.notifyFinish().addErrback(self.lost.append)
        if self.answer is None:
            self.waiting.append(request)
            return NOT_DONE_YET
        request.setResponseCode(self.answer.status)
        request.setHeader(b"Content-Type", self.answer.content_type)
        return self.answer.body


class Client:
    """Stands for treq's client: each base URL has a Prometheus behind it, or an error."""

    def __init__(self, **hosts: Prometheus | Exception) -> None:
        self.stubs = {name: (StubTreq(host) if isinstance(host, Resource) else host) for name, host in hosts.items()}
        self.asked: list[str] = []

    def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
        """Pass the request on to the host's Prometheus."""
        name = url.split("/")[2]
        self.asked.append(name)
        stub = self.stubs[name]
        if isinstance(stub, Exception):
            failed: Deferred[Any] = Deferred()
            failed.errback(Failure(stub))
            return failed
        requested: Deferred[Any] = stub.request(method, url, **options)  # type: ignore[attr-defined]  # set in __init__
        return requested

    def flush(self) -> None:
        """Let what was sent arrive."""
        for stub in self.stubs.values():
            if isinstance(stub, StubTreq):
                stub.flush()


class Setup:
    """Upstreams over a Client, and what a test looks at."""

    def __init__(
        self,
        *,
        max_queries: int = 10,
        query_queue: int = 0,
        max_answer_bytes: int = 1000,
        headers: Any = (),
        authorization: Any = None,
        **hosts: Any,
    ) -> None:
        self.room = Room(1500)
        self.clock = Clock()
        self.client = Client(**hosts)
        self.metrics = Metrics()
        client: Any = self.client
        self.upstreams = Upstreams(
            self.clock,
            client,
            [f"http://{name}" for name in hosts],
            self.metrics.telemetry,
            headers=headers,
            authorization=authorization,
            query_timeout=10,
            turns=Turns(max_queries, query_queue),
            room=self.room,
            max_answer_bytes=max_answer_bytes,
        )

    def fetch(self, query: Query = QUERY) -> Deferred[Answer]:
        """Ask, and let what was sent arrive."""
        fetched = Deferred.fromCoroutine(self.upstreams.fetch(query))
        self.client.flush()
        return fetched

    def count(self, name: str, outcome: str) -> float | None:
        """Return how many requests to an upstream had an outcome."""
        return self.metrics.value("orchestrator_upstream_requests_total", upstream=f"http://{name}", outcome=outcome)


def result(deferred: Deferred[Answer]) -> Answer:
    """Return what has come, or raise it."""
    assert deferred.called
    results: list[Any] = []
    deferred.addBoth(results.append)
    if isinstance(results[0], Failure):
        results[0].raiseException()
    answer: Answer = results[0]
    return answer


def test_an_answer_comes_back_byte_for_byte() -> None:
    """Its status, its type, its body; the parameters went as a URL's, the headers along."""
    answer = Answer(422, b"application/json; charset=utf-8", b'{ "status" :"error"}\n')
    host = Prometheus(answer)
    setup = Setup(p=host, headers=[("X-Scope-OrgID", "a")])
    assert result(setup.fetch()) == answer
    assert host.requests == [(b"GET", b"/api/v1/query?query=up%7Ba%3D%22b+c%22%7D&time=1", b"")]
    assert host.headers[0][b"X-Scope-Orgid"] == [b"a"]
    assert setup.count("p", "answered") == 1


def test_no_content_is_an_answer_about_exemplars() -> None:
    """Prometheus says so of exemplars where the query selects nothing; of anything else it would be nonsense."""
    nothing = Answer(204, b"", b"")
    exemplars = Query("/api/v1/query_exemplars", (("query", "1"),))
    assert result(Setup(p=Prometheus(nothing)).fetch(exemplars)) == nothing
    with pytest.raises(UpstreamUnavailable, match="answered 204"):
        result(Setup(p=Prometheus(nothing)).fetch())


def test_long_parameters_go_as_a_form() -> None:
    """Where Prometheus takes one; a proxy in between would refuse the URL."""
    host = Prometheus()
    setup = Setup(p=host)
    long = (("query", "x" * MAX_URL_PARAMS),)
    result(setup.fetch(Query("/api/v1/query", long)))
    result(setup.fetch(Query("/api/v1/label/a/values", long)))
    (posted, got) = host.requests
    assert posted == (b"POST", b"/api/v1/query", b"query=" + b"x" * MAX_URL_PARAMS)
    assert host.headers[0][b"Content-Type"] == [b"application/x-www-form-urlencoded"]
    assert got[0] == b"GET"


def test_a_hanging_upstream_ends_with_the_deadline() -> None:
    """The request to it is cut, it counts as down, and says so once."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    setup.clock.advance(9.9)
    assert not fetched.called
    with capturedLogs() as logs:
        setup.clock.advance(0.1)
    with pytest.raises(QueryTimeout, match="no whole answer from Prometheus within 10 s"):
        result(fetched)
    setup.client.flush()
    assert host.lost
    assert setup.count("p", "timeout") == 1
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 0
    assert [event["upstream"] for event in logs if "reason" in event] == ["http://p"]


def test_the_clients_own_timeout_is_shorter_only() -> None:
    """It cannot lengthen ours, and its passing says nothing about the upstream."""
    setup = Setup(p=Prometheus(None))
    short = setup.fetch(Query("/api/v1/query", QUERY.params, timeout=1))
    long = setup.fetch(Query("/api/v1/query", QUERY.params, timeout=100))
    setup.clock.advance(1)
    with pytest.raises(QueryTimeout, match="within 1 s"):
        result(short)
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    setup.clock.advance(9)
    with pytest.raises(QueryTimeout, match="within 10 s"):
        result(long)


def test_the_deadline_covers_the_body() -> None:
    """An upstream that sends its headers and then nothing is cut all the same."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    host.waiting[0].setHeader(b"Content-Type", b"application/json")
    host.waiting[0].write(b"{")
    setup.client.flush()
    assert not fetched.called
    setup.clock.advance(10)
    with pytest.raises(QueryTimeout):
        result(fetched)
    setup.client.flush()
    assert host.lost


def test_a_client_that_leaves_ends_the_upstream_request() -> None:
    """And frees its place; the upstream is not blamed."""
    host = Prometheus(None)
    setup = Setup(p=host, max_queries=1)
    fetched = setup.fetch()
    fetched.addErrback(lambda failure: failure.trap(CancelledError) and None)
    fetched.cancel()
    setup.client.flush()
    assert host.lost
    assert setup.count("p", "cancelled") == 1
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    host.answer = GOOD
    assert result(setup.fetch()) == GOOD


def test_the_next_upstream_is_asked_when_one_is_dead() -> None:
    """The dead one is passed over for a few seconds, then tried again; its going and coming back are logged."""
    setup = Setup(a=Refused("refused"), b=Prometheus())
    with capturedLogs() as logs:
        assert result(setup.fetch()) == GOOD
        assert result(setup.fetch()) == GOOD
        assert setup.client.asked == ["a", "b", "b"]
        setup.client.stubs["a"] = StubTreq(Prometheus())
        setup.clock.advance(SKIP_SECONDS)
        assert result(setup.fetch()) == GOOD
    assert setup.client.asked == ["a", "b", "b", "a"]
    assert [event["log_format"] for event in logs if "upstream" in event] == [
        "upstream {upstream} is down: {reason}",
        "upstream {upstream} is back",
    ]
    assert setup.count("a", "unreachable") == 1
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://a") == 1


def test_one_upstream_is_always_tried() -> None:
    """When all are down they are asked again, rather than nobody."""
    setup = Setup(a=Refused("refused"), b=ResponseNeverReceived([Failure(Refused("gone"))]))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable, match=r"no Prometheus could answer: http://a: .*; http://b: .*gone"):
            result(setup.fetch())
    assert setup.client.asked == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"text/html", b"<html>"),
        Answer(500, b"text/plain", b"boom"),
        Answer(503, b"", b"Service Unavailable"),
    ],
)
def test_what_is_no_answer_of_prometheus_is_unavailable(answer: Answer) -> None:
    """A proxy's login page, a crash: never passed on; another upstream is asked."""
    with pytest.raises(UpstreamUnavailable, match=rf"answered {answer.status} with .* no answer of Prometheus' API"):
        result(Setup(p=Prometheus(answer)).fetch())
    setup = Setup(a=Prometheus(answer), b=Prometheus())
    assert result(setup.fetch()) == GOOD
    assert setup.count("a", "broken") == 1


def test_a_redirect_is_not_followed() -> None:
    """Wherever it leads; the error says so."""
    with pytest.raises(UpstreamUnavailable, match="answered 302, a redirect, which is not followed"):
        result(Setup(p=Prometheus(Answer(302, b"application/json", b"{}"))).fetch())


def test_an_answer_is_bounded() -> None:
    """Exactly the limit passes."""
    fits, large = (Answer(200, b"application/json", b"x" * size) for size in (1000, 1001))
    assert result(Setup(p=Prometheus(fits)).fetch()) == fits
    with pytest.raises(UpstreamUnavailable, match="over the limit of 1000 bytes"):
        result(Setup(p=Prometheus(large)).fetch())


def test_an_answer_that_breaks_off_is_none() -> None:
    """A body cut short is no answer, whatever its status said."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    host.waiting[0].setHeader(b"Content-Type", b"application/json")
    host.waiting[0].setHeader(b"Content-Length", b"100")
    host.waiting[0].write(b"{")
    setup.client.flush()
    host.waiting[0].channel.loseConnection()
    setup.client.flush()
    with pytest.raises(UpstreamUnavailable, match="the answer broke off after 1 bytes"):
        result(fetched)


def test_queries_in_flight_are_bounded() -> None:
    """One too many is refused at once, and a place is free again with an answer."""
    host = Prometheus(None)
    setup = Setup(p=host, max_queries=2)
    waiting = [setup.fetch(), setup.fetch()]
    with pytest.raises(Overloaded, match="2 queries are in flight"):
        result(setup.fetch())
    for request in host.waiting:
        request.setHeader(b"Content-Type", b"application/json")
        request.write(b"{}")
        request.finish()
    setup.client.flush()
    assert [result(one).body for one in waiting] == [b"{}", b"{}"]
    host.answer = GOOD
    assert result(setup.fetch()) == GOOD


def test_credentials_are_those_of_the_moment() -> None:
    """Asked for with every request, since they may change; beside the other headers, in a URL and in a form."""
    host = Prometheus()
    tokens = iter(["Bearer one", "Bearer two"])
    setup = Setup(p=host, headers=[("X-A", "1")], authorization=lambda: next(tokens))
    result(setup.fetch())
    result(setup.fetch(Query("/api/v1/query", (("query", "x" * MAX_URL_PARAMS),))))
    assert [headers[b"Authorization"] for headers in host.headers] == [[b"Bearer one"], [b"Bearer two"]]
    assert [headers[b"X-A"] for headers in host.headers] == [[b"1"], [b"1"]]


def test_openssls_errors_are_told_in_words() -> None:
    """Not as the list of tuples that they are."""
    error = ResponseNeverReceived([Failure(SSL.Error([("SSL routines", "", "wrong version number")]))])
    with pytest.raises(UpstreamUnavailable, match=r"http://p: TLS: wrong version number$"):
        result(Setup(p=error).fetch())


def answer_now(host: Prometheus, setup: Setup) -> None:
    """Have the first request that waits answered."""
    request = host.waiting.pop(0)
    request.setHeader(b"Content-Type", b"application/json")
    request.write(b"{}")
    request.finish()
    setup.client.flush()


def test_a_query_waits_for_its_turn() -> None:
    """It is asked when another one is over, and its deadline began when it came."""
    host = Prometheus(None)
    setup = Setup(p=host, max_queries=1, query_queue=2)
    first, second, third = setup.fetch(), setup.fetch(), setup.fetch(replace(QUERY, timeout=7))
    assert len(host.requests) == 1
    setup.clock.advance(6)
    answer_now(host, setup)
    assert result(first).body == b"{}"
    assert len(host.requests) == 2
    for seconds, fetched in ((1, third), (3, second)):
        assert not fetched.called
        setup.clock.advance(seconds)
        with pytest.raises(QueryTimeout):
            result(fetched)
    assert len(host.requests) == 2
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    host.answer = GOOD
    assert result(setup.fetch()) == GOOD


def test_all_answers_together_have_a_bound() -> None:
    """One that finds no room is refused while it comes; what is let go makes room."""
    setup = Setup(p=Prometheus(Answer(200, b"application/json", b"x" * 1000)))
    kept = result(setup.fetch())
    assert setup.room.held == 1000
    refused = setup.fetch()
    with pytest.raises(Overloaded, match="the answers that are being passed on fill their memory"):
        result(refused)
    assert setup.room.held == 1000
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    del kept
    assert setup.room.held == 0
    assert len(result(setup.fetch()).body) == 1000


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"text/html", b"x" * 1000),
        Answer(302, b"application/json", b"x" * 1000),
        Answer(200, b"application/json", b"x" * 1001),
    ],
    ids=["html", "redirect", "too long"],
)
def test_an_answer_that_is_none_holds_no_memory(answer: Answer) -> None:
    """As soon as it is refused."""
    setup = Setup(p=Prometheus(answer))
    fetched = setup.fetch()
    with pytest.raises(UpstreamUnavailable):
        result(fetched)
    assert setup.room.held == 0


def test_an_exchange_that_is_cut_holds_no_memory() -> None:
    """At its deadline."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    host.waiting[0].setHeader(b"Content-Type", b"application/json")
    host.waiting[0].write(b"x" * 500)
    setup.client.flush()
    assert setup.room.held == 500
    setup.clock.advance(10)
    assert setup.room.held == 0
    with pytest.raises(QueryTimeout):
        result(fetched)


def test_what_an_error_says_is_one_line_of_the_log() -> None:
    """Whoever had a hand in it."""
    setup = Setup(p=RuntimeError("a\nb\x1b[31m\u2028c"))
    with capturedLogs() as logs, pytest.raises(UpstreamUnavailable, match=r"a\\nb\\x1b\[31m\\u2028c"):
        result(setup.fetch())
    assert [event["reason"] for event in logs] == ["a\\nb\\x1b[31m\\u2028c"]
