"""Pages of records, and a browser to look at them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.report.__main__ import main
from benchmarks.running.command import DONE

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


@dataclass
class Seen:
    """A page in the browser, and what it did that it should not have done.

    Attributes:
        page: of playwright.
        errors: messages on the console and exceptions.
        requests: what it asked for, but itself and what is inside of it.
    """

    page: object
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def scroll_through(self) -> None:
        """As a reader does, so that everything comes into sight once."""
        top, height = 0, 1
        while top < height:
            self.page.evaluate(f"scrollTo({{top: {top}, behavior: 'instant'}})")
            self.page.wait_for_timeout(40)
            top, height = top + 600, self.page.evaluate("document.documentElement.scrollHeight")

    def wait(self, what: str) -> None:
        """Until an expression is true; the page's policy forbids the browser to look for it itself."""
        for _ in range(3000):
            if self.page.evaluate(what):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"in vain waited for {what}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Debian's Chromium; tests that need it are skipped where it is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium: object, path: Path, device: dict[str, object] = DESKTOP) -> Iterator[Seen]:
    """A page, with all its tables made; whatever it does wrong is an error at the end."""
    with closing(chromium.new_context(**device)) as context:
        seen = Seen(context.new_page())
        page, own = seen.page, path.resolve().as_uri()
        page.on("console", lambda message: seen.errors.append(message.text))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda r: r.url == own or r.url.startswith("data:") or seen.requests.append(r.url))
        page.goto(own)
        seen.wait("SECTIONS.every((section) => PREPARED.has(section))")
        yield seen
        assert seen.errors == [] and seen.requests == []


@pytest.fixture
def look(chromium: object) -> Iterator[Callable[..., Seen]]:
    """Open a page for one test: `look(path)` or `look(path, PHONE)`."""
    with ExitStack() as pages:
        yield lambda *which: pages.enter_context(opened(chromium, *which))


def report_of(results: Path) -> Path:
    """The page of a results folder whose records are sound."""
    assert main([f"results={results}"]) == DONE
    return results / "report.html"
