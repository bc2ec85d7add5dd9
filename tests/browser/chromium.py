"""A page in a headless Chromium: what it becomes and what its console says.

Nothing but the browser's own program is needed; `apt-get install chromium` or CHROMIUM=/path/to/it brings one.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} on the path, "
                                                             "and CHROMIUM names none (apt-get install chromium)")
DESKTOP, PHONE = (1280, 2600), (390, 2600)

# Answers of a script go into the document, as that is what --dump-dom prints.
_PROBE = """<script>
addEventListener("load", () => {
  const answer = {};
  try { (answer => { %s })(answer); } catch (error) { answer.error = String(error); }
  const found = top.document.createElement("template");
  found.dataset.answer = JSON.stringify(answer);
  top.document.body.append(found);
});
</script>"""
# A window can't be narrower than 500 pixels, a frame can.
_FRAME = """<!DOCTYPE html><html><body style="margin: 0">
<iframe style="border: 0; width: {size[0]}px; height: {size[1]}px" srcdoc="{page}"></iframe></body></html>"""


class Loaded(NamedTuple):
    """The script's answer, and the lines of the console."""

    answer: Dict
    console: List[str]


def chromium(*flags: str, size=DESKTOP, profile: Path) -> subprocess.CompletedProcess:
    """Run it headless and without a network; its profile goes to a directory that the caller owns."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
               f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def load(page: Path, script: str, folder: Path, size=DESKTOP) -> Loaded:
    """Open a copy of a page in a frame, run a script that fills `answer`, and read what it found.

    Args:
        folder: for the copy and the browser's profile.
    """
    text = page.read_text(encoding="utf-8")
    assert text.count("</body>") == 1
    framed = folder / f"framed_{page.name}"
    probed = html.escape(text.replace("</body>", _PROBE % script + "</body>"))
    framed.write_text(_FRAME.format(size=size, page=probed), encoding="utf-8")
    done = chromium("--dump-dom", framed.as_uri(), profile=folder / "profile")
    found = re.search(r"<template data-answer=\"(.*?)\">", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    return Loaded(json.loads(html.unescape(found[1])), re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr))
