"""Reports in a real browser, where there is one: no errors, no requests, nothing wider than the screen, hostile text as text."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.kit import HOSTILE, KINDS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield started
        started.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["plain", *KINDS, "several"])
def test_it_reads_well(browser: Any, pages: dict[str, str], tmp_path: Path, name: str, width: int) -> None:
    (tmp_path / "report.html").write_text(pages[name], encoding="utf-8")
    view = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto((tmp_path / "report.html").as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("window.hacked") is None
    broken = "[...document.images].filter(one => !one.complete || one.naturalWidth === 0).length"
    assert view.evaluate(broken) == 0
    drawn = view.locator("svg.chart.wide" if width > 640 else "svg.chart.narrow")
    assert drawn.count() == (2 if name == "torn" else 1)
    assert all(chart.is_visible() for chart in drawn.all())
    if name == "hostile":
        assert HOSTILE in view.inner_text("#examples")
    if shots := os.environ.get("EVOMM_SHOTS"):  # where to put pictures for people to look at
        view.screenshot(path=Path(shots) / f"{name}-{width}.png", full_page=True)
    view.close()
