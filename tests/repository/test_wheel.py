"""The wheel ships what is tracked.

A folder left out of pyproject.toml's list works when editable and is missing from the wheel.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from omnigen2_rt import __version__
from tests.repository.sources import PACKAGE, package_files


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_exactly_the_packages_files(wheel: Path) -> None:
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    expected = {f"{PACKAGE}/{path.as_posix()}" for path in package_files()}
    missing, stray = sorted(expected - held), sorted(held - expected)
    assert not missing, f"{missing}: add the folder to `packages`, or the file to `package-data`, in pyproject.toml"
    assert not stray, f"{stray} should not ship"


def test_wheel_has_version_licence_and_command(wheel: Path) -> None:
    info = f"{PACKAGE}-{__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= contents(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{info}/entry_points.txt").decode().split() == [
            "[console_scripts]",
            "omnigen2",
            "=",
            "omnigen2_rt.__main__:main",
        ]
