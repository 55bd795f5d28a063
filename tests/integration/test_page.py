"""The pages in a real browser: what it shows, what its console says, whom it asks, and what axe finds wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.browser import Browser
from tests.integration.daemon import FAMILIES, Daemon, report, until
from tests.integration.stores import Prometheus, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.browser import View

pytestmark = pytest.mark.integration

NOWHERE = ("--prometheus", "http://127.0.0.1:9")
#: As long as an id may be, with every character that it may have and nowhere to break a line.
LONG = "a.b_c:d-" * 31 + "Z9.._"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a browser."""
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon with a Prometheus that has scraped it."""
    home = tmp_path_factory.mktemp("watched")
    prometheus = Prometheus(home / "prometheus")
    daemon = Daemon(home / "daemon", "--prometheus", prometheus.url, "--stale-after", "3600")
    try:
        prometheus.start(daemon.started().port)
        fill(daemon, "web-1", "web-2", "db-1", LONG)
        until(lambda: len(result(daemon.get("/query", {"q": "page_faults"}))) == 4, "a scrape")
        yield daemon
        daemon.stop()
    finally:
        prometheus.close()
        daemon.close()


def fill(daemon: Daemon, *names: str) -> None:
    """Report nodes whose values differ."""
    batch = [
        report(name, **{family: (at + 1) * 1000 + place for place, family in enumerate(FAMILIES)})
        for at, name in enumerate(names)
    ]
    for start in range(0, len(batch), 2000):
        daemon.post(batch[start : start + 2000]).raise_for_status()


def check(view: View, daemon: Daemon, *, axe: bool = True) -> None:
    """Check what every page promises: a silent console, no other host, nothing for axe to find, nothing too wide."""
    assert view.console == []
    assert view.hosts == {f"127.0.0.1:{daemon.port}"}
    assert not axe or view.faults() == []
    assert view.overflow <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("count", "cells"), [(0, 0), (3, 3), (2000, 2000), (5000, 1667)])
def test_fleets(start: Callable[..., Daemon], browser: Browser, count: int, cells: int, scheme: str) -> None:
    """Of no node, a few, and more than there are cells for, on light and dark, wide and narrow, upstream dead."""
    if (count, scheme) == (5000, "dark"):
        count, cells = 61, 61  # the fewest without names; 5,000 are drawn on light
    daemon = start(*NOWHERE)
    if count:
        fill(daemon, *[f"node-{index:05}" for index in range(count)])
    view = browser.look(daemon.url, scheme=scheme)
    assert view.count("#cells a") == cells
    assert view.text("h1").endswith(
        "Prometheus does not answer; " + ("reports are still accepted." if count else "no node has reported yet.")
    )
    assert "refused" in view.text(".reason")
    # axe takes five seconds over so many cells, which differ in nothing that it would find.
    check(view, daemon, axe=count < 5000)
    view.page.set_viewport_size({"width": 360, "height": 740})
    assert view.overflow <= 0


def test_all_is_well(watched: Daemon, browser: Browser) -> None:
    """The first line says so; a click on a cell opens the node, and its name stands there as it is."""
    fill(watched, "web-1", "web-2", "db-1", LONG)
    view = browser.look(watched.url)
    assert view.text("h1") == "OK: All 4 nodes report, and Prometheus answers."
    check(view, watched)
    for name in ("web-2", LONG):
        view.page.goto(watched.url)
        view.page.get_by_label("Nodes by").get_by_role("link", name=name).click()
        assert view.text("h1") == name
        assert view.count("svg.spark .line") == len(FAMILIES)
        check(view, watched)
        view.page.set_viewport_size({"width": 360, "height": 740})
        assert view.overflow <= 0
        view.page.set_viewport_size({"width": 1280, "height": 900})


def test_colour_by_another_metric(watched: Daemon, browser: Browser) -> None:
    """A link, which needs no script."""
    view = browser.look(watched.url, script=False)
    view.page.get_by_role("link", name="fs_write_count").click()
    assert view.page.url.endswith("/?metric=fs_write_count")
    assert view.text(".metrics [aria-current]") == "fs_write_count"
    assert "1 k calls" in view.text("#cells")
    assert view.page.get_by_role("link", name="Refresh").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_nodes_in_a_table(watched: Daemon, browser: Browser, scheme: str) -> None:
    """Found, filtered and sorted without a script; nothing for axe to find, on a phone neither."""
    fill(watched, "web-1", "web-2", "db-1", LONG)
    view = browser.look(watched.url, scheme=scheme, script=False)
    view.page.get_by_role("link", name="Nodes", exact=True).click()
    assert view.count("tbody tr") == 4
    view.page.get_by_label("Name contains").fill("WEB")
    view.page.get_by_label("Value").select_option("page_faults")
    view.page.get_by_label("from").fill("1500")
    view.page.get_by_role("button", name="Show").click()
    assert view.text("tbody").startswith("web-2 ")
    assert view.count("tbody tr") == 1
    view.page.goto(f"{watched.url}/fleet")
    view.page.get_by_role("link", name="page_faults").click()
    assert view.text("tbody th") == LONG
    assert view.page.locator("[aria-sort=descending]").inner_text().startswith("page_faults")
    scripted = browser.look(view.page.url, scheme=scheme)
    check(scripted, watched)
    scripted.page.set_viewport_size({"width": 390, "height": 844})
    check(scripted, watched)
    scripted.page.get_by_role("link", name="web-1").click()
    assert scripted.text("h1") == "web-1"
    assert "times the fleet's median of" in scripted.text(".metriccards")
    check(scripted, watched)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_values_of_a_moment_and_under_the_pointer(watched: Daemon, browser: Browser, scheme: str) -> None:
    """A table of what is there now; over the chart, the values of the nearest time; a phone has a chart of its own."""
    fill(watched, "web-1", "web-2", "db-1", LONG)
    view = browser.look(f"{watched.url}/graph?q=topk(2,page_faults)&view=table", scheme=scheme)
    assert view.count("tbody tr") == 2
    assert view.text("tbody td") == "4,001"
    check(view, watched)
    view.page.get_by_role("link", name="Chart", exact=True).click()
    view.page.get_by_text("Custom time").click()
    view.page.get_by_label("From (UTC)").fill("2026-01-01T00:00:00")
    view.page.get_by_label("Until (UTC)").fill("2026-01-01T01:00:00")
    view.page.get_by_role("button", name="Run").click()
    view.page.wait_for_url(re.compile("start=2026"))
    assert "No series matches in this time range." in view.text("main")
    check(view, watched)
    view.page.goto(f"{watched.url}/graph?q=page_faults&range=5m")
    image = view.page.locator("img.chart")
    until(lambda: image.evaluate("image => image.complete && image.naturalWidth > 0"), "a chart")
    box = image.bounding_box()
    assert box
    # The last value is at the right end of the lines.
    for share in (0.5, 0.9, 0.95, 0.97):
        view.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 3)
    until(lambda: "web-2 2,001" in view.text(".readings"), "the values under the pointer")
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC ", view.text(".readings"))
    check(view, watched)
    view.page.set_viewport_size({"width": 390, "height": 844})
    until(lambda: image.evaluate("image => image.complete && image.currentSrc.includes('width=380')"), "its chart")
    check(view, watched)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nodes_that_are_gone(start: Callable[..., Daemon], browser: Browser, scheme: str) -> None:
    """Named on the front page, and on their own; it is an alarm, and nobody is told how to begin."""
    daemon = start(*NOWHERE, "--stale-after", "2", "--limits.expire_every", "1")
    fill(daemon, "web-1", LONG)
    until(lambda: daemon.get("/nodes?gone=true").json()["gone"], "a node that is gone")
    until(lambda: len(daemon.get("/nodes?gone=true").json()["gone"]) == 2, "both")
    view = browser.look(daemon.url, scheme=scheme)
    assert view.text("h1") == "Problem: No node reports any more; 2 have gone silent in the last hour."
    assert "Getting started" not in view.text()
    assert view.count(".gone li") == 2
    check(view, daemon)
    view.page.set_viewport_size({"width": 360, "height": 740})
    assert view.overflow <= 0
    view.page.get_by_role("link", name="web-1").click()
    assert "it has been silent since" in view.text("main")
    assert view.faults() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_query(watched: Daemon, browser: Browser, scheme: str) -> None:
    """The box, a chart that is there, a table with the figures, and an address that can be shared."""
    view = browser.look(watched.url, scheme=scheme)
    view.page.get_by_label("PromQL", exact=True).fill("sum by (node_id) (page_faults)")
    view.page.get_by_role("button", name="Run").click()
    view.page.wait_for_url(re.compile(r"/graph\?q=sum"))
    picture = view.page.locator("img.chart")
    until(lambda: picture.evaluate("image => image.complete && image.naturalWidth > 0"), "a chart")
    assert view.count("tbody tr") == 4
    assert "web-1 1,001" in view.text("tbody")
    check(view, watched)
    shared = browser.look(view.page.url)
    assert shared.page.get_by_label("PromQL", exact=True).input_value() == "sum by (node_id) (page_faults)"
    assert shared.count("tbody tr") == 4
    alone = browser.look(f"{watched.url}/graph.svg?q=page_faults", scheme=scheme)
    assert (alone.console, alone.hosts) == ([], {f"127.0.0.1:{watched.port}"})


def test_an_error_stands_beside_the_box(watched: Daemon, browser: Browser) -> None:
    """In Prometheus' own words, and as words: markup in a query is none on the page."""
    hostile = '"><img src=x onerror=alert(1)><script>alert(2)</script>{'
    view = browser.look(f"{watched.url}/graph")
    check(view, watched)
    view.page.on("dialog", lambda dialog: pytest.fail(f"the page ran {dialog.message}"))
    view.page.get_by_label("PromQL", exact=True).fill(hostile)
    view.page.get_by_role("button", name="Run").click()
    view.page.wait_for_url(re.compile("/graph"))
    assert "parse error" in view.text("#fault")
    assert view.page.get_by_label("PromQL", exact=True).input_value() == hostile
    assert view.count("main img, main script") == 0
    # The one thing that a console says of a 400.
    assert [line for line in view.console if "status of 400" not in line] == []
    assert view.faults() == []


def test_a_hostile_node_id(watched: Daemon, browser: Browser) -> None:
    """In the address, since no report brings one: 404, and words."""
    view = browser.look(f"{watched.url}/nodes/%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert view.text("h1") == "<img src=x onerror=alert(1)>"
    assert view.count("main img") == 0
    assert [line for line in view.console if "status of 404" not in line] == []
    assert view.faults() == []


def quick(view: View) -> None:
    """Renew as soon as one asks, rather than in five seconds."""
    view.page.get_by_role("link", name="Refresh").click()


def test_it_renews_itself(start: Callable[..., Daemon], browser: Browser) -> None:
    """Without a flash: elements stay the same, and focus, scroll and what was typed with them."""
    daemon = start(*NOWHERE)
    names = [f"n{index}" for index in range(40)]
    fill(daemon, *names)
    view = browser.look(daemon.url, height=500)
    view.page.get_by_label("PromQL", exact=True).fill("half a quer")
    view.page.evaluate("document.querySelector('#cells').mark = 'the same'")
    view.page.locator("#cells a").nth(5).focus()
    view.page.evaluate("scrollTo(0, 150)")
    fill(daemon, "before-all", *names)
    # By itself, that is, within its five seconds.
    until(lambda: view.count("#cells a") == 41, "the new node")
    assert view.page.evaluate("document.querySelector('#cells').mark") == "the same"
    assert view.page.evaluate("document.activeElement.getAttribute('href')") == "/nodes/n5"
    assert view.page.evaluate("scrollY") == 150
    assert view.page.get_by_label("PromQL", exact=True).input_value() == "half a quer"
    check(view, daemon)


def test_it_stops_while_it_is_hidden(start: Callable[..., Daemon], browser: Browser) -> None:
    """Nobody looks, nothing is asked; when somebody does, it is renewed at once."""
    daemon = start(*NOWHERE)
    view = browser.look(daemon.url)
    view.page.clock.install()
    view.page.reload()
    view.hide(hidden=True)
    before = len(view.requests)
    view.page.clock.run_for(60_000)
    assert len(view.requests) == before
    with view.page.expect_request(f"{daemon.url}/"):
        view.hide(hidden=False)


def test_it_says_when_the_server_is_gone(start: Callable[..., Daemon], browser: Browser) -> None:
    """How old the picture is; and resumes when the server is back, on the same port."""
    daemon = start(*NOWHERE)
    fill(daemon, "a")
    view = browser.look(daemon.url)
    daemon.stop()
    quick(view)
    view.page.get_by_text("The server does not answer").wait_for()
    until(lambda: re.fullmatch(r"\(\d+ s ago\)", view.text("#age")), "the age of the picture")
    assert view.count("#cells a") == 1
    assert view.faults() == []
    again = Daemon(daemon.home / "again", *NOWHERE, listen=f"tcp:{daemon.port}:interface=127.0.0.1")
    try:
        again.started()
        fill(again, "a", "b")
        until(lambda: view.count("#cells a") == 2, "what the new server knows")
        assert view.text("#liveness") == ""
        again.stop()
    finally:
        again.close()


def test_keys(start: Callable[..., Daemon], browser: Browser) -> None:
    """One stop of the tab key for all cells; the arrow keys go through them, Enter opens."""
    daemon = start(*NOWHERE)
    fill(daemon, *[f"n{index:03}" for index in range(100)])
    view = browser.look(daemon.url)
    page = view.page
    page.get_by_role("link", name="fs_write_size_kb").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip the heat map"
    page.keyboard.press("Tab")

    def focused() -> Any:
        return page.evaluate("document.activeElement.getAttribute('href')")

    assert focused() == "/nodes/n000"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused() == "/nodes/n002"
    assert view.text("#pointed").startswith("n002: ")
    page.keyboard.press("ArrowDown")
    below = focused()
    assert below > "/nodes/n010"
    page.keyboard.press("Tab")
    assert focused() == "/nodes/n099", "the most loaded is next"
    page.keyboard.press("Shift+Tab")
    assert focused() == below
    page.keyboard.press("Enter")
    page.wait_for_url(f"{daemon.url}{below}")


def test_a_token_as_the_password(start: Callable[..., Daemon], browser: Browser, tmp_path: Any) -> None:
    """A browser sends it with everything that the page asks for."""
    token = "query-token-0123456789"
    file = tmp_path / "query"
    file.write_text(f"{token}\n")
    file.chmod(0o600)
    daemon = start(*NOWHERE, "--token-file", f"query={file}")
    fill(daemon, "a")
    view = browser.look(daemon.url, http_credentials={"username": "me", "password": token})
    assert view.count("#cells a") == 1
    quick(view)
    view.page.locator("#cells a").click()
    assert view.text("h1") == "a"
    assert [line for line in view.console if "401" not in line] == []
