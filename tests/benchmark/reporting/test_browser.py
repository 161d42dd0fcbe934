"""The page in a real browser: nothing wider than the window, CSV by a click, all of it printed."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.report import write_report
from tests.benchmark.reporting.inspected import KEYS, inspect_run
from tests.browser import Browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs Chromium or Chrome")

WIDEST = "document.documentElement.scrollWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
COPIED = """
(() => {
  document.execCommand = () => { window.copied = document.activeElement.value; return true; };
  navigator.clipboard.writeText = () => Promise.reject();
  document.querySelector('button[data-csv]').click();
})()
"""


@pytest.fixture
def page(write, tmp_path):
    for i, start in enumerate(("random", "mae")):
        inspect_run(write(start, masks=False, seed=i, initialisation=start, **KEYS), 0.2 + i / 5, i)
    html, _, _ = write_report([tmp_path / "runs"], tmp_path / "out")
    return html


def test_the_page_fits_copies_and_prints(page, tmp_path):
    with Browser(find_browser(), tmp_path / "profile") as browser:
        colours = set()
        for width, scheme in ((400, "light"), (1000, "dark"), (1600, "light")):
            browser.open(page.resolve().as_uri(), width, scheme)
            assert browser.run(WIDEST) == width
            colours.add(browser.run(BACKGROUND))
        assert len(colours) == 2
        browser.run(COPIED)
        copied = browser.wait("window.copied")
        assert copied.splitlines()[0].startswith(",Initialisation,Model,Epochs,Box AP ours")
        assert len(copied.splitlines()) == 3
        assert browser.pdf().startswith(b"%PDF")
