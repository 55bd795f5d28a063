"""The names of headers that Twisted remembers."""

from __future__ import annotations

import tracemalloc

from twisted.web.http_headers import Headers

from orchestratord.web.server.header_names import remember_short_names_only


def test_long_names_are_not_remembered() -> None:
    """A thousand names of 10 kB each leave nothing behind; short ones are canonical as ever."""
    remember_short_names_only()
    tracemalloc.start()
    try:
        for number in range(1000):
            Headers().addRawHeader(b"x%d-" % number + b"a" * 10_000, b"1")
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 500_000
    headers = Headers({b"content-type": [b"a"]})
    headers.addRawHeader(b"x-" + b"a" * 100, b"b")
    assert list(headers.getAllRawHeaders()) == [(b"Content-Type", [b"a"]), (b"X-A" + b"a" * 99, [b"b"])]
