"""The issuer's keys from a URL: when they are fetched, and what happens when they cannot be."""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH

from orchestratord.security.jwks import (
    AGENT,
    AT_MOST_EVERY,
    FETCH_SECONDS,
    MAX_KEY_SET,
    REFRESH_EVERY,
    KeySource,
)
from tests.peers import jwks_refusal
from tests.tokens import jwk, key_set

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

URL = "https://issuer.test/openid/v1/jwks"


class FakeResponse:
    """A response whose body is there at once, or never ends."""

    def __init__(self, code: int, body: bytes, *, ends: bool = True) -> None:
        self.code = code
        self._body = body
        self._ends = ends
        self.length = UNKNOWN_LENGTH

    def deliverBody(self, protocol: Any) -> None:
        """Give the body."""
        try:
            protocol.dataReceived(self._body)
        except Exception:  # noqa: BLE001 - what a transport does with a protocol that raises
            protocol.connectionLost(Failure())
            return
        if self._ends:
            protocol.connectionLost(Failure(ResponseDone()))


class Fetching:
    """A source on a clock, whose agent is this; requests are answered with `answer`, or left open."""

    def __init__(self, answer: Any = None) -> None:
        self.clock = Clock()
        self.answer = answer
        self.sent: list[Headers] = []
        self.keys: list[dict[str, Any]] = []
        self.tokens = [b"first", b"second"]
        self.source = KeySource(
            self.clock, URL, use=self.keys.append, agent=self, token=lambda: self.tokens[len(self.sent) % 2]
        )

    def request(self, method: bytes, uri: bytes, headers: Headers | None = None) -> Deferred[Any]:
        """Take a request."""
        assert (method, uri) == (b"GET", URL.encode())
        assert headers is not None
        self.sent.append(headers)
        response: Deferred[Any] = Deferred()
        (accept,) = headers.getRawHeaders(b"Accept", [])
        if jwks_refusal("GET", uri.decode().removeprefix("https://issuer.test"), accept.decode()) is not None:
            response.callback(FakeResponse(406, b""))
            return response
        if isinstance(self.answer, Exception):
            response.errback(self.answer)
        elif self.answer is not None:
            response.callback(self.answer)
        return response

    def start(self) -> list[str]:
        """Start it; return what it logged as a warning."""
        return self.during(self.source.startService)

    def during(self, work: Any) -> list[str]:
        """Return the warnings while something is done."""
        with capturedLogs() as logs:
            work()
        return [formatEvent(event) for event in logs if event["log_level"] >= LogLevel.warn]


def good(*names: str) -> FakeResponse:
    """Return an answer with keys of these names."""
    return FakeResponse(200, key_set(*(jwk(name) for name in names)))


def test_keys_are_there_from_the_start() -> None:
    """And fetched again every ten minutes, with the token as it is by then."""
    fetching = Fetching(good("k1"))
    assert fetching.start() == []
    assert [list(keys) for keys in fetching.keys] == [["k1"]]
    fetching.answer = good("k1", "k2")
    fetching.clock.advance(REFRESH_EVERY)
    assert [list(keys) for keys in fetching.keys] == [["k1"], ["k1", "k2"]]
    assert [sent.getRawHeaders(b"Authorization") for sent in fetching.sent] == [[b"Bearer first"], [b"Bearer second"]]


def test_what_is_sent() -> None:
    """No more than who we are, and what we take; a kube-apiserver answers 406 to who takes JSON alone."""
    fetching = Fetching(good("k1"))
    fetching.start()
    assert dict(fetching.sent[0].getAllRawHeaders()) == {
        b"Accept": [b"application/jwk-set+json, application/json, */*;q=0.1"],
        b"Authorization": [b"Bearer first"],
        b"User-Agent": [AGENT.encode()],
    }


def test_an_unknown_key_is_fetched_at_most_every_30_s() -> None:
    """Whoever makes up key ids makes nobody fetch without end, and is told 401 once it is known that there is none."""
    fetching = Fetching(good("k1"))
    fetching.start()
    assert not fetching.source.wanted()
    fetching.clock.advance(AT_MOST_EVERY - 1)
    assert [fetching.source.wanted() for _ in range(1000)] == [False] * 1000
    assert len(fetching.sent) == 1
    fetching.clock.advance(1)
    fetching.answer = None
    assert [fetching.source.wanted() for _ in range(1000)] == [True] * 1000
    assert len(fetching.sent) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Refused(), "refused"),
        (FakeResponse(401, b""), "it answers 401"),
        (FakeResponse(302, b""), "it answers 302"),
        (FakeResponse(200, b"<html>"), "is no JSON Web Key Set"),
        (FakeResponse(200, b'{"keys":[]}'), "holds no key"),
        (FakeResponse(200, b"x" * (MAX_KEY_SET + 1)), "longer than 262144 bytes"),
    ],
)
def test_a_fetch_that_fails(answer: Any, said: str) -> None:
    """One warning for the same reason; keys that there were go on; an unknown one may turn up yet, 30 s later."""
    fetching = Fetching(good("k1"))
    fetching.start()
    fetching.answer = answer
    (warning,) = fetching.during(lambda: fetching.clock.advance(REFRESH_EVERY))
    assert said in warning
    assert len(fetching.keys) == 1
    assert fetching.source.wanted()
    assert fetching.during(lambda: fetching.clock.advance(AT_MOST_EVERY)) == []
    assert fetching.source.wanted()
    fetching.answer = good("k2")
    fetching.clock.advance(AT_MOST_EVERY)
    fetching.source.wanted()
    assert list(fetching.keys[-1]) == ["k2"]
    assert not fetching.source.wanted()


@pytest.mark.parametrize("answer", [None, FakeResponse(200, b'{"keys":', ends=False)])
def test_a_fetch_has_a_deadline(answer: Any) -> None:
    """One that is never answered, or never ends, is given up; and does not stand in the way of the next."""
    fetching = Fetching(answer)
    fetching.start()
    (warning,) = fetching.during(lambda: fetching.clock.advance(FETCH_SECONDS))
    assert "no whole answer within 10 s" in warning
    fetching.answer = good("k1")
    fetching.clock.advance(AT_MOST_EVERY - FETCH_SECONDS)
    fetching.source.wanted()
    assert [list(keys) for keys in fetching.keys] == [["k1"]]


def test_an_answer_of_tiny_parts_does_not_take_long() -> None:
    """As long as one of a few: they are counted as they come."""
    whole = key_set(jwk("k1"))

    class Parts(FakeResponse):
        def deliverBody(self, protocol: Any) -> None:
            for _ in range(30_000):
                protocol.dataReceived(b" ")
            super().deliverBody(protocol)

    fetching = Fetching(Parts(200, whole))
    began = process_time()
    fetching.start()
    assert process_time() - began < 1
    assert [list(keys) for keys in fetching.keys] == [["k1"]]


def test_it_stops() -> None:
    """What is under way ends with it, without a word."""
    fetching = Fetching()
    fetching.start()
    assert fetching.during(fetching.source.stopService) == []
    assert fetching.clock.getDelayedCalls() == []
    assert not fetching.source.wanted() or len(fetching.sent) == 1
