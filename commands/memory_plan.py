"""What a memory limit means for a bundle: which components a drawing opens, in which order, and what is read again for it.

Plays a drawing's order of components through `Sessions` with a backend that opens nothing, so that the plan follows from
the very rule that a drawing follows. Knows that order; computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..runtime.backends import needs_streaming
from ..runtime.backends.fake import FakeBackend
from ..runtime.backends.sessions import Opening, Sessions
from ..runtime.bundle import Bundle

READING = ("token_embedding", "language_model")
PROMPT = (*READING, *READING)  # the prompt and the negative one
REFERENCES = ("vae_encoder",)
BEFORE_STEPS = ("context_refiner",)
BRANCH = ("transformer", "velocity_head")
STEP = ("timestep_embedding", "reference_embedder", "latent_embedder", *BRANCH, *BRANCH)
PICTURE = ("vae_decoder",)


def memory_plan(
    bundle: Bundle, precision: str, graphs: str, memory_limit_bytes: int | None, steps: int
) -> dict[str, Any]:
    """An edit with one reference, drawn in `steps` steps by a new process: what each stage opens, as facts for people.

    Guided by text throughout, so two guidance branches a step. graphs: which of the bundle's graphs run in `precision`.
    """
    sessions = Sessions(bundle, FakeBackend(precision, graphs), memory_limit_bytes)
    stages = {"prompt": PROMPT, "reference": REFERENCES, "before the steps": BEFORE_STEPS, "first step": STEP}
    plan: dict[str, Any] = {name: _told(_openings(sessions, components)) for name, components in stages.items()}
    further = [_openings(sessions, STEP) for _ in range(steps - 1)]
    plan["each further step"] = _told(further[-1] if further else [])
    plan["picture"] = _told(_openings(sessions, PICTURE))
    opened = sessions.openings
    needed = {opening.component: opening.resident_bytes for opening in opened}
    again = sum(opening.resident_bytes for opening in opened) - sum(needed.values())
    return {
        "limit": "none" if memory_limit_bytes is None else megabytes(memory_limit_bytes),
        "weights": f"{megabytes(sum(needed.values()))} in {precision}",
        "most open at once": megabytes(sessions.most_bytes),
        "opened in order": plan,
        "read again": f"{megabytes(again)} in {len(opened) - len(needed)} openings over {steps} steps",
        "streamed": "yes: one component alone is over the limit, its weights are read at every run"
        if needs_streaming(bundle, precision, memory_limit_bytes, graphs)
        else "no",
    }


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def _openings(sessions: Sessions, components: Iterable[str]) -> list[Opening]:
    before = len(sessions.openings)
    for component in components:
        sessions.run(component, {})
    return sessions.openings[before:]


def _told(openings: list[Opening]) -> str:
    return "; ".join(map(_opening, openings)) or "nothing"


def _opening(opening: Opening) -> str:
    closes = f" (closes {', '.join(opening.closed)})" if opening.closed else ""
    return f"{opening.component} {megabytes(opening.resident_bytes)}{closes}"
