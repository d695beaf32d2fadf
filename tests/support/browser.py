"""A real browser for pages that the launcher writes, and what a reader sees in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import support

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_CONTRASTS = (Path(__file__).parent / "contrasts.js").read_text()
_MISSING_GLYPHS = (Path(__file__).parent / "missing_glyphs.js").read_text()


@contextmanager
def opened() -> Iterator[Any]:
    """A browser without a window. In CI it has to be there; elsewhere the test is skipped without it."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    support.needs(None if program else "no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=180_000)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page. `errors`: of its console; `requests`: what it asked for besides itself."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def width(self) -> int:
        """The width of all that can be scrolled to."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def faint_texts(self, least: float = 4.5) -> list[Any]:
        """The texts with less contrast than this to what is behind them."""
        found: list[Any] = self.page.evaluate(_CONTRASTS)
        assert len(found) > 20
        return [one for one in found if one["ratio"] < least]

    def missing_glyphs(self) -> list[str]:
        """The characters of visible texts for which no font of this machine has a glyph."""
        found: list[str] = self.page.evaluate(_MISSING_GLYPHS)
        return found


@contextmanager
def visit(browser: Any, file: Path, width: int, theme: str) -> Iterator[Visit]:
    """Open a file without a network. `theme`: light or dark."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, offline=True)
    page = context.new_page()
    page.set_default_timeout(180_000)
    visit = Visit(page)
    page.on("console", lambda message: visit.errors.append(message.text))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.goto(file.resolve().as_uri())
    visit.requests = [url for url in visit.requests if url != page.url]
    yield visit
    context.close()
