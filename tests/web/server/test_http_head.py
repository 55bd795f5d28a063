"""What RFC 9110 and RFC 9112 ask of a server about heads: each row a MUST or a SHOULD that docs/HTTP.md lists."""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs

from orchestratord.security.gate import Gate, Role
from orchestratord.web.server.request import FREE_CHUNKS, LEAST_CHUNK
from tests.fakes import body
from tests.web.server.test_gate import TOKENS, bearer, gated
from tests.wire import Answer, Wire, request

REPORT = body("n1", page_faults=3)
LENGTH = f"Content-Length: {len(REPORT)}".encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(REPORT), REPORT)
EXTENDED = CHUNKED.replace(b"\r\n", b';a="b"\r\n', 1)


def sent(wire: Wire, data: bytes) -> list[Answer]:
    """Send bytes on a connection of their own; return the answers, and check that nothing failed."""
    connection = wire.connect()
    with capturedLogs() as logs:
        connection.send(data)
    assert not [event for event in logs if "log_failure" in event]
    return connection.answers()


def post(*lines: bytes, content: bytes = REPORT, version: bytes = b"HTTP/1.1", host: bytes = b"Host: x\r\n") -> bytes:
    """Return the bytes of a report with these header lines."""
    return b"POST /update_metrics %s\r\n%s%s\r\n%s" % (
        version, host, b"".join(line + b"\r\n" for line in lines), content,
    )  # fmt: skip


#: Heads that do not say where the request ends, or not what it is: answered in our form, and the connection is closed.
REFUSED = {
    "two-words": (b"GET /nodes\r\n\r\n", 400),
    "four-words": (b"GET /nodes HTTP/1.1 x\r\nHost: x\r\n\r\n", 400),
    "no-method": (b" /nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two-spaces": (b"GET  /nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method-no-token": (b"G@T /nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "bare-lf": (b"GET /nodes HTTP/1.1\nHost: x\n\r\n", 400),
    "http-0.9": (b"GET /nodes\r\n", 400),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http-3": (b"GET /nodes HTTP/3.1\r\nHost: x\r\n\r\n", 505),
    "lower-case-version": (b"GET /nodes http/1.1\r\nHost: x\r\n\r\n", 400),
    "long-version": (b"GET /nodes HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "target-of-another-scheme": (b"GET ftp://x/nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target-with-a-user": (b"GET http://u:p@x/nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target-without-a-host": (b"GET http:///nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target-without-a-slash": (b"GET nodes HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "target-https-in-clear": (b"GET https://x/nodes HTTP/1.1\r\nHost: x\r\n\r\n", 421),
    "asterisk-of-get": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "no-host": (b"GET /nodes HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "no-host-report": (post(LENGTH, host=b""), 400),
    "two-hosts": (post(b"Host: x", LENGTH), 400),
    "host-with-a-space": (post(LENGTH, host=b"Host: a b\r\n"), 400),
    "host-with-a-path": (post(LENGTH, host=b"Host: a/b\r\n"), 400),
    "host-list": (post(LENGTH, host=b"Host: a, b\r\n"), 400),
    "host-with-a-user": (post(LENGTH, host=b"Host: u@a\r\n"), 400),
    "host-half-an-address": (post(LENGTH, host=b"Host: [::1\r\n"), 400),
    "host-not-ascii": (post(LENGTH, host=b"Host: \xff\r\n"), 400),
    "host-odd-port": (post(LENGTH, host=b"Host: x:+1\r\n"), 400),
    "host-odd-in-1.0": (post(LENGTH, host=b"Host: a b\r\n", version=b"HTTP/1.0"), 400),
    "space-before-colon": (post(b"X : y", LENGTH), 400),
    "no-colon": (post(b"X", LENGTH), 400),
    "no-name": (post(b": y", LENGTH), 400),
    "name-no-token": (post(b"X(: y", LENGTH), 400),
    "name-not-ascii": (post(b"\xff: y", LENGTH), 400),
    "folded": (post(b"X: y", b" z", LENGTH), 400),
    "folded-by-tab": (post(b"X: y", b"\tz", LENGTH), 400),
    "folded-first": (post(LENGTH, host=b" X: y\r\nHost: x\r\n"), 400),
    "nul": (post(b"X: a\x00b", LENGTH), 400),
    "bare-cr": (post(b"X: a\rb", LENGTH), 400),
    "bare-lf-in-a-header": (post(b"X: a\nb", LENGTH), 400),
    "control-character": (post(b"X: a\x01b", LENGTH), 400),
    "delete": (post(b"X: a\x7fb", LENGTH), 400),
    "length-negative": (post(b"Content-Length: -1"), 400),
    "length-signed": (post(b"Content-Length: +1"), 400),
    "length-with-underscore": (post(b"Content-Length: 1_0"), 400),
    "length-hexadecimal": (post(b"Content-Length: 0x1"), 400),
    "length-decimal": (post(b"Content-Length: 1.0"), 400),
    "length-in-arabic-digits": (post("Content-Length: \u0661".encode()), 400),
    "length-empty": (post(b"Content-Length:"), 400),
    "length-list": (post(b"Content-Length: 5, 5"), 400),
    "two-lengths": (post(LENGTH, LENGTH), 400),
    "length-and-chunked": (post(LENGTH, b"Transfer-Encoding: chunked", content=CHUNKED), 400),
    "chunked-and-length": (post(b"Transfer-Encoding: chunked", LENGTH, content=CHUNKED), 400),
    "chunked-in-1.0": (post(b"Transfer-Encoding: chunked", content=CHUNKED, version=b"HTTP/1.0"), 400),
    "chunked-twice": (post(b"Transfer-Encoding: chunked, chunked", content=CHUNKED), 400),
    "chunked-in-two-lines": (post(*[b"Transfer-Encoding: chunked"] * 2, content=CHUNKED), 400),
    "chunked-not-last": (post(b"Transfer-Encoding: chunked, gzip", content=CHUNKED), 400),
    "coding-identity": (post(b"Transfer-Encoding: identity", LENGTH), 400),
    "coding-gzip": (post(b"Transfer-Encoding: gzip, chunked", content=CHUNKED), 501),
    "chunk-signed": (post(b"Transfer-Encoding: chunked", content=b"+1\r\n"), 400),
    "chunk-prefixed": (post(b"Transfer-Encoding: chunked", content=b"0x1\r\n"), 400),
    "chunk-underscore": (post(b"Transfer-Encoding: chunked", content=b"1_0\r\n"), 400),
    "chunk-negative": (post(b"Transfer-Encoding: chunked", content=b"-1\r\n"), 400),
    "chunk-empty": (post(b"Transfer-Encoding: chunked", content=b"\r\n"), 400),
    "chunk-of-5000-digits": (post(b"Transfer-Encoding: chunked", content=b"f" * 5000 + b"\r\n"), 400),
    "chunk-extension-of-64-kB": (post(b"Transfer-Encoding: chunked", content=b"1;" + b"x" * 65536 + b"\r\n"), 400),
    "chunk-without-end": (post(b"Transfer-Encoding: chunked", content=b"1\r\nxx\r\n"), 400),
    "chunks-of-one-byte": (
        post(b"Transfer-Encoding: chunked", content=b"1\r\n \r\n" * (FREE_CHUNKS + 50) + CHUNKED),
        400,
    ),
    "trailers-of-64-kB": (post(b"Transfer-Encoding: chunked", content=b"0\r\n" + b"a: b\r\n" * 12_000), 400),
}


@pytest.mark.parametrize("way", ["express", "ordinary"])
@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_request(data: bytes, status: int, way: str) -> None:
    """One answer, in JSON, with a Date and `Connection: close`; counted; nothing behind it is looked at."""
    wire = Wire()
    if way == "ordinary":
        wire.site.context.fast_path = None
    for behind in (b"", request("POST", "/update_metrics", body("behind")) * 2):
        connection = wire.connect()
        with capturedLogs() as logs:
            connection.send(data + behind)
            connection.send(request("POST", "/update_metrics", body("later")))
        (answer,) = connection.answers()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert list(answer.json) == ["error"]
        assert answer.headers["date"].endswith("GMT")
        assert connection.closed
        assert wire.ids() == []
        assert not [event for event in logs if "log_failure" in event]
    count = wire.metrics.value("orchestrator_http_requests_total", route="other", method="other", code=str(status))
    assert count == 2


#: Heads that are as they should be.
TAKEN = {
    "http-1.2": (post(LENGTH, version=b"HTTP/1.2"), False),
    "http-1.0": (post(LENGTH, version=b"HTTP/1.0"), True),
    "http-1.0-without-host": (post(LENGTH, version=b"HTTP/1.0", host=b""), True),
    "http-1.0-that-expects": (post(b"Expect: 100-continue", LENGTH, version=b"HTTP/1.0"), True),
    "empty-line-before": (b"\r\n" + post(LENGTH), False),
    "host-empty": (post(LENGTH, host=b"Host:\r\n"), False),
    "host-address": (post(LENGTH, host=b"Host: [::1]:5000\r\n"), False),
    "host-lower-case": (post(LENGTH, host=b"host: x\r\n"), False),
    "zeros": (post(b"Content-Length: %0100d" % len(REPORT)), False),
    "space-and-tab": (post(b"Content-Length:\t %d \t" % len(REPORT)), False),
    "no-space": (post(b"Content-Length:%d" % len(REPORT)), False),
    "obs-text": (post(b"X: \xe9\xff", LENGTH), False),
    "chunked": (post(b"Transfer-Encoding: chunked", content=CHUNKED), False),
    "chunked-in-capitals": (post(b"TRANSFER-ENCODING: Chunked", content=CHUNKED), False),
    "chunk-extensions": (
        post(b"Transfer-Encoding: chunked", content=CHUNKED.replace(b"\r\n", b';a="b"\r\n', 1)),
        False,
    ),
    "chunks-of-one-byte": (
        post(b"Transfer-Encoding: chunked", content=b"1\r\n \r\n" * (FREE_CHUNKS - 1) + CHUNKED),
        False,
    ),
    "chunks-of-32-bytes": (
        post(
            b"Transfer-Encoding: chunked",
            content=(b"20\r\n%b\r\n" % (b" " * LEAST_CHUNK)) * (FREE_CHUNKS + 10) + CHUNKED,
        ),
        False,
    ),
    "chunk-zeros": (post(b"Transfer-Encoding: chunked", content=b"00" + CHUNKED), False),
    "trailers": (post(b"Transfer-Encoding: chunked", content=CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n"), False),
    "close": (post(b"Connection: close", LENGTH), True),
    "close-in-capitals": (post(b"Connection: CLOSE", LENGTH), True),
    "close-first": (post(b"Connection: close, x", LENGTH), True),
    "close-last": (post(b"Connection: x,close", LENGTH), True),
    "close-in-another-line": (post(b"Connection: keep-alive", b"Connection:close", LENGTH), True),
    "close-among-empty-members": (post(b"Connection: , ,close,", LENGTH), True),
    "closed": (post(b"Connection: closed", LENGTH), False),
    "close-x": (post(b"Connection: close x", LENGTH), False),
    "upgrade": (post(b"Connection: upgrade", b"Upgrade: h2c", LENGTH), False),
    "te": (post(b"TE: trailers", b"Connection: TE", LENGTH), False),
    "conditions": (post(b"If-Match: *", b"If-Unmodified-Since: yesterday", b"Range: bytes=0-1", LENGTH), False),
}


@pytest.mark.parametrize("way", ["express", "ordinary"])
@pytest.mark.parametrize(("data", "closes"), TAKEN.values(), ids=TAKEN)
def test_what_is_a_request(data: bytes, closes: bool, way: str) -> None:
    """The report is stored; the connection ends if the client wants it to, or is one of HTTP/1.0, and is told."""
    wire = Wire()
    if way == "ordinary":
        wire.site.context.fast_path = None
    connection = wire.connect()
    connection.send(data)
    (answer,) = connection.answers()
    assert (answer.status, answer.headers.get("connection")) == (200, "close" if closes else None)
    assert connection.closed == closes
    connection.send(request("POST", "/update_metrics", body("n2")))
    assert wire.ids() == (["n1"] if closes else ["n1", "n2"])


@pytest.mark.parametrize("digits", [16, 19, 20, 400, 5000, 60_000])
def test_a_length_of_many_digits_is_too_long(digits: int) -> None:
    """413, as any body over the limit, and no number that Python refuses to read."""
    (answer,) = sent(Wire(), post(b"Content-Length: " + b"9" * digits))
    assert (answer.status, answer.json) == (413, {"error": "the body is over the limit of 1000000 bytes"})


def test_a_chunk_that_says_it_is_huge_is_too_long() -> None:
    """As soon as there are more bytes than the limit; none of them is kept."""
    wire = Wire(max_body=1000)
    (answer,) = sent(wire, post(b"Transfer-Encoding: chunked", content=b"f" * 1000 + b"\r\n" + b"x" * 1001))
    assert answer.status == 413


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        ([b"Expect: 200-ok"], 417, "Expect"),
        ([b"Expect: 100-continue, x"], 417, "Expect"),
        ([b'If-Match: "v1"'], 412, "If-Match"),
        ([b'If-Match: "v1", "v2"'], 412, "If-Match"),
    ],
)
def test_what_is_asked_of_no_server_like_this(lines: list[bytes], status: int, words: str) -> None:
    """Said before the body is sent, so that it need not be; without a body the connection goes on."""
    wire = Wire()
    (answer,) = sent(wire, post(*lines, LENGTH, content=b""))
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert words in answer.json["error"]
    connection = wire.connect()
    connection.send(
        b"GET /nodes HTTP/1.1\r\nHost: x\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + request("GET", "/nodes")
    )
    assert [answer.status for answer in connection.answers()] == [status, 200]


@pytest.mark.parametrize("path", ["/query", "/api/v1/query"])
def test_refusals_have_prometheus_envelope(path: str) -> None:
    """On the routes that answer PromQL, with a body and without."""
    wire = Wire(max_body=10)
    for answer in (
        wire.ask("GET", f"{path}?q=up", Expect="x"),
        wire.ask("BREW", path),
        wire.ask("POST", path, b"x" * 9, Expect="x"),
        wire.ask("POST", path, b"x" * 11),
    ):
        assert answer.status in {413, 417, 501}
        assert answer.json["status"] == "error"
        assert answer.json["errorType"] == "bad_data"


@pytest.mark.parametrize("method", ["BREW", "get", "Post", "PROPFIND"])
def test_an_unknown_method_is_501(method: str) -> None:
    """Methods are told apart by their case; the connection goes on."""
    wire = Wire()
    connection = wire.connect()
    connection.send(request(method, "/nodes") + request("GET", "/nodes"))
    first, second = connection.answers()
    assert (first.status, second.status) == (501, 200)
    assert ascii(method) in first.json["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY"])
def test_a_known_method_that_is_not_allowed_is_405(method: str) -> None:
    """With those that are."""
    answer = Wire().ask(method, "/nodes")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_100_continue() -> None:
    """To a client of HTTP/1.1 that waits with its body, once, before the answer; to none whose body is refused."""
    connection = Wire().connect()
    connection.send(post(b"expect: 100-Continue", LENGTH, content=b""))
    assert connection.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.transport.clear()
    connection.send(REPORT)
    assert [answer.status for answer in connection.answers()] == [200]
    connection = Wire(max_body=1).connect()
    connection.send(post(b"Expect: 100-continue", LENGTH, content=b""))
    assert [answer.status for answer in connection.answers()] == [413]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://host:5000/nodes", 200),
        ("HTTP://HOST/nodes", 200),
        ("http://[::1]:5000/nodes?x=1", 200),
        ("http://elsewhere.example/no/such", 404),
        ("http://host", 200),
        ("http://host?q=up", 200),
    ],
)
def test_absolute_targets(target: str, status: int) -> None:
    """They are read as their paths; the host in them, and the Host header beside it, decide nothing."""
    wire = Wire()
    assert wire.ask("GET", target).status == status
    assert wire.ask("POST", target, b"{}").status in {404, 405}


@pytest.mark.parametrize("authority", ["host", "host:5000", "elsewhere", "[::1]"])
def test_an_authority_is_no_way_round_the_gate(authority: str) -> None:
    """The same token is asked for, whoever the target says it is for."""
    wire = gated()
    wire.report(body("n1"), **bearer(Role.REPORT))
    target = f"http://{authority}/nodes/n1"
    assert wire.ask("GET", target).status == 401
    assert wire.ask("DELETE", target, **bearer(Role.QUERY)).status == 403
    assert wire.ask("POST", f"http://{authority}/update_metrics", body("n2")).status == 401
    assert wire.ids() == ["n1"]
    assert wire.ask("GET", target, **bearer(Role.QUERY)).status == 200


def test_options_of_the_server() -> None:
    """`OPTIONS *` is answered, with no body."""
    answer = Wire().ask("OPTIONS", "*")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


PATHS = [
    "/",
    "/nodes",
    "/nodes/n1",
    "/metrics",
    "/-/healthy",
    "/-/ready",
    "/openapi.yaml",
    "/static/page.css",
    "/no/such",
]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(path: str) -> None:
    """The same status, and the same length where there is one; and every answer has a Date."""
    wire = Wire()
    wire.report(REPORT)
    got = wire.ask("GET", path)
    connection = wire.connect()
    connection.send(request("HEAD", path))
    wire.clock.pump([0] * 20)
    head, _, rest = connection.transport.value().partition(b"\r\n\r\n")
    assert rest == b""
    assert head.split(b" ")[1] == str(got.status).encode()
    assert b"\r\nDate: " in head
    assert "date" in got.headers
    if b"\r\nContent-Length: " in head:
        assert f"\r\nContent-Length: {got.headers['content-length']}".encode() in head


def test_a_head_that_is_refused_early_has_no_body() -> None:
    """HEAD has none, whatever the answer."""
    connection = Wire(max_body=1).connect()
    connection.send(b"HEAD /nodes HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
    data = connection.transport.value()
    assert data.startswith(b"HTTP/1.1 413 ")
    assert data.endswith(b"\r\n\r\n")


#: What both ways have to read alike in an Authorization header, where `%s` is a good token.
AUTHORIZATIONS = [
    b"Bearer %s", b"bearer %s", b"Bearer  %s", b"Bearer\t%s", b"Bearer %s ", b"\tBearer %s\t", b"Bearer %s\n",
    b"Bearer \n%s", b"Bearer\n %s", b"\nBearer %s", b"Bearer %s\x00", b"Bearer %s\x0b", b"Bearer\x0c%s",
    b"Bearer %s\x7f",
    b"Bearer %s\xa0", b"Bearer %s\r", b"Bearer \r%s", b"Bearer %s,", b"Bearer %s, Bearer %s", b"Bearer %s\r\n x",
    b"Bearer %s\nContent-Length: 3", b"Basic Og==\n", b"",
]  # fmt: skip


@pytest.mark.parametrize("gate", ["open", "closed"])
@pytest.mark.parametrize("form", AUTHORIZATIONS)
def test_both_ways_read_a_token_alike(form: bytes, gate: str) -> None:
    """A bare LF, a NUL and other white space make no token of one that is none."""
    token = TOKENS[Role.REPORT].encode()
    seen = []
    for fast_path in (True, False):
        wire = gated() if gate == "closed" else Wire(gate=Gate({}))
        if not fast_path:
            wire.site.context.fast_path = None
        value = form.replace(b"%s", token)
        answers = sent(wire, post(b"Authorization: " + value, b"Content-Type: application/json", LENGTH))
        seen.append(([(answer.status, answer.body) for answer in answers], wire.ids()))
    assert seen[0] == seen[1]
    spoiled = any((byte < 32 and byte != 9) or byte == 127 for byte in form)
    assert spoiled == (seen[0][0][0][0] == 400)
