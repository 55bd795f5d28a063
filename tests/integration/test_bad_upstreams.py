"""Upstreams that misbehave: never a hang, never a 200, and reports and scrapes go on meanwhile."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import PATIENCE, Daemon, free_port, report, until
from tests.integration.upstream import EMPTY, Exchange, FakeUpstream, HeldUpstream, echo, found_nothing, never

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

pytestmark = pytest.mark.integration

#: Seconds that a daemon here gives an upstream.
DEADLINE = 1.0
#: Seconds that a busy machine may add to them.
SLACK = 4.0
#: For a daemon that may wait as long as a test does.
PATIENT = ("--query-timeout", str(PATIENCE))

#: Made beforehand: packing it takes longer than the deadline on a busy machine.
BOMB = gzip.compress(b" " * 5_000_000)

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

Answer = Callable[[Exchange], None]


def half_a_head(exchange: Exchange) -> None:
    """Begin an answer, and say nothing more."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: appl")
    exchange.hang_up_seen()


def silence_after_the_head(exchange: Exchange) -> None:
    """Send the head, and nothing more."""
    exchange.send(JSON_HEAD + b"Content-Length: 100\r\n\r\n")
    exchange.hang_up_seen()


def a_byte_now_and_then(exchange: Exchange) -> None:
    """Send a body that would take minutes."""
    exchange.send(JSON_HEAD + b"Content-Length: 1000\r\n\r\n")
    while not exchange.closing.wait(0.1):
        exchange.send(b" ")


def a_head_now_and_then(exchange: Exchange) -> None:
    """Send a head that would take minutes."""
    exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
    while not exchange.closing.wait(0.1):
        exchange.send(b"x")


def silence_in_a_chunk(exchange: Exchange) -> None:
    """Begin a chunk, and say nothing more."""
    exchange.send(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\n{")
    exchange.hang_up_seen()


def endless(exchange: Exchange) -> None:
    """Send a body without end."""
    exchange.send(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while not exchange.closing.is_set():
        exchange.send(b"10000\r\n" + b" " * 65536 + b"\r\n")


def too_long(exchange: Exchange) -> None:
    """Send a body that is a byte over the limit."""
    exchange.reply("200 OK", "application/json", EMPTY.ljust(100_001))


def too_long_when_unpacked(exchange: Exchange) -> None:
    """Send a bomb."""
    exchange.reply("200 OK", "application/json", BOMB, "Content-Encoding: gzip")


def plain_500(exchange: Exchange) -> None:
    """Fail as a proxy does."""
    exchange.reply("500 Internal Server Error", "text/plain", b"boom")


def html_200(exchange: Exchange) -> None:
    """Answer as a login page does."""
    exchange.reply("200 OK", "text/html; charset=utf-8", b"<html>Sign in</html>")


def no_content_type(exchange: Exchange) -> None:
    """Answer with who knows what."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


def no_content(exchange: Exchange) -> None:
    """Answer with nothing."""
    exchange.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


def cut_short(exchange: Exchange) -> None:
    """End before the length that was promised."""
    exchange.send(JSON_HEAD + b"Content-Length: %d\r\n\r\n" % (len(EMPTY) + 1) + EMPTY)


def cut_chunks(exchange: Exchange) -> None:
    """End without the last chunk."""
    exchange.send(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EMPTY), EMPTY))


def broken_chunks(exchange: Exchange) -> None:
    """Send what is no chunk."""
    exchange.send(JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + EMPTY)


def without_length(exchange: Exchange) -> None:
    """End the connection where the body should end, which nobody can tell from a cut."""
    exchange.send(JSON_HEAD + b"Connection: close\r\n\r\n" + EMPTY)


def broken_gzip(exchange: Exchange) -> None:
    """Say gzip, and send something else."""
    exchange.reply("200 OK", "application/json", EMPTY, "Content-Encoding: gzip")


def cut_gzip(exchange: Exchange) -> None:
    """Send half of a packed body, as long as was promised."""
    packed = gzip.compress(EMPTY * 100, mtime=0)
    exchange.reply("200 OK", "application/json", packed[: len(packed) // 2], "Content-Encoding: gzip")


def redirect(exchange: Exchange) -> None:
    """Send elsewhere, with a page."""
    exchange.reply("302 Found", "text/html", b"<a>there</a>", "Location: /elsewhere")


def json_redirect(exchange: Exchange) -> None:
    """Send elsewhere, in JSON."""
    exchange.reply("307 Temporary Redirect", "application/json", b"{}", "Location: /elsewhere")


def closes_at_once(exchange: Exchange) -> None:
    """End the connection without a word."""
    del exchange


def no_http(exchange: Exchange) -> None:
    """Speak something else."""
    exchange.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")


def error_of(answer: requests.Response) -> tuple[int, str, str]:
    """Check that an answer is in Prometheus' error envelope; return its status, type and text."""
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert list(body) == ["status", "errorType", "error"]
    assert body["status"] == "error"
    return answer.status_code, body["errorType"], body["error"]


Asking = Callable[[Answer], tuple[Daemon, FakeUpstream]]


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """Give a function that has the one upstream of a daemon answer in this way."""
    with FakeUpstream(found_nothing) as upstream:
        options = (
            "--prometheus",
            upstream.url,
            "--query-timeout",
            str(DEADLINE),
            "--limits.max_answer_bytes",
            "100000",
        )
        daemon = Daemon(tmp_path_factory.mktemp("bad"), *options)

        def ask(answer: Answer) -> tuple[Daemon, FakeUpstream]:
            upstream.answer = answer
            upstream.asked.clear()
            return daemon, upstream

        try:
            daemon.started()
            yield ask
            daemon.stop()
        finally:
            daemon.close()


@pytest.mark.parametrize(
    "answer", [never, half_a_head, silence_after_the_head, a_byte_now_and_then, a_head_now_and_then, silence_in_a_chunk]
)
def test_slow(asking: Asking, answer: Answer) -> None:
    """One deadline holds for the whole exchange, head and body; meanwhile reports and scrapes are served."""
    daemon, upstream = asking(answer)
    with daemon.wire() as one, daemon.wire() as other:
        begun = time.monotonic()
        one.get("/query?q=up")
        other.get("/api/v1/query_range?query=up&start=1&end=2&step=1")
        upstream.until_open(2)
        assert daemon.post(report("meanwhile", page_faults=1)).status_code == 200
        assert daemon.sample('page_faults{node_id="meanwhile"}') == 1
        assert "meanwhile" in daemon.nodes()
        assert daemon.get("/-/ready").status_code == 200
        for wire in (one, other):
            raw = wire.answer()
            assert (raw.status, raw.json()["errorType"]) == (504, "timeout")
        elapsed = time.monotonic() - begun
    assert DEADLINE - 0.1 < elapsed < DEADLINE + SLACK
    upstream.until_open(0)


def test_a_shorter_deadline(asking: Asking) -> None:
    """`timeout` makes the deadline shorter, never longer."""
    daemon, _ = asking(never)
    begun = time.monotonic()
    status, error_type, text = error_of(daemon.get("/query", {"q": "up", "timeout": "200ms"}))
    assert (status, error_type) == (504, "timeout")
    assert "0.2 s" in text
    assert time.monotonic() - begun < DEADLINE
    begun = time.monotonic()
    assert error_of(daemon.get("/query", {"q": "up", "timeout": "1h"}))[0] == 504
    assert time.monotonic() - begun < DEADLINE + SLACK


@pytest.mark.parametrize(
    "answer",
    [
        plain_500,
        html_200,
        no_content_type,
        no_content,
        cut_short,
        cut_chunks,
        broken_chunks,
        broken_gzip,
        cut_gzip,
        redirect,
        json_redirect,
        closes_at_once,
        no_http,
        too_long,
        too_long_when_unpacked,
        endless,
    ],
)
@pytest.mark.parametrize("target", ["/query?q=up", "/api/v1/labels"])
def test_broken(asking: Asking, answer: Answer, target: str) -> None:
    """What is no answer of Prometheus, is cut, or too long, is 502 unavailable, and the text names the upstream."""
    daemon, upstream = asking(answer)
    status, error_type, text = error_of(daemon.get(target))
    assert (status, error_type) == (502, "unavailable")
    assert upstream.url in text
    assert daemon.post(report("meanwhile")).status_code == 200
    upstream.until_open(0)
    assert [asked.path for asked in upstream.asked if asked.path == "/elsewhere"] == []


def test_a_body_that_ends_with_the_connection(asking: Asking) -> None:
    """A body whose end nobody marked may have been cut: never a 200."""
    daemon, _ = asking(without_length)
    assert error_of(daemon.get("/query", {"q": "up"}))[:2] == (502, "unavailable")


def test_bombs_do_not_unpack(start: Callable[..., Daemon]) -> None:
    """A packed answer takes no more memory than the limit allows, whatever it unpacks to."""
    bomb = gzip.compress(b" " * 200_000_000)

    def answer(exchange: Exchange) -> None:
        exchange.reply("200 OK", "application/json", bomb, "Content-Encoding: gzip")

    with FakeUpstream(answer) as upstream:
        daemon = start("--prometheus", upstream.url, "--limits.max_answer_bytes", "100000")
        assert daemon.get("/query").status_code == 400
        before = daemon.peak_memory()
        assert error_of(daemon.get("/query", {"q": "up"}))[:2] == (502, "unavailable")
        assert daemon.peak_memory() - before < 20_000


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        ("400 Bad Request", "bad_data"),
        ("404 Not Found", "not_found"),
        ("422 Unprocessable Entity", "execution"),
        ("500 Internal Server Error", "internal"),
        ("503 Service Unavailable", "timeout"),
    ],
)
def test_errors_in_json_are_passed_through(asking: Asking, status: str, error_type: str) -> None:
    """Prometheus' own errors are its answers: status, Content-Type and body as they are."""
    body = json.dumps({"status": "error", "errorType": error_type, "error": "because"}, indent=3).encode()

    def answer(exchange: Exchange) -> None:
        exchange.reply(status, "application/json; charset=utf-8", body)

    daemon, _ = asking(answer)
    got = daemon.get("/query", {"q": "up"})
    assert got.status_code == int(status[:3])
    assert (got.headers["Content-Type"], got.content) == ("application/json; charset=utf-8", body)


def test_answers_are_asked_for_unpacked(asking: Asking) -> None:
    """Whatever the client takes; one that is packed all the same is refused, and the text says so."""
    asked: list[dict[str, str]] = []

    def answer(exchange: Exchange) -> None:
        asked.append(exchange.asked.headers)
        exchange.reply("200 OK", "application/json", gzip.compress(EMPTY), "Content-Encoding: gzip")

    daemon, _ = asking(answer)
    with daemon.wire() as wire:
        wire.get("/query?q=up", "Accept-Encoding: gzip")
        got = wire.answer()
    assert got.status == 502
    assert b"answered with Content-Encoding 'gzip', which was not asked for" in got.body
    assert asked[0]["accept-encoding"] == "identity"


def test_just_the_limit(asking: Asking) -> None:
    """An answer as long as the limit is passed on whole."""
    body = EMPTY.ljust(100_000)

    def answer(exchange: Exchange) -> None:
        exchange.reply("200 OK", "application/json", body)

    daemon, _ = asking(answer)
    assert daemon.get("/query", {"q": "up"}).content == body


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Length: +2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\nContent-Length: 2",
        b"HTTP/" + b"1" * 5000 + b".1 200 OK\r\nContent-Length: 2",
    ],
    ids=["length", "signed", "underscore", "status", "version"],
)
def test_numbers_that_are_none(asking: Asking, head: bytes) -> None:
    """502, in our words, and no traceback in the log."""
    daemon, _ = asking(lambda exchange: exchange.send(head + b"\r\n\r\n{}"))
    answer = daemon.get("/query", {"q": "up"})
    assert error_of(answer)[:2] == (502, "unavailable")
    assert "Traceback" not in daemon.output()


def test_it_answers_again(asking: Asking) -> None:
    """The only upstream is asked at once again, however badly it did a moment ago."""
    daemon, _ = asking(closes_at_once)
    assert daemon.get("/query", {"q": "up"}).status_code == 502
    asking(found_nothing)
    assert daemon.get("/query", {"q": "up"}).content == EMPTY


def test_a_client_that_leaves(start: Callable[..., Daemon]) -> None:
    """A client that resets its connection ends the request upstream, long before its deadline, and makes room."""
    left = Event()

    def answer(exchange: Exchange) -> None:
        if exchange.hang_up_seen():
            left.set()

    with FakeUpstream(answer) as upstream:
        daemon = start("--prometheus", upstream.url, "--max-queries", "1", "--query-timeout", "600")
        for target in ("/query?q=up", "/api/v1/labels"):
            left.clear()
            with daemon.wire() as wire:
                wire.get(target)
                upstream.until_open(1)
                wire.reset()
            assert left.wait(PATIENCE)
        upstream.answer = found_nothing
        until(lambda: daemon.get("/query", {"q": "up"}).status_code == 200, "room for another query")
        cancelled = f'orchestrator_upstream_requests_total{{outcome="cancelled",upstream="{upstream.url}"}}'
        assert daemon.sample(cancelled) == 2


def test_too_many_queries(start: Callable[..., Daemon]) -> None:
    """Queries over the limit are 503 overloaded with Retry-After, at once; those in flight get their answers."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url, "--max-queries", "2", "--limits.query_queue", "0", *PATIENT)
        with daemon.wire() as one, daemon.wire() as other:
            one.get("/query?q=up")
            other.get("/api/v1/series?match[]=up")
            upstream.until_open(2)
            for target in ("/query?q=other", "/api/v1/query?query=another"):
                refused = daemon.get(target)
                assert error_of(refused)[:2] == (503, "overloaded")
                assert int(refused.headers["Retry-After"]) > 0
            assert daemon.post(report("meanwhile")).status_code == 200
            upstream.release()
            assert one.answer().body == EMPTY
            assert other.answer().body == EMPTY
        assert daemon.get("/query", {"q": "up"}).content == EMPTY


def test_identical_queries_take_one_place(start: Callable[..., Daemon]) -> None:
    """Clients that ask the same share one exchange; one of them may leave, and those who stay get the answer."""
    with HeldUpstream() as upstream:
        daemon = start("--prometheus", upstream.url, "--max-queries", "1", "--limits.query_queue", "0", *PATIENT)
        with daemon.wire() as one, daemon.wire() as other, daemon.wire() as leaver:
            for wire in (leaver, one, other):
                wire.get("/query?q=up")
            upstream.until_open(1)
            leaver.close()
            assert daemon.get("/query", {"q": "else"}).status_code == 503
            upstream.release()
            assert (one.answer().body, other.answer().body) == (EMPTY, EMPTY)
        assert len(upstream.asked) == 1


def test_failover(start: Callable[..., Daemon]) -> None:
    """A first upstream that is refused, broken or cut has the second one asked, within the one deadline."""
    with FakeUpstream(plain_500) as first, FakeUpstream(echo) as second:
        daemon = start("--prometheus", first.url, "--prometheus", second.url)
        for answer in (plain_500, html_200, cut_short, closes_at_once):
            first.answer = answer
            assert daemon.get("/query", {"q": "up"}).status_code == 200
        dead = start("--prometheus", f"http://127.0.0.1:{free_port()}", "--prometheus", second.url)
        assert dead.get("/query", {"q": "up"}).status_code == 200


def test_all_upstreams_are_named(start: Callable[..., Daemon]) -> None:
    """When none answers the text says of each why."""
    with FakeUpstream(html_200) as first:
        dead = f"http://127.0.0.1:{free_port()}"
        daemon = start("--prometheus", first.url, "--prometheus", dead)
        status, error_type, text = error_of(daemon.get("/query", {"q": "up"}))
    assert (status, error_type) == (502, "unavailable")
    assert first.url in text
    assert dead in text
