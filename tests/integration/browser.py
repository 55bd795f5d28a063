"""Debian's Chromium for the tests of the pages, and what it has to say: its console, and every request it made."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests.integration.daemon import PATIENCE

if TYPE_CHECKING:
    from types import TracebackType

    from playwright.sync_api import Page

#: WCAG 2.2, A and AA, and what axe advises beyond.
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
#: A hundredth of two thousand cells says as much as all, and takes a second instead of half a minute.
_LOOKED_AT = {"exclude": [["#cells > li:nth-child(n + 20)"]]}
_ARGUMENTS = ("--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server")


class View:
    """A tab with a page in it, and all that it said and asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    @property
    def hosts(self) -> set[str]:
        """The hosts that were asked, with their ports."""
        return {urlsplit(url).netloc for url in self.requests}

    @property
    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as it is seen, each gap a blank."""
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def count(self, selector: str) -> int:
        """Return how many elements match."""
        return self.page.locator(selector).count()

    def faults(self) -> list[str]:
        """Return what axe finds wrong with the page, a line for each rule and place."""
        found = Axe().run(self.page, context=_LOOKED_AT, options=_RULES).response
        return [
            f"{fault['id']}: {node['target']}: {node['failureSummary']}"
            for fault in found["violations"]
            for node in fault["nodes"]
        ]

    def hide(self, *, hidden: bool) -> None:
        """Make it believe that another tab is in front, or that none is any more."""
        self.page.evaluate(
            """state => {
              Object.defineProperty(document, "visibilityState", {configurable: true, get: () => state});
              document.dispatchEvent(new Event("visibilitychange"));
            }""",
            "hidden" if hidden else "visible",
        )


class Browser:
    """A Chromium without a window."""

    def __init__(self) -> None:
        chromium = shutil.which("chromium")
        assert chromium, "there is no chromium: make test installs it"
        self._playwright = sync_playwright().start()
        # Chromium's sandbox refuses root.
        arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.getuid() == 0 else [])]
        self._browser = self._playwright.chromium.launch(executable_path=chromium, args=arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    def look(
        self, url: str, *, scheme: str = "light", width: int = 1280, height: int = 900, script: bool = True, **more: Any
    ) -> View:
        """Open a page in a tab of its own, with nothing kept from another; `script`: with JavaScript."""
        context = self._browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": height},
            java_script_enabled=script,
            **more,
        )
        context.set_default_timeout(PATIENCE * 1000)
        view = View(context.new_page())
        view.page.goto(url)
        return view
