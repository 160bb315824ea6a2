"""README and docs/: their links lead somewhere, and their commands run in an environment that README's own command installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository.environments import new_environment, run_block
from tests.repository.pages import PAGES, README, RUN_IN_CLONE, blocks, links, named_paths, prose
from tests.repository.sources import FOLDERS, OTHER_FOLDERS, ROOT, tracked_files

LONGEST_README = 150


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_commands_run(page: Path, clone: Path, readme_programs: Path, tmp_path: Path) -> None:
    own = [block for block in blocks(page) if block.mark == RUN_IN_CLONE and page != README]
    programs = new_environment(tmp_path / "environment") if own else readme_programs
    folder = tmp_path / "work"
    folder.mkdir()
    for block in blocks(page):
        if block in own:
            run_block(block, programs, clone)
        elif block.is_run and block.mark != RUN_IN_CLONE:
            run_block(block, programs, folder)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_blocks_all_say_whether_they_are_run(page: Path) -> None:
    silent = [f"{page}:{block.line}" for block in blocks(page) if block.mark is None]
    assert not silent, f"{silent}: write `<!-- run -->` or `<!-- not run: why -->` in the line above the fence"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_code_is_fenced(page: Path) -> None:
    """An indented block has no fence to put a mark on."""
    indented = [f"{page}:{number}" for number, line in prose(page) if line.startswith(("    ", "\t"))]
    assert not indented, f"{indented}: code stands between fences"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_links_lead_to_tracked_files(page: Path) -> None:
    there = {*tracked_files(), *(folder for path in tracked_files() for folder in path.parents)}
    broken = [
        target for target in links(page) if (ROOT / page.parent / target).resolve().relative_to(ROOT) not in there
    ]
    assert not broken, f"{page} links to {broken}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_names_only_files_that_exist(page: Path) -> None:
    """Every figure comes with the program that printed it, and a renamed program takes its page along."""
    missing = [name for name in named_paths(page, (*FOLDERS, *OTHER_FOLDERS)) if not [*ROOT.glob(name)]]
    assert not missing, f"{page} names {missing}"


def test_readme_leads_to_every_page() -> None:
    assert {str(page) for page in PAGES if page != README} <= {*links(README)}


def test_readme_is_short() -> None:
    lines = (ROOT / README).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README, f"README has {len(lines)} lines: move what only some readers need into docs/"
