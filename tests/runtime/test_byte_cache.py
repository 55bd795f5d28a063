"""A cache whose bound is bytes."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from orchestratord.nodes.families import BUILT_IN
from orchestratord.promql.client import Answer
from orchestratord.promql.coalescing import CoalescingClient
from orchestratord.promql.memory import MemoryClient
from orchestratord.promql.params import Query, passed_through
from orchestratord.runtime.byte_cache import ByteCache
from orchestratord.runtime.memory_budget import MemoryBudget
from orchestratord.runtime.time_slices import TimeSlices
from orchestratord.web.api.queries import Queries
from tests.fakes import FakeClocks, FakeUpstreams
from tests.promql.test_memory import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def kept(limit: int) -> ByteCache[str, str]:
    """Return a cache in which each character of a value counts a byte."""
    return ByteCache(limit, lambda _, value: len(value))


def test_the_one_that_nobody_asked_for_longest_goes_first() -> None:
    """When the bytes of all are over the limit."""
    cache = kept(3000)
    cache.put("a", "x" * 1000)
    cache.put("b", "x" * 1000)
    assert cache.get("a") == "x" * 1000
    cache.put("c", "x" * 1000)
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c")) == ("x" * 1000, "x" * 1000)
    assert len(cache) == 2
    assert 2000 < cache.held <= cache.limit


def test_what_is_larger_than_all_is_not_kept() -> None:
    """And nothing goes for its sake, except what stood under its key."""
    cache = kept(3000)
    cache.put("a", "x")
    cache.put("b", "x")
    cache.put("b", "x" * 4000)
    assert (cache.get("a"), cache.get("b"), cache.get("b", "none")) == ("x", None, "none")


def test_a_value_in_the_place_of_another_counts_once() -> None:
    """And what is dropped no more."""
    cache = kept(3000)
    for _ in range(10):
        cache.put("a", "x" * 1000)
    one = cache.held
    assert one < 2000
    assert cache.oldest() == ("a", "x" * 1000)
    cache.drop("a")
    cache.drop("a")
    assert (cache.held, cache.peek("a"), cache.oldest()) == (0, None, None)


def selections() -> tuple[Any, Callable[[str], object]]:
    """Return the cache of selections, and what fills it."""
    client = Setup("always").client
    return client._remembered, lambda text: client._selected(Query("/api/v1/query", (("query", text),)))


def queries() -> tuple[Any, Callable[[str], object]]:
    """Return the cache of queries that were read, and what fills it."""
    reader = Queries(FakeUpstreams(), max_length=10_000, remembered=10_000_000)
    return reader._remembered, lambda text: reader._read("/api/v1/query", b"", text.encode())


def answers() -> tuple[Any, Callable[[str], object]]:
    """Return the cache of answers, and what fills it."""
    setup = Setup("never")
    upstreams = FakeUpstreams()
    client = CoalescingClient(setup.clock, upstreams, query_timeout=10, cache_seconds=60, cache_bytes=10_000_000)

    def ask(text: str) -> object:
        upstreams.answer = Answer(200, b"application/json", text.encode())
        upstreams.asked.clear()
        query = passed_through("/api/v1/query", {"query": [text], "x": [text[:5]]}, max_length=100_000)
        return Deferred.fromCoroutine(client.fetch(query))

    return client._cache, ask


def selectors(number: int) -> str:
    """Return a selector of every kind, each another one, of up to 500 characters."""
    kinds = ("{node_id=~'n%d|m|k.'}", '{node_id="n%d"}', "{}  # %d", "{job='%d'}", "{node_id!~'n%d', node_id!='k'}")
    return "page_faults" + kinds[number % 5] % number


@pytest.mark.parametrize(
    ("cache", "texts"),
    [
        (selections, (selectors(number) for number in range(3000))),
        (selections, (f"page_faults{{node_id=~'{number}{'|n' * 200}'}}" for number in range(1000))),
        (
            selections,
            (f"page_faults{{node_id=~'{number}|{'|'.join(map(str, range(100)))}'}}" for number in range(1000)),
        ),
        (selections, (f"page_faults{{{','.join(['node_id=`n`'] * 30)},node_id='{n}'}}" for n in range(1000))),
        (queries, (f"query={number}" for number in range(3000))),
        (queries, (f"query={number}{'&a' * 150}" for number in range(500))),
        (queries, (f"query={number}{'%F0%9F%98%80' * 30}" for number in range(1000))),
        (answers, (f"{number}" for number in range(3000))),
        (answers, (f"{number}" + "x" * 16_000 for number in range(200))),
        (answers, (f"{number}" + "\U0001f600" * 4000 for number in range(200))),
    ],
)
def test_each_cache_counts_all_that_it_holds(
    cache: Callable[[], tuple[Any, Callable[[str], object]]], texts: Iterator[str]
) -> None:
    """Keys, too: Python has taken no more than what is counted, and what is counted is within the limit."""
    held, fill = cache()
    fill("page_faults")  # what is made once
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        counted = held.held
        for text in texts:
            fill(text)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(held) > 100
    assert taken <= held.held - counted + 50_000
    assert held.held <= held.limit


def test_a_compiled_expression_counts_what_its_library_may_take() -> None:
    """A quarter of a megabyte, whatever the length of the query: at most 127 are remembered."""
    client = MemoryClient(
        TimeSlices(Setup("never").clock),
        FakeUpstreams(),
        Setup("never").nodes,
        BUILT_IN,
        clocks=FakeClocks(),
        mode="always",
        budget=MemoryBudget(1000),
    )
    for number in range(400):
        client.at_once(Query("/api/v1/query", (("query", f'page_faults{{node_id=~"n{number}.*"}}'),)))
    assert 100 < len(client._remembered) < 128
    assert client._remembered.held <= client._remembered.limit == 33_554_432
