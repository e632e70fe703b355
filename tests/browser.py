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
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--dump-dom",
           "--allow-file-access-from-files", "--virtual-time-budget=20000"]  # fmt: skip
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


def asked(page: Path, question: str, width: int = 1280) -> Any:
    """Return what the page's own scripts would say, as JSON, to a JavaScript expression once it is loaded, in a frame
    of that width. Fails if the page writes to the console, as it does for each error.
    """
    script = f"addEventListener('load', () => {{ parent.document.title = JSON.stringify({question}) }})"
    probed, frame = page.with_name("probed.html"), page.with_name("frame.html")
    probed.write_text(f"{page.read_text('utf-8')}<script>{script}</script>", "utf-8")
    frame.write_text(f"<!doctype html><iframe src=probed.html width={width} height=900>", "utf-8")
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", f"--window-size={max(width, 600)},950"]
        done = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
