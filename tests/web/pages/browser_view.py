"""What the tests of the pages share: a wire with nodes, and requests as a browser sends them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from orchestratord.promql.client import Answer as Fetched
from tests.fakes import body
from tests.wire import Answer, Wire

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
JSON = b"application/json"


def matrix(*series: tuple[dict[str, str], list[tuple[float, str]]]) -> Fetched:
    """Return Prometheus' answer to a range query."""
    result = [{"metric": labels, "values": values} for labels, values in series]
    text = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})
    return Fetched(200, JSON, text.encode())


def wired(*nodes: str, **options: Any) -> Wire:
    """Return a wire with a Prometheus that finds nothing, and these nodes."""
    wire = Wire(**options)
    wire.upstreams.answer = matrix()
    for node in nodes:
        wire.report(body(node, page_faults=52103, mem_bytes_allocated=2_000_000_000))
    return wire


class Markup(HTMLParser):
    """What a browser would run or fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src"))
        assert tag not in {"iframe", "object", "embed", "base", "style", "foreignobject", "use"}
        assert not [name for name in given if name.startswith(("on", "style", "formaction"))]
        assert not re.search("[ ,]", given.get("srcset") or ""), "more than one address"
        self.urls += [
            value or "" for name, value in attrs if name in {"src", "srcset", "action"} or name.endswith("href")
        ]


def look(wire: Wire, path: str, accept: str = BROWSER, **headers: str) -> Answer:
    """Ask as a browser does; check of a page what holds for every page, whatever got into it."""
    answer = wire.ask("GET", path, b"", Accept=accept, **headers)
    if answer.headers["content-type"] == "text/html; charset=utf-8" and "content-encoding" not in answer.headers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        markup = Markup(answer.body.decode())
        (script,) = markup.scripts
        assert re.fullmatch(r"/static/page\.js\?v=\w+", script or "")
        assert [url for url in markup.urls if url and not re.match(r"/(?!/)|#", url)] == []
    return answer


def text(answer: Answer) -> str:
    """Return what a page says, without its markup."""
    plain = re.sub(r"<[^>]+>", " ", answer.body.decode().partition("<main")[2])
    return " ".join(plain.replace("\N{NO-BREAK SPACE}", " ").split())
