"""Tasks that the server sends to replicas, and the messages of progress and outcome that come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..serving.jobs import Event, Job, Outcome
from ..serving.requests.bodies import TaskBody

Message = dict[str, Any]
"""An event of the replica's job. A `step` has its `seconds` at the engine, `done` has `facts` and `pictures`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job as a replica gets it. Its seed is chosen already, so that every replica makes the same of it."""

    id: str
    model: str
    owner: str
    is_kept: bool
    body: TaskBody

    @classmethod
    def of(cls, job: Job) -> Task:
        """The task of a job."""
        return cls(id=job.id, model=job.model, owner=job.owner, is_kept=job.is_kept, body=job.body)

    def job(self) -> Job:
        """A job of the replica's own."""
        return Job(id=self.id, model=self.model, owner=self.owner, is_kept=self.is_kept, body=self.body)


def message_of(event: Event, job: Job, step_s: float) -> Message:
    """The message of a job's event. step_s: the seconds of the last step."""
    if event["type"] == "step":
        return {**event, "seconds": step_s}
    if event["type"] == "done" and job.outcome is not None:
        return {**event, "facts": job.outcome.facts, "pictures": job.outcome.pictures}
    return event


def outcome_of(message: Message) -> Outcome:
    """The outcome that a `done` message carries."""
    return Outcome(facts=message["facts"], pictures=tuple(message["pictures"]))
