"""README and the pages of docs/ as text: their links, and their code blocks with the comments that say which are run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.repository.sources import NODE_FOLDER, ROOT, tracked_files

README = Path("README.md")
NODES_README = Path(NODE_FOLDER, "README.md")
PAGES = (README, NODES_README, *(path for path in tracked_files() if path.parts[0] == "docs" and path.suffix == ".md"))

RUN, RUN_IN_CLONE = "run", "run in the clone"
MARK = re.compile(rf"<!-- ({RUN}|{RUN_IN_CLONE}|not run: .+) -->")
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page.

    mark: RUN, RUN_IN_CLONE, `not run: ` and the reason, or None where the line above it says none of these.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str | None

    @property
    def is_run(self) -> bool:
        """Whether the tests run it."""
        return self.mark in (RUN, RUN_IN_CLONE)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{page}: a fence is not closed"
    return [_block(page, lines, first, last) for first, last in zip(fences[::2], fences[1::2], strict=True)]


def _block(page: Path, lines: list[str], first: int, last: int) -> Block:
    match = MARK.fullmatch(lines[first - 1]) if first else None
    return Block(
        page=page,
        line=first + 1,
        language=lines[first].removeprefix("```"),
        text="\n".join(lines[first + 1 : last]) + "\n",
        mark=match[1] if match else None,
    )


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside its fenced blocks, with their numbers."""
    is_code = False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield number, line


def links(page: Path) -> list[str]:
    """The targets of a page's links to files, relative to the page."""
    return [target for _, line in prose(page) for target in LINK.findall(line)]


def named_paths(page: Path, folders: tuple[str, ...]) -> list[str]:
    """The files and folders below `folders` that a page names between backticks."""
    words = [word for _, line in prose(page) for word in re.findall(r"`([^`\s]+)`", line)]
    return [word for word in words if word.partition("/")[0] in folders and "/" in word]
