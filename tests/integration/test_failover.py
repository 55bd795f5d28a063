"""A first Prometheus that does not answer, and clients with little time: at most one of them pays for it."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import Daemon, free_port, full_report, until
from tests.integration.upstream import EMPTY, Exchange, FakeUpstream, found_nothing, never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

pytestmark = pytest.mark.integration

ASKED = 40
#: What a client gives us, as a scheduler might. A plain selector, which memory can answer.
IMPATIENT = {"q": "page_faults", "timeout": "0.25"}


@contextmanager
def refused() -> Iterator[str]:
    """Give the URL of nobody."""
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def black_hole() -> Iterator[str]:
    """Give the URL of a listener whose queue is full: the kernel drops what opens another connection."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def resets(exchange: Exchange) -> None:
    """End the connection with a reset."""
    exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def not_ready(exchange: Exchange) -> None:
    """Answer as Prometheus does while it reads its log."""
    exchange.reply("503 Service Unavailable", "text/plain; charset=utf-8", b"Service Unavailable")


def who_are_you(exchange: Exchange) -> None:
    """Answer as a proxy does that does not know us."""
    exchange.reply("401 Unauthorized", "text/plain; charset=utf-8", b"who are you?", "WWW-Authenticate: Basic")


def bad(answer: Callable[[Exchange], None]) -> Callable[[], AbstractContextManager[str]]:
    """Return what gives the URL of an upstream that answers in this way, probes too."""

    @contextmanager
    def upstream() -> Iterator[str]:
        with FakeUpstream(answer, probed=answer) as upstream:
            yield upstream.url

    return upstream


DEAD = pytest.mark.parametrize(
    "dead",
    [
        pytest.param(refused, id="refused"),
        pytest.param(black_hole, id="no SYN-ACK"),
        pytest.param(bad(never), id="accepts and hangs"),
        pytest.param(bad(resets), id="resets"),
        pytest.param(bad(not_ready), id="503"),
        pytest.param(bad(who_are_you), id="401"),
    ],
)


def statuses(daemon: Daemon) -> list[int]:
    """Ask so many times, one after the other; each query is another one, so that none shares the others' exchange."""
    return [daemon.get("/query", IMPATIENT).status_code for _ in range(ASKED)]


def is_up(daemon: Daemon, url: str) -> float | None:
    """Return what the metric says of an upstream."""
    return daemon.sample(f'orchestrator_upstream_up{{upstream="{url}"}}')


@DEAD
def test_the_next_one_answers_the_impatient(
    start: Callable[..., Daemon], dead: Callable[[], AbstractContextManager[str]]
) -> None:
    """After one failure at the most, every answer is the second one's; and the metric says which of them is down."""
    with dead() as first, FakeUpstream(found_nothing) as second:
        daemon = start("--prometheus", first, "--prometheus", second.url)
        answers = statuses(daemon)
        assert answers[1:] == [200] * (ASKED - 1), answers
        until(lambda: is_up(daemon, first) == 0, "an upstream that is known to be down")
        assert is_up(daemon, second.url) == 1


@DEAD
def test_memory_answers_the_impatient(
    start: Callable[..., Daemon], dead: Callable[[], AbstractContextManager[str]]
) -> None:
    """After one failure at the most, where nobody else is there."""
    with dead() as url:
        daemon = start("--prometheus", url, "--latest-from-memory", "fallback")
        assert daemon.post(full_report("n1")).status_code == 200
        answers = statuses(daemon)
        assert answers[1:] == [200] * (ASKED - 1), answers
        assert daemon.get("/query", IMPATIENT).headers["X-Orchestrator-Source"] == "memory"
        until(lambda: is_up(daemon, url) == 0, "an upstream that is known to be down")


def test_a_dead_upstream_is_found_dead_and_back_without_queries(start: Callable[..., Daemon]) -> None:
    """By the daemon's own probes: the metric follows, and no client pays for it."""
    with FakeUpstream(found_nothing, probed=never) as first, FakeUpstream(found_nothing) as second:
        daemon = start("--prometheus", first.url, "--prometheus", second.url)
        until(lambda: is_up(daemon, first.url) == 0, "an upstream that is known to be down")
        assert daemon.get("/query", IMPATIENT).content == EMPTY
        assert first.asked == []
        first.probed = found_nothing
        until(lambda: is_up(daemon, first.url) == 1, "an upstream that is known to be back")
        assert daemon.get("/query", IMPATIENT).content == EMPTY
        assert len(first.asked) == 1


def test_a_heavy_query_leaves_its_upstream_up(start: Callable[..., Daemon]) -> None:
    """Clients give it up, again and again; whatever is asked after the probe goes to the same upstream."""

    def light_goes_to_first() -> bool:
        before = len(first.asked)
        assert daemon.get("/query", {"q": "light"}).status_code == 200
        return any(("query", "light") in asked.params for asked in first.asked[before:])

    def heavy(exchange: Exchange) -> None:
        if ("query", "heavy") in exchange.asked.params:
            exchange.hang_up_seen()
        else:
            found_nothing(exchange)

    with FakeUpstream(heavy) as first, FakeUpstream(found_nothing) as second:
        daemon = start("--prometheus", first.url, "--prometheus", second.url)
        for _ in range(4):
            assert daemon.get("/query", {"q": "heavy", "timeout": "0.25"}).status_code == 504
            until(light_goes_to_first, "the answer to the probe, after which the upstream is asked again")
            assert is_up(daemon, first.url) == 1
        assert "is down" not in daemon.output()
