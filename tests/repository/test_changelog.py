"""The changelog and the package agree on the version."""

from __future__ import annotations

import re

import omnigen2_rt
from tests.repository.sources import ROOT


def test_changelog_top_entry_is_the_packages_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)
    assert entries[0] == omnigen2_rt.__version__
