"""A headless Chromium for tests of the pages that jogak writes; such tests are marked `browser`."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")


def find_chromium() -> str | None:
    """The program to run: what $CHROMIUM names, or the first Chromium on PATH, or the one playwright installed."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    caches = [Path.home() / ".cache/ms-playwright", Path.home() / "Library/Caches/ms-playwright"]
    patterns = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/*.app/Contents/MacOS/*")
    return next((str(p) for cache in caches for pattern in patterns for p in sorted(cache.glob(pattern))), None)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A running browser; skips the test, saying why, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'jogak[test]'")
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium on PATH (or in $CHROMIUM): apt install chromium, or playwright install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def holds(page: "Page", expression: str, seconds: float = 20.0) -> None:
    """Wait until something is so (playwright's own way is against the pages' security policies)."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"this never came: {expression}"
        time.sleep(0.002)


class Watched:
    """A page of `browser` with what it asked of the network and what went wrong in it."""

    def __init__(self, browser: "Browser", *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.page: Page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def open(self, path: Path, fragment: str = "", ready: str = "body") -> "Page":
        """Open a file and wait until `ready`, a selector, is there."""
        self.page.goto(path.resolve().as_uri() + fragment)
        self.page.wait_for_selector(ready, state="attached")
        return self.page
