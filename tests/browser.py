"""Headless Chromium, for the tests of pages."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--allow-file-access-from-files",
    "--virtual-time-budget=20000",
    "--dump-dom",
]
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


def ask(page: Path, question: str, size: tuple[int, int] = (1280, 900), fragment: str = "") -> Any:
    """Return the value of a JavaScript expression in a page, in a frame of that size, as JSON.

    It is evaluated when the page is loaded, with what the page's own scripts define. Fails if the
    page writes to the console, as it does for each error and each refused request.
    """
    script = f"parent.document.title = JSON.stringify({question})"
    probed, frame = page.with_name("probed.html"), page.with_name("frame.html")
    content = page.read_text("utf-8")
    content += f"<script>addEventListener('load', () => {{ {script} }})</script>"
    probed.write_text(content, "utf-8")
    width, height = size
    # No window is narrower than 500 pixels, a frame may be.
    frame.write_text(
        f'<!doctype html><iframe src="probed.html{fragment}" width={width} height={height}>',
        "utf-8",
    )
    with tempfile.TemporaryDirectory() as profile:
        settings = [f"--user-data-dir={profile}", f"--window-size={max(width, 600)},{height + 50}"]
        command = [CHROMIUM, *OPTIONS, *settings, frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
