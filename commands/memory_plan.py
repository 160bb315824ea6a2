"""The cost of a memory limit: the components that a drawing opens, in their order, and the weights that it reads again.

Runs a drawing's components in their order through `Sessions` with a backend that opens nothing, so that plan and drawing follow
the same rule. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..runtime.backends import needs_streaming
from ..runtime.backends.fake import FakeBackend
from ..runtime.backends.sessions import Opening, Sessions
from ..runtime.bundle import Bundle

ENCODING = ("token_embedding", "language_model")
PROMPT = (*ENCODING, *ENCODING)  # the prompt and the negative one
REFERENCES = ("vae_encoder",)
BEFORE_STEPS = ("context_refiner",)
BRANCH = ("transformer", "velocity_head")
STEP = ("timestep_embedding", "reference_embedder", "latent_embedder", *BRANCH, *BRANCH)
PICTURE = ("vae_decoder",)
LEAST_MEGABYTES = 50_000


def memory_plan(
    bundle: Bundle, precision: str, graphs: str, memory_limit_bytes: int | None, steps: int
) -> dict[str, Any]:
    """The components that each stage of an edit with one reference opens in a new process, as lines for people.

    All steps are guided by text, so each has two guidance branches.

    graphs: the precision of the graphs that run in `precision`.
    """
    sessions = Sessions(bundle, FakeBackend(precision, graphs), memory_limit_bytes)
    stages = {"prompt": PROMPT, "reference": REFERENCES, "before the steps": BEFORE_STEPS, "first step": STEP}
    plan: dict[str, Any] = {name: _line(_openings(sessions, components)) for name, components in stages.items()}
    further: list[list[Opening]] = [[]]
    while len(further) < steps and (len(further) < 3 or _line(further[-1]) != _line(further[-2])):
        further.append(_openings(sessions, STEP))
    plan["each further step"] = _line(further[-1])
    plan["picture"] = _line(_openings(sessions, PICTURE))
    openings, alike = sessions.openings, steps - len(further)  # steps that open what the one before opened
    sizes = {opening.component: opening.resident_bytes for opening in openings}
    again = _bytes(openings) + alike * _bytes(further[-1]) - sum(sizes.values())
    openings_again = len(openings) + alike * len(further[-1]) - len(sizes)
    return {
        "limit": "none" if memory_limit_bytes is None else size_text(memory_limit_bytes),
        "weights": f"{size_text(sum(sizes.values()))} in {precision}",
        "most open at once": size_text(sessions.most_bytes),
        "opened in order": plan,
        "read again": f"{size_text(again)} in {openings_again} openings over {steps} steps",
        "streamed": "yes: one component alone is over the limit, its weights are read at every run"
        if needs_streaming(bundle, precision, memory_limit_bytes, graphs)
        else "no",
    }


def size_text(count: int) -> str:
    """A number of bytes in MB; in kB where MB would round to 0.0."""
    return f"{count / 1e6:,.1f} MB" if count >= LEAST_MEGABYTES else f"{count / 1e3:,.1f} kB"


def _openings(sessions: Sessions, components: Iterable[str]) -> list[Opening]:
    before = len(sessions.openings)
    for component in components:
        sessions.run(component, {})
    return sessions.openings[before:]


def _bytes(openings: Iterable[Opening]) -> int:
    return sum(opening.resident_bytes for opening in openings)


def _line(openings: list[Opening]) -> str:
    return "; ".join(map(_opening, openings)) or "nothing"


def _opening(opening: Opening) -> str:
    closes = f" (closes {', '.join(opening.closed)})" if opening.closed else ""
    return f"{opening.component} {size_text(opening.resident_bytes)}{closes}"
