"""Jobs in SQLite: what was accepted, and what came of it. With a file, they outlive the process, even when it is killed.

A job is written before its caller hears that it was accepted, and its ending before anybody hears of it. The first ending
stands. With it the input pictures and the messages of the body are forgotten.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..runtime.errors import OmniGen2Error
from ..runtime.files.locking import open_lock, try_lock
from .errors import LOG, ApiError, from_facts
from .jobs import Ending, Job, Outcome, State
from .requests.bodies import TASK, DrawBody, without_inputs

DATABASE = "jobs.sqlite3"
VERSION = 1
DELETED_AT_ONCE = 5
"""Jobs in a transaction that deletes: others wait for it."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    body TEXT NOT NULL,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    finished REAL,
    facts TEXT,
    error TEXT,
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, finished);
CREATE TABLE IF NOT EXISTS pictures (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, place)
);
"""
_NOTHING = DrawBody.model_validate({"prompt": ""})
UNREADABLE = "the job can't be read by this release of the server"
_COLUMNS = "number, id, owner, model, body, created, state, finished, facts, error"
_Row = tuple[int, str, str, str, str, float, State, float | None, str | None, str | None]


class Store:
    """The jobs. folder: where the database lies; None keeps it in memory.

    Raises OmniGen2Error where the folder can't be used, or another server uses it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._held: BinaryIO | None = None
        self._is_closed = False
        try:
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._held = open_lock(folder / "lock")
                if not try_lock(self._held.fileno()):
                    self._held.close()
                    raise OmniGen2Error(f"another server uses the state in {str(folder)!r}: name another folder")
            name = ":memory:" if folder is None else folder / DATABASE
            self._database = sqlite3.connect(name, check_same_thread=False, isolation_level=None)
            self._prepare(str(folder))
        except (OSError, sqlite3.Error) as error:
            raise OmniGen2Error(f"the state in {str(folder)!r} can't be used: {error}") from error

    def _prepare(self, place: str) -> None:
        for line in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {line}")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise OmniGen2Error(f"the state in {place!r} is of version {version}; this release reads {VERSION}")
        self._database.executescript(_SCHEMA)
        self._database.execute(f"PRAGMA user_version = {VERSION}")

    def add(self, job: Job) -> None:
        """Keep a job that is to be carried out. Raises ApiError where it can't be written."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO jobs (id, owner, model, body, created, state) VALUES (?, ?, ?, ?, ?, 'queued')",
                (job.id, job.owner, job.model, job.body.model_dump_json(exclude_defaults=False), job.created),
            )

    def finish(self, job: Job, ending: Ending) -> Ending:
        """Keep how a job ended. Returns the ending that stands. Raises ApiError where it can't be written."""
        outcome = ending.outcome
        pictures = outcome.pictures if outcome else ()
        facts = json.dumps(outcome.facts) if outcome else None
        error = json.dumps(ending.error.facts()) if ending.error else None
        body = without_inputs(job.body).model_dump_json()
        size = sum(map(len, pictures)) + len(facts or "") + len(body)
        with self._transaction() as database:
            row = database.execute("SELECT number, state, finished FROM jobs WHERE id = ?", (job.id,)).fetchone()
            if row is not None and row[1] != "queued":
                return Ending(state=row[1], finished=row[2])
            if row is None:
                return ending
            database.execute(
                "UPDATE jobs SET state = ?, finished = ?, facts = ?, error = ?, body = ?, bytes = ? WHERE number = ?",
                (ending.state, ending.finished, facts, error, body, size, row[0]),
            )
            database.executemany(
                "INSERT INTO pictures (job, place, data) VALUES (?, ?, ?)",
                [(row[0], place, data) for place, data in enumerate(pictures)],
            )
        return ending

    def cancel(self, job: Job) -> None:
        """Keep that a job is cancelled, unless it has ended. Raises ApiError where it can't be written."""
        self.finish(job, Ending(state="cancelled"))

    def unfinished(self) -> list[Job]:
        """The jobs that were accepted and not ended, in their order. One that can't be read fails."""
        with self._lock:
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()
        jobs = []
        for row in rows:
            try:
                jobs.append(_job(row))
            except ValueError as error:  # its text may hold a prompt
                LOG.error("%s in the state can't be read (%s): it fails", row[1], type(error).__name__)
                failed = Job(id=row[1], owner=row[2], model=row[3], body=_NOTHING, is_kept=True)
                self.finish(failed, Ending(state="failed", error=ApiError("engine_error", UNREADABLE)))
        return jobs

    def find(self, job_id: str, owner: str) -> Job | None:
        """A job of the owner's, as it is kept."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?"
        with self._lock:
            row = self._database.execute(query, (job_id, owner)).fetchone()
            if row is None:
                return None
            rows = self._database.execute("SELECT data FROM pictures WHERE job = ? ORDER BY place", (row[0],)).fetchall()
        return _job(row, tuple(data for (data,) in rows))

    def delete(self, job_id: str) -> None:
        """Forget a job."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def expire(self, keep_s: float, keep_bytes: int) -> None:
        """Forget finished jobs that are older than `keep_s`, and the oldest of those beyond `keep_bytes`. A few at a time."""
        query = "SELECT number, bytes, finished FROM jobs WHERE state != 'queued' ORDER BY finished DESC"
        with self._lock:
            rows = [] if self._is_closed else self._database.execute(query).fetchall()
        oldest, total, forgotten = time.time() - keep_s, 0, []
        for number, size, finished in rows:
            total += size
            if total > keep_bytes or finished < oldest:
                forgotten.append((number,))
        for first in range(0, len(forgotten), DELETED_AT_ONCE):
            with self._transaction() as database:
                database.executemany("DELETE FROM jobs WHERE number = ?", forgotten[first : first + DELETED_AT_ONCE])

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._is_closed = True
            self._database.close()
            if self._held is not None:
                self._held.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._is_closed:
                raise ApiError("shutting_down", "the server's state is closed")
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise ApiError("engine_error", f"the server's state can't be written: {error}") from error
                raise


def _job(row: _Row, pictures: tuple[bytes, ...] = ()) -> Job:
    """The job of a row. Raises ValueError for an unfinished one that can't be read; of a finished one, its result is missing."""
    _, job_id, owner, model, body, created, state, finished, facts, error = row
    job = Job(id=job_id, owner=owner, model=model, body=_NOTHING, created=created, is_kept=True)
    try:
        job.body, job.body_bytes = TASK.validate_json(body), len(body)
        outcome = Outcome(facts=json.loads(facts), pictures=pictures) if facts else None
        problem = from_facts(json.loads(error)) if error else None
    except ValueError:
        if finished is None:
            raise
        outcome, state, problem = None, "failed", ApiError("engine_error", UNREADABLE)
    if finished is not None:
        job.ending = Ending(state=state, outcome=outcome, error=problem, finished=finished)
    return job
