"""The root is the package: what lies there ships, so nothing may lie there by accident."""

from __future__ import annotations

from tests.repository.sources import (
    FOLDERS,
    OTHER_FOLDERS,
    PACKAGE,
    ROOT,
    ROOT_MODULES,
    modules,
    node_files,
    tracked_files,
)


def test_root_python_files_are_the_package_modules_and_no_others() -> None:
    strays = {str(path) for path in tracked_files() if len(path.parts) == 1 and path.suffix == ".py"} - {*ROOT_MODULES}
    assert not strays, f"{sorted(strays)} would be installed as modules of {PACKAGE}: move them into a folder"


def test_root_folders_are_known() -> None:
    unknown = {path.parts[0] for path in tracked_files() if len(path.parts) > 1} - {*FOLDERS, *OTHER_FOLDERS}
    assert not unknown, f"{sorted(unknown)}: name each in tests/repository/sources.py, as part of the package or not"


def test_package_folders_all_have_an_init() -> None:
    known = modules()
    orphans = sorted(name for name in known if name != PACKAGE and name.rpartition(".")[0] not in known)
    assert not orphans, f"{orphans} lie in a folder without __init__.py"


def test_typing_link_points_at_the_root() -> None:
    link = ROOT / ".typing" / PACKAGE
    assert link.is_symlink(), f"{link} is no symbolic link: mypy finds the package through it"
    assert link.resolve() == ROOT


def test_modules_all_have_a_docstring() -> None:
    import ast

    paths = (*modules().values(), *node_files())
    bare = [str(path) for path in paths if not ast.get_docstring(ast.parse((ROOT / path).read_text()))]
    assert not bare, f"{bare}: say what the module is and what it does not know"
