"""The page in a real browser: no error, no request, and no sideways scrolling on a phone. Skipped without Chromium."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from summaries_for_tests import grouped, summary

from gradreg.study.grid import Reported
from gradreg.study.html import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")

POINTS = [90.0, 91.0, 92.0, 91.0]
BETTER = [91.0, 93.0, 95.0, 93.0]
LONG = "AMethodWithAVeryLongNameThatHasNoSpaceInItAtAll"
CASES = {
    "six": summary(
        dict.fromkeys(("Baseline", "DoubleBack", "SpectReg", "FrobReg", "JacReg", "ConfidencePenalty"), POINTS),
        curves=True,
        pairs=True,
    ),
    "names": summary(
        {"Baseline": POINTS, LONG: BETTER, '<b>&"': [91.0, None, None, None]},
        failures={'<b>&"': {1: "Error: " + "x" * 200}},
        reported={LONG: Reported(94.0, 0.5)},
        notes=["skipped: " + "long" * 60],
        curves=True,
    ),
    "groups": grouped({f"train_size {n}": {"Baseline": POINTS, "SpectReg": BETTER} for n in (100, 1000)}, curves=True),
}
# Opens everything that can be opened, then writes the widths where they can be read.
MEASURE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const e = document.documentElement;
  // Of words as well as of boxes: a long word runs out of a box that is narrow enough.
  const right = x => {
    const words = document.createRange();
    words.selectNodeContents(x);
    return Math.max(x.getBoundingClientRect().right, words.getBoundingClientRect().right);
  };
  const wide = [...document.querySelectorAll("body *")].filter(x => !x.closest(".scroll, pre, svg, script"))
    .filter(x => !x.querySelector(".scroll, pre, svg") && right(x) > innerWidth + 0.5)
    .map(x => x.tagName + "." + x.className);
  document.title = JSON.stringify({scroll: e.scrollWidth, inner: innerWidth, wide: wide,
    paper: getComputedStyle(e).getPropertyValue("--paper").trim(),
    figures: [...document.querySelectorAll("figure svg")].map(x => x.getBoundingClientRect().width)});
});
</script>"""


def browse(folder: Path, page: Path, *options: str, width: int = 1280) -> subprocess.CompletedProcess[str]:
    """Runs the browser on a file with a profile of its own."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-default-apps",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1600",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.parametrize("name", CASES)
def test_page_opens_without_an_error_or_a_request(name: str, tmp_path: Path) -> None:
    page, log, picture = tmp_path / "report.html", tmp_path / "net.json", tmp_path / "report.png"
    page.write_text(html(CASES[name], created="now"), encoding="utf-8")
    done = browse(tmp_path, page, "--enable-logging=stderr", "--v=0", f"--log-net-log={log}", f"--screenshot={picture}")
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    # Only the page's own requests: the browser asks its maker about itself whatever is open.
    urls = set(re.findall(r'"url":"([^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    ours = {url for url in urls if url.startswith(("file:", "http:", "https:"))}
    assert {url for url in ours if "google" not in url and "gvt1" not in url} <= {page.as_uri()}


@pytest.mark.parametrize("width", [360, 390, 700, 1280])
@pytest.mark.parametrize("name", CASES)
def test_page_is_never_wider_than_its_window(name: str, width: int, tmp_path: Path) -> None:
    """In a frame of that width, since a window of the browser cannot be that narrow."""
    measured = measure(tmp_path, html(CASES[name], created="now"), width)
    assert measured["inner"] == width
    assert measured["scroll"] <= width
    assert measured["wide"] == []
    shown = [w for w in measured["figures"] if w]
    assert shown
    assert all(w >= min(width, 360) * 0.7 or width > 390 for w in shown)


def test_page_is_dark_where_the_reader_likes_it_dark(tmp_path: Path) -> None:
    content = html(CASES["six"], created="now")
    papers = set()
    for scheme in ("light", "dark"):
        options = ["--blink-settings=preferredColorScheme=" + {"dark": "0", "light": "1"}[scheme]]
        papers.add(measure(tmp_path / scheme, content, 1280, *options)["paper"])
    assert papers == {"#ffffff", "#171c23"}


def measure(folder: Path, content: str, width: int, *options: str) -> dict[str, Any]:
    """What the page says of itself in a frame of a width; without its policy, that allows no script."""
    folder.mkdir(exist_ok=True)
    open_ = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*/>', MEASURE, content)
    (folder / "page.html").write_text(open_, encoding="utf-8")
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><html><body style="margin: 0"><iframe src="page.html" style="width: {width}px; height: 900px; '
        'border: 0" onload="setTimeout(() => document.title = this.contentDocument.title, 50)"></iframe></body></html>',
        encoding="utf-8",
    )
    done = browse(
        folder,
        outer,
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--dump-dom",
        *options,
        width=max(width, 800),
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found is not None, done.stdout[:2000]
    return json.loads(found.group(1).replace("&quot;", '"').replace("&lt;", "<").replace("&amp;", "&"))
