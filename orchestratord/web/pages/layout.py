"""The parts that all pages share: the frame around a page, messages, links and sparklines; by twisted.web.template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from twisted.web.template import Tag, flattenString, tags

from orchestratord import __version__
from orchestratord.web.pages.formatting import iso_time, utc_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred

_LINE_WIDTH, _LINE_HEIGHT = 120.0, 32.0


class Frame(NamedTuple):
    """The data for the frame around a page.

    `menu_path` is the path of its entry in the menu, `refresh_seconds` how often page.js fetches it again (None:
    never), `rendered_at` a Unix time. `assets` returns the path of a file under /static.
    """

    title: str
    menu_path: str
    refresh_seconds: float | None
    rendered_at: float
    assets: Any


def page(frame: Frame, *content: Any) -> bytes:
    """Return the HTML of a page. No part of the content may be a Deferred."""
    body_attributes = {"data-renew": f"{frame.refresh_seconds:g}"} if frame.refresh_seconds else {}
    document = tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.meta(name="color-scheme", content="light dark"),
            tags.title(frame.title),
            tags.link(rel="icon", href=frame.assets("icon.svg"), type="image/svg+xml"),
            tags.link(rel="stylesheet", href=frame.assets("page.css")),
            tags.script(src=frame.assets("page.js"), defer="defer"),
        ),
        tags.body(
            tags.a("Skip to the content", href="#main", class_="skip"),
            tags.header(
                tags.a(_logo(), "orchestratord", href="/", class_="brand"),
                tags.nav(
                    tags.ul(
                        _menu_item("Status", "/", frame.menu_path),
                        _menu_item("Nodes", "/fleet", frame.menu_path),
                        _menu_item("Query", "/graph", frame.menu_path),
                    ),
                    **{"aria-label": "Pages"},
                ),
                tags.p(
                    tags.span(role="status", id="liveness"),
                    tags.span(
                        "as of ",
                        tags.time(utc_time(frame.rendered_at), datetime=iso_time(frame.rendered_at)),
                        id="made",
                    ),
                    tags.span(id="age"),
                    tags.a("Refresh", href="", id="renew"),
                    class_="moment",
                ),
                class_="top",
            ),
            Tag("main")(*content, id="main", tabindex="-1"),
            tags.footer(
                tags.span(f"orchestratord {__version__}"),
                tags.ul(
                    *[
                        tags.li(tags.a(name, href=href))
                        for name, href in (
                            ("nodes as JSON", "/nodes?details=true"),
                            ("metrics", "/metrics"),
                            ("API", "/openapi.yaml"),
                        )
                    ]
                ),
            ),
            **body_attributes,
        ),
        lang="en",
    )
    return b"<!DOCTYPE html>\n" + to_html(document)


def to_html(tag: Tag) -> bytes:
    """Return the HTML of a tag; raises what failed in it."""
    flattening: Deferred[bytes] = flattenString(None, tag)
    result: Any = flattening.result
    if not isinstance(result, bytes):
        flattening.addErrback(lambda _: None)
        result.raiseException()
    return bytes(result)


def node_path(node_id: str) -> str | None:
    """Return the path of a node's page; None for the ids `.` and `..`, which a browser resolves as steps in a path."""
    return None if node_id in {".", ".."} else f"/nodes/{quote(node_id, safe='')}"


def node_link(node_id: str, **attributes: str) -> Tag:
    """Return a node's id, as a link to its page if there is a path."""
    path = node_path(node_id)
    return tags.span(node_id, **attributes) if path is None else tags.a(node_id, href=path, **attributes)


def message(level: str, *text: Any, heading: bool = False) -> Tag:
    """Return a message of a level: `ok`, `note`, `warn` or `bad`. It begins with a word, since not all see colours."""
    word = {"ok": "OK", "note": "Note", "warn": "Warning", "bad": "Problem"}[level]
    kind = tags.h1 if heading else tags.p
    return kind(tags.span(f"{word}: ", class_="word"), *text, class_=f"message {level}")


def sparkline(points: Sequence[float | None], *, low: float | None = None) -> Tag:
    """Return a line chart without axes; None is a gap. Screen readers skip it: the numbers stand beside it."""
    present = [value for value in points if value is not None]
    svg = Tag(
        "svg",
        attributes={
            "class": "spark",
            "viewBox": f"0 0 {_LINE_WIDTH:g} {_LINE_HEIGHT:g}",
            "preserveAspectRatio": "none",
            "aria-hidden": "true",
            "focusable": "false",
        },
    )
    if not present:
        return svg
    bottom = min(present) if low is None else low
    span = (max(present) - bottom) or 1.0
    across = _LINE_WIDTH / max(len(points) - 1, 1)
    runs: list[list[str]] = [[]]
    for index, value in enumerate(points):
        if value is None:
            runs.append([])
        else:
            down = _LINE_HEIGHT - 2 - (value - bottom) / span * (_LINE_HEIGHT - 4)
            runs[-1].append(f"{index * across:.1f} {down:.1f}")
    for run in filter(None, runs):
        first, last = run[0].split()[0], run[-1].split()[0]
        line = "L".join(run if len(run) > 1 else run * 2)
        area = f"M{first} {_LINE_HEIGHT:g}L{line}L{last} {_LINE_HEIGHT:g}Z"
        svg(
            Tag("path", attributes={"class": "area", "d": area}),
            Tag("path", attributes={"class": "line", "d": f"M{line}"}),
        )
    return svg


def _menu_item(name: str, href: str, current: str) -> Tag:
    link = tags.a(name, href=href)
    if href == current:
        link(**{"aria-current": "page"})
    return tags.li(link)


def _logo() -> Tag:
    """Return the logo: nine nodes, some of them busy."""
    cells = [
        Tag(
            "rect",
            attributes={
                "x": str(1 + x * 8),
                "y": str(1 + y * 8),
                "width": "6",
                "height": "6",
                "rx": "1.5",
                "class": f"m{level}",
            },
        )
        for (x, y), level in zip(((x, y) for y in range(3) for x in range(3)), (0, 1, 0, 1, 2, 1, 0, 1, 2), strict=True)
    ]
    return Tag("svg", attributes={"class": "mark", "viewBox": "0 0 24 24", "aria-hidden": "true"})(*cells)
