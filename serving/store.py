"""Jobs in SQLite: what was accepted, and what came of it. With a file, they outlive the process, even when it is killed.

A job is written before its caller hears that it was accepted, and its outcome before anybody hears that it is done.
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
from .bodies import TASK
from .errors import from_facts
from .jobs import Job, Outcome

DATABASE = "jobs.sqlite3"
VERSION = 1
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
_COLUMNS = "number, id, owner, model, body, created, state, finished, facts, error"
_Row = tuple[int, str, str, str, str, float, str, float | None, str | None, str | None]


class Store:
    """The jobs. folder: where the database lies; None keeps it in memory.

    Raises OmniGen2Error where the folder can't be used, or another server uses it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._held: BinaryIO | None = None
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
        """Keep a job that is to be carried out."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO jobs (id, owner, model, body, created, state) VALUES (?, ?, ?, ?, ?, 'queued')",
                (job.id, job.owner, job.model, job.body.model_dump_json(exclude_defaults=False), job.created),
            )

    def finish(self, job: Job) -> None:
        """Keep what came of a job. The first outcome stays."""
        pictures = job.outcome.pictures if job.outcome else ()
        facts = json.dumps(job.outcome.facts) if job.outcome else None
        error = json.dumps(job.error.facts()) if job.error else None
        size = sum(map(len, pictures)) + len(facts or "")
        with self._transaction() as database:
            row = database.execute("SELECT number FROM jobs WHERE id = ? AND state = 'queued'", (job.id,)).fetchone()
            if row is None:
                return
            database.execute(
                "UPDATE jobs SET state = ?, finished = ?, facts = ?, error = ?, bytes = ? WHERE number = ?",
                (job.state, job.finished, facts, error, size, row[0]),
            )
            database.executemany(
                "INSERT INTO pictures (job, place, data) VALUES (?, ?, ?)",
                [(row[0], place, data) for place, data in enumerate(pictures)],
            )

    def unfinished(self) -> list[Job]:
        """The jobs that were accepted and not ended, in their order."""
        with self._lock:
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()
        return [self._job(row) for row in rows]

    def find(self, job_id: str, owner: str) -> Job | None:
        """A job of the owner's, as it is kept."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?"
        with self._lock:
            row = self._database.execute(query, (job_id, owner)).fetchone()
            if row is None:
                return None
            rows = self._database.execute("SELECT data FROM pictures WHERE job = ? ORDER BY place", (row[0],)).fetchall()
        return self._job(row, tuple(data for (data,) in rows))

    def delete(self, job_id: str) -> None:
        """Forget a job."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def expire(self, keep_s: float, keep_bytes: int) -> None:
        """Forget finished jobs that are older than `keep_s`, and the oldest of those beyond `keep_bytes`."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE state != 'queued' AND finished < ?", (time.time() - keep_s,))
            rows = database.execute("SELECT number, bytes FROM jobs WHERE state != 'queued' ORDER BY finished DESC").fetchall()
            total, beyond = 0, []
            for number, size in rows:
                total += size
                if total > keep_bytes:
                    beyond.append((number,))
            database.executemany("DELETE FROM jobs WHERE number = ?", beyond)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()
            if self._held is not None:
                self._held.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _job(self, row: _Row, pictures: tuple[bytes, ...] = ()) -> Job:
        _, job_id, owner, model, body, created, state, finished, facts, error = row
        job = Job(
            id=job_id, owner=owner, model=model, body=TASK.validate_json(body), created=created, finished=finished, is_kept=True
        )
        job.state = state  # type: ignore[assignment]
        job.outcome = Outcome(facts=json.loads(facts), pictures=pictures) if facts else None
        job.error = from_facts(json.loads(error)) if error else None
        return job
