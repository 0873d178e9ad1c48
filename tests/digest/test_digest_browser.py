"""The mail's HTML in a real browser: nothing is wider than the screen, and the dark rules apply."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from digest_samples import FULL, candidate, told

from harvester.digest import render
from harvester.digest.model import Digest

pytestmark = pytest.mark.integration

LONG = "checkout_" + "very_long_" * 20 + "name"  # nowhere to break
WIDE = Digest(
    **{name: getattr(FULL, name) for name in FULL.__dataclass_fields__ if name != "candidates"},
    candidates=(told(candidate(sentence=f"Reduced {LONG} by half."), command=f"harvest candidates accept {LONG}", caveat=LONG),),
)

LOOK = """
<body style="margin:0"><iframe style="border:0;width:{width}px;height:900px" srcdoc="{document}"></iframe><pre></pre>
<script>onload = () => {{
  const page = frames[0].document, style = name => frames[0].getComputedStyle(page.querySelector(name));
  document.querySelector("pre").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, picture: page.querySelector("img").getBoundingClientRect().width,
    loaded: page.querySelector("img").naturalWidth,
    card: style(".card").backgroundColor, ink: style(".sentence").color, back: style("body").backgroundColor,
  }});
}}</script>
"""


def seen(folder: Path, digest: Digest, width: int, dark: bool) -> dict[str, Any]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed: the digest's HTML was not looked at in a browser")
    file = folder / "look.html"
    file.write_text(LOOK.format(width=width, document=html.escape(render.html(digest, "data"))))
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"]
    words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", file.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return dict(json.loads(html.unescape(found)))


@pytest.mark.parametrize("width", [320, 375, 600, 1280])
@pytest.mark.parametrize("digest", [FULL, WIDE], ids=["full", "long words"])
def test_nothing_is_wider_than_the_screen(tmp_path: Path, digest: Digest, width: int) -> None:
    found = seen(tmp_path, digest, width, dark=False)
    assert found["width"] == width
    assert found["picture"] <= min(width, 600)
    assert found["loaded"] > 0


def contrast(one: str, other: str) -> float:
    """Return the contrast of two ``rgb(r, g, b)``: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(color: str) -> float:
        parts = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_readers_choice_of_light_or_dark_is_kept_and_readable(tmp_path: Path, dark: bool) -> None:
    found = seen(tmp_path, FULL, 600, dark)
    assert (contrast(found["back"], "rgb(0, 0, 0)") < 2) is dark
    assert contrast(found["ink"], found["card"]) > 7
