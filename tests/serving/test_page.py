"""The web page in Chromium. `.ci/server` installs what it needs and runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repository.sources import ROOT
from tests.serving.running import Running

MODULES = ROOT / ".cache" / "browser" / "node_modules"
"""The folder into which `.ci/server` puts playwright-core."""
UI = ROOT / "serving" / "ui"


@pytest.mark.browser
def test_page_draws_edits_chats_and_reflects(server: Running, tmp_path: Path) -> None:
    """By keyboard, without an error in the console; the screenshots stay in the test's folder."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium and (MODULES / "playwright-core").is_dir(), "chromium or playwright-core is missing: .ci/server installs them"
    script = Path(__file__).with_name("page.mjs")
    words = ["node", script, server.url, tmp_path, chromium, MODULES]
    finished = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(list(tmp_path.glob("*.png"))) == 5 * 3 * 2  # views, widths, and light and dark


def test_page_and_its_files_are_served(server: Running) -> None:
    http = server.http()
    assert "<title>omnigen2-rt</title>" in http.get("/").text
    for path in sorted(UI.iterdir()):
        answer = http.get(f"/ui/{path.name}")
        assert answer.status_code == 200 and answer.content == path.read_bytes()
    assert "docs.js" in http.get("/docs").text


def test_page_takes_nothing_from_elsewhere() -> None:
    """No fonts, scripts or pictures of other hosts, and nothing that the content security policy would block."""
    for path in UI.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//fonts" not in text
        assert " style=" not in text and "<style" not in text and " onclick" not in text and "innerHTML" not in text


@pytest.mark.parametrize("name", ["index", "docs"])
def test_ids_that_scripts_use_are_in_the_page(name: str) -> None:
    page = (UI / f"{name}.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    scripts = [path.read_text(encoding="utf-8") for path in UI.glob("*.js") if (path.stem == "docs") == (name == "docs")]
    used = {each for script in scripts for each in re.findall(r'\$\("([\w-]+)"\)', script)}
    assert used and used <= ids, used - ids
    assert len(ids) == len(re.findall(r'\bid="', page)), "an id occurs twice"
