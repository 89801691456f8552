"""The page in headless Chromium without a network."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from softvq_jax.report.run_files import read_run
from softvq_jax.report.run_page import build
from tests.report import example_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Measures the rendered page and writes the results into it, for `--dump-dom` to print.
PROBE = """<script>
addEventListener("load", () => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((x) => x / 255)
      .map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const box = (element) => element.getBoundingClientRect();
  const paper = getComputedStyle(document.body).backgroundColor;
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
  const found = {
    images: [...document.images].map((image) => [image.complete, image.naturalWidth, box(image).width]),
    charts: [...document.querySelectorAll("svg")].map((svg) => [box(svg).width, box(svg).height]),
    lines: [...document.querySelectorAll("svg [class^=series] > path")]
      .map((line) => [line.getTotalLength(), getComputedStyle(line).stroke]),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    overflow: document.documentElement.scrollWidth - innerWidth,
    contrast: ["body", ".soft", "a", "summary"].map((selector) =>
      contrast(getComputedStyle(document.querySelector(selector)).color, paper)),
    links: [...document.querySelectorAll("nav a")]
      .map((link) => document.querySelector(link.getAttribute("href")) !== null),
    dark: luminance(paper) < 0.1,
    headings: [...document.querySelectorAll("h1, h2")].map((heading) => heading.textContent),
  };
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""


def _browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    return found


def _measured_page(path, tmp_path, width, dark):
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},900"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", f"file://{path}"]
    environment = {key: value for key, value in os.environ.items() if key != "DBUS_SESSION_BUS_ADDRESS"}
    output = subprocess.run([_browser(), *options], capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r'<pre id="found">(.*?)</pre>', output.stdout, re.DOTALL)
    assert found, output.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (500, False)])
def test_a_browser_shows_the_page_in_light_and_dark(tmp_path, width, dark):
    workdir = example_run.write(tmp_path / "tiny")
    path = tmp_path / "probed.html"
    path.write_text(build(read_run(workdir)).replace("</body>", f"{PROBE}</body>"))
    found = _measured_page(path, tmp_path, width, dark)
    assert found["headings"] == ["tiny", "Curves", "Held-out images", "Evaluation", "Configuration"]
    assert len(found["images"]) == 7 and all(done and size > 0 and shown > 100 for done, size, shown in found["images"])
    assert len(found["charts"]) == 7 and all(w > 200 and h > 100 for w, h in found["charts"])
    assert all(length > 50 and stroke != "none" for length, stroke in found["lines"])
    assert found["requests"] == []
    assert found["overflow"] <= 0
    assert found["dark"] == dark
    assert min(found["contrast"]) >= 4.5  # WCAG 2, level AA
    assert found["links"] and all(found["links"])
