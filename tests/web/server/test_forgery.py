"""Nothing from outside forges a line of the log, a header, a metric or markup."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from orchestratord.errors import UpstreamUnavailable
from orchestratord.promql.client import Answer
from tests.fakes import body
from tests.promql.test_upstreams import Prometheus
from tests.promql.test_upstreams import Setup as UpstreamSetup
from tests.wire import Answer as WireAnswer
from tests.wire import Wire, request
from tests.wire import answers as parsed

EVIL = [
    'a"} 1\npage_faults{node_id="forged',
    "a\r\nX-Forged: 1\r\n\r\nHTTP/1.1 200 OK",
    "a\n2026-11-23T09:00:00+0000 [orchestratord#info] forged",
    "\x1b[2J\x1b[31mred",
    "<script>alert(1)</script>",
    "a\\nb'\"`$(id)",
    "{0.__class__} {evil} %s",
    "a\u2028b\u0085c\u202ed",
    "a\x00b\x7f",
]
HEADERS = {
    "date",
    "content-type",
    "content-length",
    "connection",
    "retry-after",
    "allow",
    "server",
    "transfer-encoding",
    "vary",
}
SAMPLE = re.compile(r'[a-z_:][a-z0-9_:]*(\{([a-z_]+="[^"\\\n]*",?)*\})? [-+0-9.e]+\Z', re.IGNORECASE)


class Outside:
    """A wire with the access log on, and what an honest reader would see of it."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.wire.site.context.access_log = True

    def send(self, data: bytes) -> list[WireAnswer]:
        """Send bytes on a connection of their own; check answers, log and exposition."""
        connection = self.wire.connect()
        with capturedLogs() as logs:
            connection.send(data)
            self.wire.clock.pump([0] * 20)
        answers = self.answers(connection.transport.value())
        for event in logs:
            line = formatEvent(event)
            assert line.isascii(), line
            assert line.isprintable(), line
        self.check_metrics()
        return answers

    def answers(self, data: bytes) -> list[WireAnswer]:
        """Return the answers, of which each is one, with the headers that we send and no others."""
        if data == b"HTTP/1.1 400 Bad Request\r\n\r\n":
            return []  # Twisted's own, to what is no HTTP
        came = parsed(data)
        assert len(came) == 1
        for answer in came:
            assert answer.headers.keys() <= HEADERS
            assert answer.headers.get("content-type", "text/plain").startswith(("application/json", "text/plain"))
            if answer.headers.get("content-type") == "application/json":
                json.loads(answer.body)
        return came

    def check_metrics(self) -> None:
        """Check that every line of the exposition is a sample or a comment of ours, in a few series."""
        lines = self.wire.ask("GET", "/metrics").body.decode().splitlines()
        assert not [line for line in lines if not line.startswith(("# HELP ", "# TYPE ")) and not SAMPLE.match(line)]
        assert not [line for line in lines if "forged" in line.lower() or "script" in line]
        assert len([line for line in lines if line.startswith("orchestrator_http_requests_total")]) < 30


@pytest.mark.parametrize("evil", EVIL)
def test_requests(evil: str) -> None:
    """As a node, in paths, parameters, methods and headers; shown back or not."""
    outside = Outside()
    raw = evil.encode()
    quoted = quote(evil, safe="")
    assert outside.send(request("POST", "/update_metrics", body(evil)))[0].status == 400
    assert outside.send(request("POST", "/update_metrics", body("n1", **{evil: 1, "timestamp": evil})))[0].status == 400
    assert outside.send(request("POST", "/update_metrics", body("n1", page_faults=1, **{evil: 1})))[0].status == 200
    assert outside.send(request("POST", "/update_metrics", body("n1", **{evil: 1})))[0].status == 400
    for path in (
        f"/nodes/{quoted}",
        f"/{quoted}",
        f"/nodes?details={quoted}",
        f"/query?q=up&time={quoted}",
        f"/query?q=up&start={quoted}&end=1",
        f"/query?q=up&start=1&end=2&step={quoted}",
        f"/query?q=up&timeout={quoted}",
        f"/query?{quoted}=1",
        f"/api/v1/{quoted}",
        f"/metrics/{quoted}",
    ):
        (answer,) = outside.send(request("GET", path))
        assert answer.status in {400, 404}
    outside.wire.upstreams.answer = UpstreamUnavailable("none")
    for path in (f"/query?q={quoted}", f"/api/v1/query?query={quoted}", f"/api/v1/label/{quoted}/values"):
        assert outside.send(request("GET", path))[0].status in {404, 502}  # a slash makes another path
    if "\r\n" in evil:
        return  # as it is, it would be another header, or request, of the client's own
    for name in (b"Content-Type", b"Content-Encoding", b"Accept", b"Host", b"User-Agent", b"Expect", b"Connection"):
        data = body("n1")
        start = b"POST /update_metrics HTTP/1.1\r\n%s: %s\r\n" % (name, raw)
        outside.send(b"%sContent-Length: %d\r\n\r\n%s" % (start, len(data), data))
        outside.send(b"GET /metrics?name[]=x HTTP/1.1\r\n%s: %s\r\n\r\n" % (name, raw))
    for target in (b"/", b"/nodes", b"/update_metrics", b"/query?q=up", b"/metrics"):
        outside.send(b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (raw, target))
        outside.send(b"GET %s?%s HTTP/1.1\r\nHost: x\r\n\r\n" % (target, raw))
    assert set(outside.wire.ids()) <= {"n1"}


@pytest.mark.parametrize("evil", EVIL)
def test_answers_of_an_upstream(evil: str) -> None:
    """In its content type, which is passed on, and in the text of a failure."""
    outside = Outside()
    outside.wire.upstreams.answer = Answer(200, b"application/json; x=" + evil.encode(), b"{}")
    (answer,) = outside.send(request("GET", "/query?q=up"))
    assert answer.status == 200
    outside.wire.upstreams.answer = UpstreamUnavailable(evil)
    (answer,) = outside.send(request("GET", "/query?q=up"))
    assert answer.json == {"status": "error", "errorType": "unavailable", "error": evil}


@pytest.mark.parametrize("evil", EVIL)
def test_what_is_said_of_an_upstream(evil: str) -> None:
    """Its content type is shown in the error's text, and why it cannot be reached in the log: in one line each."""
    like_a_header = evil.encode().replace(b"\r", b" ").replace(b"\n", b" ")
    for host in (Prometheus(Answer(200, b"text/" + like_a_header, b"")), RuntimeError(evil)):
        setup = UpstreamSetup(p=host)
        with capturedLogs() as logs:
            came: list[Any] = []
            setup.fetch().addBoth(came.append)
        failure = came[0]
        assert isinstance(failure, Failure)
        for line in (str(failure.value), *map(formatEvent, logs)):
            assert line.isascii()
            assert line.isprintable()


def test_methods_and_routes_are_few() -> None:
    """However many a client makes up, the exposition has no series more."""
    wire = Wire()
    for number in range(300):
        connection = wire.connect()
        connection.send(request(f"M{number}", f"/path-{number}"))
        connection.send(request(f"M{number}", f"/api/v1//series{'/' * number}"))
    wire.upstreams.answer = Deferred()
    for number in range(20):
        wire.connect().send(request("GET", f"/api/v1/label/l{number}/values"))
    text = wire.ask("GET", "/metrics").body.decode()
    assert len([line for line in text.splitlines() if line.startswith("orchestrator_http_requests_total")]) <= 6
