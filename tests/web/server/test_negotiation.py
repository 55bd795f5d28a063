"""Who gets a page."""

from __future__ import annotations

import pytest

from orchestratord.web.server.negotiation import accepts_gzip, exposition_accept, prefers_html
from tests.fakes import body
from tests.wire import Wire

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept",
    [
        CHROMIUM,
        "text/html",
        "text/*",
        "TEXT/HTML; q=0.5, application/json;q=0.4",
        "application/json;q=0.9, text/html;level=1",
        "application/json;q=0, */*",
    ],
)
def test_who_would_rather_have_a_page(accept: str) -> None:
    """Browsers name text/html, and give everything else less."""
    assert prefers_html(accept, "application/json")


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/*",
        "application/json, text/html",
        "text/html;q=0.5, */*",
        "text/html;q=0, */*;q=0.1",
        "text/html;q=nan",
        "text/html;q=2",
        "text/html;q=-1",
        "image/webp",
        ",;,;q=,",
    ],
)
def test_everybody_else_gets_what_they_always_got(accept: str) -> None:
    """`*/*` says no more than nothing; a tie is the API's; what is no quality counts as none."""
    assert not prefers_html(accept, "application/json")


def test_the_most_specific_range_counts() -> None:
    """Wherever in the header it stands."""
    assert not prefers_html("text/html;q=0.1, text/*;q=0.9", "text/plain")
    assert prefers_html("*/*;q=0.1, text/html", "text/plain")


@pytest.mark.parametrize(
    "header",
    [
        "gzip",
        "x-gzip",
        "GZip, deflate, br",
        "deflate;q=1.0, gzip;q=0.5",
        "gzip;q=0.5, identity;q=0.5",
        "*",
        "identity;q=0.1, *;q=0.2",
        "gzip, identity;q=0",
        "*;q=0, gzip;q=0.001",
    ],
)
def test_who_gets_gzip(header: str) -> None:
    """Who names it, by whichever name, or takes anything, and does not like a plain answer better."""
    assert accepts_gzip(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "identity",
        "br",
        "gzip;q=0",
        "gzip; q=0.000",
        "x-gzip;q=0",
        "gzip;q=0, *",
        "*;q=0",
        "gzip;q=0.5, identity",
        "gzip;q=0.5, identity;q=0.8",
        "identity;q=0",
        "gzip;q=2",
        "gzip;q=x",
        "gzipped",
        "," * 60 + "gzip",
    ],
)
def test_who_does_not(header: str) -> None:
    """A weight of 0 is a no; a plain answer is always possible; what is no weight counts as 0."""
    assert not accepts_gzip(header)


OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PROMETHEUS = f"{OPENMETRICS},application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
OLD, NEW = "text/plain;version=0.0.4", "text/plain;version=1.0.0"


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", OLD),
        ("*/*", OLD),
        (PROMETHEUS, OPENMETRICS),
        (f"{OPENMETRICS};q=0", OLD),
        (f"{OPENMETRICS};q=0, {NEW}", NEW),
        (f"{OPENMETRICS};q=0.5, {OLD}", OLD),
        (f"{OPENMETRICS};q=0.5, {OLD};q=0.6", OLD),
        (f"{OPENMETRICS};q=0.7, {OLD};q=0.6", OPENMETRICS),
        (f"{OLD}, {OPENMETRICS}", OPENMETRICS),
        (f"{OPENMETRICS};q=0.4, {NEW};q=0.5", NEW),
        (f"{NEW};q=0.4, {OPENMETRICS};q=0.5", OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        (f"{OPENMETRICS};q=0.9, */*", OLD),
        ("text/plain, application/openmetrics-text;q=0.9", OLD),
    ],
)
@pytest.mark.parametrize("encoding", ["gzip", "gzip;q=0"])
def test_the_exposition(accept: str, answered: str, encoding: str) -> None:
    """The format that weighs most, packed or not, and caches are told what it depends on."""
    wire = Wire()
    wire.report(body("n1", page_faults=1))
    for method in ("GET", "HEAD"):
        answer = wire.ask(method, "/metrics", Accept=accept, Accept_Encoding=encoding)
        assert answer.status == 200
        told = answer.headers["content-type"].replace(" ", "")
        assert told.startswith(answered)
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
    answer = wire.ask("GET", "/metrics", Accept=accept, Accept_Encoding=encoding)
    assert answer.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)


def test_the_fallback_reads_no_weights() -> None:
    """It is told what was found out."""
    wire = Wire()
    for header, told in (("gzip;q=0", b"identity"), ("x-gzip", b"gzip")):
        answer = wire.ask(
            "GET", "/metrics?name[]=page_faults", Accept=f"{OPENMETRICS};q=0, {NEW}", Accept_Encoding=header
        )
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        assert wire.fallback.asked == [[NEW.encode()], [told]]


def test_a_header_without_end_is_not_all_read() -> None:
    """Thirty thousand items would take ten milliseconds."""
    assert exposition_accept("a/b," * 40 + OPENMETRICS).endswith(OPENMETRICS)
    assert OPENMETRICS not in exposition_accept("a/b," * 60 + OPENMETRICS)


@pytest.mark.parametrize("target", ["/", "/graph", "/nodes/n1", "/nodes/unknown"])
@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_what_differs_by_a_header_says_so(target: str, accept: str) -> None:
    """Pages, what programs get at the same address, and failures."""
    wire = Wire()
    wire.report(body("n1"))
    for encoding in ("gzip", "identity"):
        answer = wire.ask("GET", target, Accept=accept, Accept_Encoding=encoding)
        named = answer.headers["vary"].split(", ")
        assert "Accept" in named
        assert "content-encoding" not in answer.headers or "Accept-Encoding" in named
