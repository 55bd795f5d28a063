"""Queries to Prometheus: deadlines, failover, bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from OpenSSL import SSL
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from orchestratord.errors import Overloaded, QueryTimeout, UpstreamUnavailable
from orchestratord.promql.params import Query
from orchestratord.promql.upstream_answer import FREE_PARTS, LEAST_PART, BodyCollector, Broken
from orchestratord.promql.upstream_health import PROBE_DOWN_EVERY, PROBE_SECONDS, PROBE_UP_EVERY, TRUST_SECONDS
from orchestratord.promql.upstreams import AGENT, MAX_URL_PARAMS, Answer, Upstreams
from orchestratord.runtime.concurrency_limit import ConcurrencyLimit
from orchestratord.runtime.memory_budget import MemoryBudget
from tests.fakes import NOW, Metrics
from tests.peers import refusal

if TYPE_CHECKING:
    from twisted.web.http import Request
    from twisted.web.http_headers import Headers
    from twisted.web.iweb import IBodyProducer

QUERY = Query("/api/v1/query", (("query", 'up{a="b c"}'), ("time", "1")))
GOOD = Answer(200, b"application/json", b'{"status":"success"}')


class Prometheus(Resource):
    """Answers queries as the test wants, and remembers them; a probe is answered by `probed`, or as a query is.

    What the real one refuses is refused: other paths, methods and forms.
    """

    isLeaf = True

    def __init__(self, answer: Answer | None = GOOD, probed: Answer | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.probed = probed
        self.probes = 0
        self.requests: list[tuple[bytes, bytes, bytes]] = []
        self.headers: list[dict[bytes, list[bytes]]] = []
        self.lost: list[Failure] = []
        self.waiting: list[Any] = []

    def render(self, request: Request) -> bytes | int:
        """Answer, or wait for ever if there is no answer."""
        content: Any = request.content
        body: bytes = content.read()
        refused = refusal(request.method, request.path, request.getHeader(b"Content-Type"))
        if refused is not None:
            request.setResponseCode(refused)
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"refused"
        probe = request.path == b"/api/v1/status/buildinfo"
        answer = self.answer if not probe or self.probed is None else self.probed
        if probe:
            self.probes += 1
        else:
            self.requests.append((request.method, request.uri, body))
            self.headers.append({name: list(values) for name, values in request.requestHeaders.getAllRawHeaders()})
        request.notifyFinish().addErrback(self.lost.append)
        if answer is None:
            self.waiting.append(request)
            return NOT_DONE_YET
        request.setResponseCode(answer.status)
        request.setHeader(b"Content-Type", answer.content_type)
        for name, value in answer.headers:
            request.setHeader(name, value)
        return answer.body


@implementer(IAgent)
class Agent:
    """Each host has a Prometheus behind it, or an error, which may be exchanged. Probes are not in `asked`."""

    def __init__(self, **hosts: Prometheus | Exception) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        self._agents: dict[Prometheus, RequestTraversalAgent] = {}

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[Any]:
        """Pass the request on to the host's Prometheus."""
        name = uri.decode().split("/")[2]
        if b"buildinfo" not in uri:
            self.asked.append(name)
        host = self.hosts[name]
        if isinstance(host, Exception):
            return fail(host)
        agent = self._agents.setdefault(host, RequestTraversalAgent(host))
        requested: Deferred[Any] = agent.request(method, uri, headers, bodyProducer)
        return requested

    def flush(self) -> None:
        """Let what was sent arrive."""
        for agent in tuple(self._agents.values()):
            agent.flush()


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
        self.budget = MemoryBudget(1500)
        self.clock = Clock()
        self.agent = Agent(**hosts)
        self.metrics = Metrics()
        self.upstreams = Upstreams(
            self.clock,
            self.agent,
            [f"http://{name}" for name in hosts],
            self.metrics.telemetry,
            headers=headers,
            authorization=authorization,
            query_timeout=10,
            limit=ConcurrencyLimit(max_queries, query_queue),
            budget=self.budget,
            max_answer_bytes=max_answer_bytes,
            now=lambda: NOW,
            draw=lambda: 0.5,
        )

    def started(self) -> Setup:
        """Return this, with its probes going on: the first is over."""
        self.upstreams.health.startService()
        self.advance(0)
        return self

    def advance(self, seconds: float) -> None:
        """Let time pass, and what was sent arrive."""
        self.clock.advance(seconds)
        self.agent.flush()

    def up(self, name: str) -> float | None:
        """Return what the metric says of a host."""
        return self.metrics.value("orchestrator_upstream_up", upstream=f"http://{name}")

    def fetch(self, query: Query = QUERY) -> Deferred[Answer]:
        """Ask, and let what was sent arrive."""
        fetched = Deferred.fromCoroutine(self.upstreams.fetch(query))
        self.agent.flush()
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
    answer = Answer(422, b"application/json; charset=utf-8", b'{ "status" :"error", "errorType": "execution"}\n')
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
    """The request to it is cut. That does not make it down, a probe without an answer does, and it says so once."""
    host = Prometheus(None, probed=GOOD)
    setup = Setup(p=host).started()
    fetched = setup.fetch()
    setup.advance(PROBE_UP_EVERY)
    host.probed = None
    setup.advance(9.9 - PROBE_UP_EVERY)
    assert not fetched.called
    setup.advance(0.1)
    with pytest.raises(QueryTimeout, match="no whole answer from Prometheus within 10 s"):
        result(fetched)
    assert host.lost
    assert setup.count("p", "timeout") == 1
    assert setup.up("p") == 1
    with capturedLogs() as logs:
        setup.advance(PROBE_SECONDS)
        setup.advance(PROBE_DOWN_EVERY)
        setup.advance(PROBE_SECONDS)
    assert setup.up("p") == 0
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
    setup.agent.flush()
    assert not fetched.called
    setup.clock.advance(10)
    with pytest.raises(QueryTimeout):
        result(fetched)
    setup.agent.flush()
    assert host.lost


def test_a_client_that_leaves_ends_the_upstream_request() -> None:
    """And frees its place; the upstream is not blamed."""
    host = Prometheus(None)
    setup = Setup(p=host, max_queries=1)
    fetched = setup.fetch()
    fetched.addErrback(lambda failure: failure.trap(CancelledError) and None)
    fetched.cancel()
    setup.agent.flush()
    assert host.lost
    assert setup.count("p", "cancelled") == 1
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    host.answer = GOOD
    assert result(setup.fetch()) == GOOD


def test_the_next_upstream_is_asked_when_one_is_dead() -> None:
    """Queries pass over the dead one until a probe finds it back; its going and coming back are logged."""
    setup = Setup(a=Prometheus(), b=Prometheus()).started()
    setup.agent.hosts["a"] = Refused("refused")
    with capturedLogs() as logs:
        assert [result(setup.fetch()) for _ in range(3)] == [GOOD] * 3
        assert setup.agent.asked == ["a", "b", "b", "b"]
        assert setup.up("a") == 0
        setup.agent.hosts["a"] = Prometheus()
        setup.advance(PROBE_DOWN_EVERY)
        assert setup.up("a") == 1
        assert result(setup.fetch()) == GOOD
    assert setup.agent.asked == ["a", "b", "b", "b", "a"]
    assert [event["log_format"] for event in logs if "upstream" in event] == [
        "upstream {upstream} is down: {reason}",
        "upstream {upstream} is back",
    ]
    assert setup.count("a", "unreachable") == 1


def test_all_upstreams_are_tried() -> None:
    """When all are down they are asked again, rather than nobody."""
    setup = Setup(a=Refused("refused"), b=ResponseNeverReceived([Failure(Refused("gone"))]))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable, match=r"no Prometheus could answer: http://[ab]: .*; http://[ab]: "):
            result(setup.fetch())
    assert setup.agent.asked == ["a", "b", "b", "a"]  # first whom we could connect to


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"text/html", b"<html>"),
        Answer(500, b"text/html", b"<html>"),
        Answer(500, b"text/plain", b""),
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


def test_an_answer_in_tiny_parts_is_none() -> None:
    """Each of them takes time and memory beside its bytes."""
    budget = MemoryBudget(1_000_000)
    collector = BodyCollector(1_000_000, budget.reservation())
    for _ in range(FREE_PARTS):
        collector.dataReceived(b"x" * LEAST_PART)
    assert not collector.done.called
    collector = BodyCollector(1_000_000, budget.reservation())
    for _ in range(FREE_PARTS + 100):
        collector.dataReceived(b"x")
    failed: list[Failure] = []
    collector.done.addErrback(failed.append)
    assert failed[0].check(Broken)
    assert "tiny chunks" in str(failed[0].value)


def test_an_answer_that_breaks_off_is_none() -> None:
    """A body cut short is no answer, whatever its status said."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    host.waiting[0].setHeader(b"Content-Type", b"application/json")
    host.waiting[0].setHeader(b"Content-Length", b"100")
    host.waiting[0].write(b"{")
    setup.agent.flush()
    host.waiting[0].channel.loseConnection()
    setup.agent.flush()
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
    setup.agent.flush()
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
    setup.agent.flush()


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
    assert setup.budget.held == 1000
    refused = setup.fetch()
    with pytest.raises(Overloaded, match="the answers that are being passed on fill their memory"):
        result(refused)
    assert setup.budget.held == 1000
    assert setup.metrics.value("orchestrator_upstream_up", upstream="http://p") == 1
    del kept
    assert setup.budget.held == 0
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
    assert setup.budget.held == 0


def test_an_exchange_that_is_cut_holds_no_memory() -> None:
    """At its deadline."""
    host = Prometheus(None)
    setup = Setup(p=host)
    fetched = setup.fetch()
    host.waiting[0].setHeader(b"Content-Type", b"application/json")
    host.waiting[0].write(b"x" * 500)
    setup.agent.flush()
    assert setup.budget.held == 500
    setup.clock.advance(10)
    assert setup.budget.held == 0
    with pytest.raises(QueryTimeout):
        result(fetched)


def test_what_an_error_says_is_one_line_of_the_log() -> None:
    """Whoever had a hand in it."""
    setup = Setup(p=RuntimeError("a\nb\x1b[31m\u2028c"))
    with capturedLogs() as logs, pytest.raises(UpstreamUnavailable, match=r"a\\nb\\x1b\[31m\\u2028c"):
        result(setup.started().fetch())
    assert [event["reason"] for event in logs] == ["a\\nb\\x1b[31m\\u2028c"]


SHORT = replace(QUERY, timeout=0.25)


def impatient(setup: Setup) -> list[str]:
    """Ask forty times with a deadline of 0.25 s; return what came of each."""
    outcomes = []
    for _ in range(40):
        fetched = setup.fetch(SHORT)
        setup.advance(0.25)
        try:
            outcomes.append(str(result(fetched).status))
        except QueryTimeout:
            outcomes.append("timeout")
    return outcomes


@pytest.mark.parametrize("heard", [True, False], ids=["it was up", "it never was"])
def test_impatient_clients_pay_once_for_a_silent_upstream(heard: bool) -> None:
    """It takes connections and says nothing. One client's deadline passes; after that the next upstream is asked."""
    silent = Prometheus(None, probed=GOOD if heard else None)
    setup = Setup(a=silent, b=Prometheus()).started()
    setup.advance(1)
    silent.probed = None
    assert impatient(setup) == ["timeout"] + ["200"] * 39
    assert (setup.up("a"), setup.up("b")) == (0, 1)
    assert len(silent.requests) == 1


def test_a_silent_upstream_is_found_out_without_any_client() -> None:
    """And found back."""
    silent = Prometheus(None)
    setup = Setup(a=silent, b=Prometheus()).started()
    assert (setup.up("a"), setup.upstreams.health.in_order()[0].base) == (1, "http://a")
    setup.advance(PROBE_SECONDS)
    assert (setup.up("a"), setup.upstreams.health.in_order()[0].base) == (0, "http://b")
    silent.answer = GOOD
    setup.advance(PROBE_DOWN_EVERY)
    assert (setup.up("a"), setup.upstreams.health.in_order()[0].base) == (1, "http://a")
    assert silent.requests == []


def test_a_heavy_query_does_not_make_its_upstream_down() -> None:
    """However many clients give it up: the probe is answered, so it is only slow, and goes on being the first."""
    slow = Prometheus(None, probed=GOOD)
    setup = Setup(a=slow, b=Prometheus()).started()
    setup.advance(1)
    assert impatient(setup) == ["timeout"] * 40
    assert setup.up("a") == 1
    assert setup.agent.asked == ["a"] * 40


def test_an_answer_outweighs_a_probe_that_had_none() -> None:
    """A Prometheus that answers queries meanwhile is not down, whatever became of the probe."""
    host = Prometheus(probed=Answer(200, b"application/json", b"{}"))
    setup = Setup(p=host).started()
    host.probed, host.answer = None, None
    waiting = setup.fetch()
    setup.advance(PROBE_UP_EVERY)  # a probe, which gets no answer
    answer_now(host, setup)
    assert result(waiting).status == 200
    setup.advance(PROBE_SECONDS)
    assert setup.up("p") == 1


def test_leaving_clients_make_no_flood_of_probes() -> None:
    """One at a time, and none for a moment after a good one."""
    host = Prometheus(None, probed=GOOD)
    setup = Setup(p=host).started()
    for _ in range(150):
        fetched = setup.fetch()
        fetched.addErrback(lambda failure: failure.trap(CancelledError) and None)
        fetched.cancel()
        setup.advance(TRUST_SECONDS / 100)
    assert host.probes == 2


def test_what_resets_connections_is_down_after_the_probe() -> None:
    """A connection that ends without an answer is only a doubt: the probe decides, in the same moment."""
    setup = Setup(a=Prometheus(), b=Prometheus()).started()
    setup.advance(1)
    setup.agent.hosts["a"] = ResponseNeverReceived([Failure(Refused("reset"))])
    assert [result(setup.fetch()) for _ in range(3)] == [GOOD] * 3
    assert setup.agent.asked[:2] == ["a", "b"]
    assert (setup.up("a"), setup.agent.asked[-2:]) == (0, ["b", "b"])


def test_a_probe_that_is_not_let_through_is_followed_by_a_query() -> None:
    """A proxy may know the queries alone; so it is up while they are answered, and down when they are not."""
    host = Prometheus(probed=Answer(403, b"text/html", b"<html>"))
    setup = Setup(p=host).started()
    setup.agent.flush()
    assert [uri for _, uri, _ in host.requests] == [b"/api/v1/query?query=1"]
    assert setup.up("p") == 1
    host.answer = Answer(401, b"text/plain", b"who are you?")
    with capturedLogs() as logs:
        setup.advance(PROBE_UP_EVERY)
        setup.agent.flush()
    assert setup.up("p") == 0
    assert [event["reason"] for event in logs] == ["answered 401: who are you?"]


def test_probes_end_with_the_daemon() -> None:
    """Nothing is left to be called, and what is under way is not blamed on the upstream."""
    setup = Setup(a=Prometheus(None), b=Prometheus()).started()
    setup.upstreams.health.stopService()
    setup.agent.flush()
    assert setup.clock.getDelayedCalls() == []
    assert setup.up("a") == 1


ENVELOPE = b'{"status":"error","errorType":"execution","error":"too many samples"}'


@pytest.mark.parametrize("status", [400, 404, 406, 422, 499, 500, 503])
def test_an_error_of_prometheus_is_passed_on(status: int) -> None:
    """Byte for byte: it is about the query, and another Prometheus would say the same."""
    answer = Answer(status, b"application/json", ENVELOPE)
    setup = Setup(a=Prometheus(answer), b=Prometheus())
    assert result(setup.fetch()) == answer
    assert setup.agent.asked == ["a"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, b"application/json", ENVELOPE), "answered 401: too many samples"),
        (Answer(401, b"text/plain; charset=utf-8", b"Unauthorized\n"), "answered 401: Unauthorized"),
        (Answer(403, b"application/json", b'{"message":"no\\nentry"}'), "answered 403: no entry"),
        (Answer(407, b"text/html", b"<html>"), "answered 407 with 'text/html', which is no answer"),
        (Answer(429, b"application/json", ENVELOPE), "answered 429: too many samples"),
        (Answer(404, b"text/plain", b"404 page not found"), "answered 404: 404 page not found"),
        (Answer(404, b"application/json", b'{"message":"no Route matched"}'), "answered 404: no Route matched"),
        (Answer(403, b"application/json", b'"\xff"'), "answered 403 with 'application/json', which is no answer"),
        (Answer(403, b"application/json", b"[" * 900), "answered 403 with 'application/json', which is no answer"),
        (Answer(200, b"application/json\0", b"{}"), r"answered 200 with 'application/json.x00', which is no answer"),
        (Answer(200, b"application/jsonp", b"{}"), "answered 200 with 'application/jsonp', which is no answer"),
        (Answer(404, b"application/json", b"[1"), "answered 404 with 'application/json', which is no answer"),
        (Answer(405, b"text/plain", b"x" * 1000), f"answered 405: {'x' * 200}$"),
        (Answer(502, b"application/json", ENVELOPE), "answered 502: too many samples"),
        (Answer(504, b"application/json", ENVELOPE), "answered 504: too many samples"),
        (Answer(503, b"text/plain", b"Service Unavailable"), "answered 503: Service Unavailable"),
    ],
)
def test_what_an_upstream_says_to_us_is_not_said_to_the_client(answer: Answer, said: str) -> None:
    """Its 401 is about our token, not the client's: the next one is asked; after the last it is 502, with its words."""
    setup = Setup(a=Prometheus(answer), b=Prometheus())
    assert result(setup.fetch()) == GOOD
    assert setup.count("a", "broken") == 1
    with pytest.raises(UpstreamUnavailable, match=f"http://a: {said}") as raised:
        result(Setup(a=Prometheus(answer)).fetch())
    assert (raised.value.status, raised.value.retry_after, raised.value.headers) == (502, None, ())


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (b"7", 7),
        (b"0", 1),
        (b"86400", 300),
        (b"Mon, 23 Nov 2026 09:00:20 GMT", 20),
        (b"Mon, 23 Nov 2026 08:00:00 GMT", 1),
        (b"soon", None),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
    ],
)
def test_a_wait_that_an_upstream_asks_for_is_passed_on(asked: bytes, given: int | None) -> None:
    """Of 429, which is 502 to the client, and of a 503 that is passed on; in seconds, as far as it can be believed."""
    headers = ((b"Retry-After", asked),)
    with pytest.raises(UpstreamUnavailable) as raised:
        result(Setup(p=Prometheus(Answer(429, b"text/plain", b"slow down", headers))).fetch())
    assert raised.value.retry_after == given
    passed = result(Setup(p=Prometheus(Answer(503, b"application/json", ENVELOPE, headers))).fetch())
    assert passed.headers == (() if given is None else ((b"Retry-After", b"%d" % given),))
    assert result(Setup(p=Prometheus(Answer(200, b"application/json", b"{}", headers))).fetch()).headers == ()


def test_the_shortest_wait_is_passed_on() -> None:
    """Of all that were asked: that one may answer by then."""
    waits = [Prometheus(Answer(429, b"text/plain", b"", ((b"Retry-After", wait),))) for wait in (b"9", b"3")]
    with pytest.raises(UpstreamUnavailable) as raised:
        result(Setup(a=waits[0], b=waits[1], c=Refused()).fetch())
    assert raised.value.retry_after == 3


def test_what_is_sent() -> None:
    """The headers of a query, and those of a form: no more than these."""
    host = Prometheus()
    setup = Setup(p=host)
    result(setup.fetch())
    result(setup.fetch(Query("/api/v1/query", (("query", "x" * MAX_URL_PARAMS),))))
    got, posted = host.headers
    assert got == {
        b"Host": [b"p"],
        b"Accept": [b"application/json"],
        b"User-Agent": [AGENT.encode()],
        b"Connection": [b"close"],
    }
    assert posted == {
        **got,
        b"Content-Type": [b"application/x-www-form-urlencoded"],
        b"Content-Length": [b"%d" % (MAX_URL_PARAMS + 6)],
    }
