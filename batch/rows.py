"""Rows as drawings: each has an id, which names its files, a request, and a digest that tells whether it was drawn before.

An error in a row concerns that row alone. Opens no pictures and no pipeline.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runtime.checks import check_text
from ..runtime.errors import OmniGen2Error, RequestError, shown
from ..runtime.request import Request
from .cells import check_columns, fields_of_text, request_of
from .digests import row_digest
from .disk_table import DiskTable
from .formats import Format, RawRow, format_of

MAX_ID_BYTES = 200
NUMBER_DIGITS = 7
"""The width of a row's number as its id: the names of ten million rows sort."""
_NOT_IN_IDS = re.compile(r'[<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A row that can be drawn.

    number, place: see `RawRow`.
    id: names the row's files.
    latents: the name of the file of noise, or None.
    digest: SHA-256 of all that decides the pictures: the request, the content of its input files, and the bundle.
    """

    number: int
    place: str
    id: str
    request: Request
    latents: str | None
    digest: str

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the row's pictures."""
        return file_names(self.id, self.request.images_per_prompt)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that can't be drawn.

    number, place: see `RawRow`.
    id: None where it has none of its own.
    problem: the reason.
    """

    number: int
    place: str
    id: str | None
    problem: str


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A file of rows.

    path: the file; relative paths in it begin at its folder.
    defaults: text cells by column, for rows without their own.
    total: the number of rows.
    """

    path: Path
    defaults: Mapping[str, str] = field(default_factory=dict)
    total: int

    @classmethod
    def open(cls, path: Path, defaults: Mapping[str, str] | None = None) -> RowFile:
        """Look through a file. Raises RequestError where it can't be read, has no rows, or a column that there isn't."""
        defaults, total = dict(defaults or {}), 0
        _check_defaults(defaults, path.parent)
        kind = format_of(path)
        for raw in kind.read(path):
            check_columns(raw.values, repr(str(path)) if kind.has_header else raw.place)
            total = raw.number
        if not total:
            raise RequestError(f"{str(path)!r} holds no rows")
        return cls(path=path, defaults=defaults, total=total)

    def rows(self, bundle_digest: str) -> Generator[Job | BadRow, None, None]:
        """The rows in their order. bundle_digest: the digest of the bundle that draws. Raises as `open`."""
        taken, kind = DiskTable(), format_of(self.path)
        try:
            for raw in kind.read(self.path):
                yield self._row(raw, kind, taken, bundle_digest)
        finally:
            taken.close()

    def _row(self, raw: RawRow, kind: Format, taken: DiskTable, bundle_digest: str) -> Job | BadRow:
        own_id = None
        try:
            if raw.problem is not None:
                raise RequestError(raw.problem)
            check_columns(raw.values)
            name = row_id(_id_cell(raw, kind), raw.number)
            _take(taken, f"id {name_key(name)}", raw, f"the id {name!r}")
            own_id = name
            request, latents = request_of(self._values(raw, kind), self.path.parent)
            for file in file_names(name, request.images_per_prompt):
                _take(taken, f"file {name_key(file)}", raw, f"the file {file!r}")
            digest = row_digest(request, bundle_digest)
        except OmniGen2Error as error:
            return BadRow(number=raw.number, place=raw.place, id=own_id, problem=str(error))
        return Job(number=raw.number, place=raw.place, id=name, request=request, latents=latents, digest=digest)

    def _values(self, raw: RawRow, kind: Format) -> dict[str, Any]:
        """A row's cells and the defaults of those that it doesn't name, without empty ones.

        An empty text is an empty cell in every kind of file, because CSV can't tell the two apart.
        """
        own = {name: value for name, value in raw.values.items() if not _is_empty(value)}
        others = {name: text for name, text in self.defaults.items() if name not in own}
        values = {**fields_of_text(others), **(fields_of_text(own) if kind.is_text else own)}
        if "tea_threshold" in others and values.get("cache") != "teacache":
            del values["tea_threshold"]  # a default for the rows that have that cache
        return values


def _id_cell(raw: RawRow, kind: Format) -> Any:
    """A row's id as its cell says it; None for an empty cell."""
    cell = raw.values.get("id")
    if cell is None or _is_empty(cell):
        return None
    return fields_of_text({"id": cell})["id"] if kind.is_text else cell


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell)


def _check_defaults(defaults: Mapping[str, str], folder: Path) -> None:
    """Raises RequestError for defaults that no row could have."""
    check_columns(defaults)
    if "id" in defaults:
        raise RequestError("id can't have a default: each row needs an id of its own")
    threshold = {name: text for name, text in defaults.items() if name == "tea_threshold"}
    others = {name: text for name, text in defaults.items() if name not in threshold}
    for values in (others, {"cache": "teacache", **threshold}):
        request_of({"prompt": "", **fields_of_text(values)}, folder)


def _take(taken: DiskTable, key: str, raw: RawRow, what: str) -> None:
    """Reserve a key for a row. Raises RequestError where an earlier row has it."""
    other = taken.add(key, raw.place)
    if other is not None:
        raise RequestError(f"{what} is that of {other} already: give each row an id of its own")


def row_id(value: Any, number: int) -> str:
    """A row's id: its cell, or the row's number. Raises RequestError for what is no safe file name on every system."""
    if value is None:
        return f"{number:0{NUMBER_DIGITS}d}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = check_text("id", value)
    if problem := _id_problem(name):
        raise RequestError(f"id={shown(name)} {problem}")
    return name


def _id_problem(name: str) -> str | None:
    if not name or len(name.encode()) > MAX_ID_BYTES:
        return f"has {len(name.encode())} bytes; 1 to {MAX_ID_BYTES} are allowed"
    if not name.isprintable() or _NOT_IN_IDS.search(name):
        return 'holds a character that file names can\'t: none of < > : " / \\ | ? * and no control characters'
    if name[0] in ". " or name[-1] in ". ":
        return "begins or ends with a dot or a space"
    return "is the name of a device on Windows" if _DEVICES.fullmatch(name) else None


def name_key(name: str) -> str:
    """A key that is the same for names that some filesystem can't tell apart: in case, or in how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def file_names(name: str, count: int) -> tuple[str, ...]:
    """The names of a row's pictures: id.png, or id-0.png, id-1.png, … for several."""
    return (f"{name}.png",) if count == 1 else tuple(f"{name}-{index}.png" for index in range(count))
