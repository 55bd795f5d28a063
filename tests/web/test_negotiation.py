"""Who gets a page."""

from __future__ import annotations

import pytest

from orchestratord.web.negotiation import prefers_html

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
