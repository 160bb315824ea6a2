"""The denoising loop: from noise and conditions to clean latents, a step at a time.

What doesn't depend on the step is done once before it (contexts, timesteps, rope tables); what doesn't depend on the guidance
branch is done once a step (image tokens, reference tokens). A cache policy may spare a branch its transformer run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .backends import Backend, DeviceArray
from .backends.sessions import Sessions
from .caches import BranchCache
from .errors import BackendError
from .guidance import branches, combine, sees_references
from .manifest import TransformerParameters
from .request import Request, Step
from .rope import RequestRotary, Rotary, request_rotary
from .schedulers import SCHEDULERS

Latents = NDArray[np.float32]
OnStep = Callable[[Step], object]
BLENDED_STATES = 5


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a drawing is guided by: prompt states (T, Dt) by branch, and reference latents (1, C, h, w), all float32."""

    prompts: Mapping[str, NDArray[np.float32]]
    references: Sequence[Latents]


class Denoiser:
    """One drawing's loop. Everything that is the same at every step is made here, once."""

    def __init__(
        self,
        sessions: Sessions,
        backend: Backend,
        facts: TransformerParameters,
        request: Request,
        conditions: Conditions,
        timesteps: NDArray[np.float32],
        latents: Latents,
    ) -> None:
        self._sessions = sessions
        self._backend = backend
        self._facts = facts
        self._request = request
        self._conditions = conditions
        self._timesteps = timesteps
        self._latents = latents
        self._scheduler = SCHEDULERS[request.scheduler](timesteps)
        self._rotary = self._device_tables()
        self._contexts = {branch: self._context(branch) for branch in conditions.prompts}
        self._no_references = backend.to_device(np.zeros((1, 0, facts.hidden_size), np.float32), self._dtype)
        self._caches: dict[str, BranchCache] = {}
        self._signals: dict[str, DeviceArray] = {}

    def run(self, on_step: OnStep | None = None) -> tuple[Latents, tuple[Step, ...]]:
        """All steps. Returns the last latents and what happened at each step; `on_step` returning False ends the loop.

        Raises BackendError if a step gives values that are not finite.
        """
        steps: list[Step] = []
        for index, timestep in enumerate(self._timesteps):
            velocities, computed = self._velocities(index)
            velocity = combine(
                velocities,
                text_guidance=self._request.text_guidance,
                image_guidance=self._request.image_guidance,
            )
            self._latents = self._scheduler.step(index, velocity, self._latents)
            self._check_finite(index)
            steps.append(Step(index=index, timestep=float(timestep), latents=self._latents, computed=computed))
            if on_step is not None and on_step(steps[-1]) is False:
                break
        return self._latents, tuple(steps)

    def _velocities(self, index: int) -> tuple[dict[str, Latents], dict[str, bool]]:
        request, count = self._request, len(self._timesteps)
        shared = _Shared(self, index)
        velocities, computed = {}, {}
        for branch in branches(
            index,
            count,
            text_guidance=request.text_guidance,
            image_guidance=request.image_guidance,
            cfg_range=request.cfg_range,
            has_images=bool(self._conditions.references),
        ):
            hidden_states, computed[branch] = self._hidden_states(branch, index, shared)
            feeds = {"hidden_states": hidden_states, "temb": shared.temb, "latents": self._latents}
            velocities[branch] = self._backend.to_host(self._sessions.run("velocity_head", feeds)["velocity"])
        return velocities, computed

    def _hidden_states(self, branch: str, index: int, shared: _Shared) -> tuple[DeviceArray, bool]:
        """The transformer's output for the image, and whether it was computed rather than predicted."""
        if self._request.cache is None:
            return self._transform(branch, shared), True
        if branch not in self._caches:
            self._caches[branch] = self._request.cache.start(self._facts.teacache_coefficients)
        cache = self._caches[branch]
        change = self._change(branch, shared) if cache.needs_change else None
        if cache.should_compute(index, len(self._timesteps), change):
            hidden_states = self._transform(branch, shared)
            cache.record(shared.image_tokens if cache.needs_change else None, hidden_states)
            return hidden_states, True
        return self._blend(*cache.predict(shared.image_tokens if cache.needs_change else None)), False

    def _transform(self, branch: str, shared: _Shared) -> DeviceArray:
        cos, sin = self._rotary.joint[branch]
        feeds = {**self._joint(branch, shared), "temb": shared.temb, "cos": cos, "sin": sin}
        return self._sessions.run("transformer", feeds)["hidden_states"]

    def _joint(self, branch: str, shared: _Shared) -> dict[str, DeviceArray]:
        references = shared.references if sees_references(branch) else self._no_references
        return {"context": self._contexts[branch], "references": references, "image_tokens": shared.image_tokens}

    def _change(self, branch: str, shared: _Shared) -> float | None:
        """How much the transformer's input changed since this branch's last step; None at its first."""
        first = branch not in self._signals
        previous = self._zero_signal(branch) if first else self._signals[branch]
        feeds = {**self._joint(branch, shared), "temb": shared.temb, "previous": previous}
        outputs = self._sessions.run("cache_signal", feeds)
        self._signals[branch] = outputs["signal"]
        return None if first else float(self._backend.to_host(outputs["change"]))

    def _zero_signal(self, branch: str) -> DeviceArray:
        tokens = self._backend.to_host(self._rotary.joint[branch].cos).shape[0]
        shape = (self._latents.shape[0], tokens, self._facts.hidden_size)
        return self._backend.to_device(np.zeros(shape, np.float32), self._dtype)

    def _blend(self, states: list[DeviceArray], weights: list[float]) -> DeviceArray:
        """A weighted sum on the device; the graph takes a fixed number of states, so the last one fills up with weight 0."""
        missing = BLENDED_STATES - len(states)
        feeds = {f"state_{k}": state for k, state in enumerate(states + states[-1:] * missing)}
        feeds["weights"] = np.array(weights + [0.0] * missing, np.float32)
        return self._sessions.run("blend", feeds)["hidden_states"]

    def _context(self, branch: str) -> DeviceArray:
        cos, sin = self._rotary.text[branch]
        feeds = {"prompt_embeds": self._conditions.prompts[branch][None], "cos": cos, "sin": sin}
        return self._sessions.run("context_refiner", feeds)["context"]

    def _device_tables(self) -> RequestRotary:
        """The request's rope tables, copied to the device once."""
        patch = self._facts.patch_size
        tables = request_rotary(
            {branch: len(states) for branch, states in self._conditions.prompts.items()},
            [_grid(latents, patch) for latents in self._conditions.references],
            _grid(self._latents, patch),
            self._facts.rope_axes,
            self._facts.rope_theta,
        )
        return RequestRotary(
            image=self._placed(tables.image),
            references=tuple(map(self._placed, tables.references)),
            text={branch: self._placed(table) for branch, table in tables.text.items()},
            joint={branch: self._placed(table) for branch, table in tables.joint.items()},
        )

    def _placed(self, table: Rotary) -> Rotary:
        return Rotary(self._backend.to_device(table.cos), self._backend.to_device(table.sin))

    @property
    def _dtype(self) -> str:
        return {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[self._backend.graph_precision]

    def _check_finite(self, index: int) -> None:
        if not np.isfinite(self._latents).all():
            raise BackendError(
                f"step {index} gave values that are not finite in {self._backend.precision} on {self._backend.name}: "
                "try precision fp32, or check the checkpoint"
            )


class _Shared:
    """What the branches of one step share; computed when the first of them asks, so that a predicted step spares it."""

    def __init__(self, denoiser: Denoiser, index: int) -> None:
        self._denoiser = denoiser
        self._index = index

    @cached_property
    def temb(self) -> DeviceArray:
        """The step's timestep embedding, (1, Dc)."""
        timesteps = self._denoiser._timesteps[self._index : self._index + 1]
        return self._denoiser._sessions.run("timestep_embedding", {"timesteps": timesteps})["temb"]

    @cached_property
    def image_tokens(self) -> DeviceArray:
        """The noisy image's tokens, (B, L, D)."""
        cos, sin = self._denoiser._rotary.image
        feeds = {"latents": self._denoiser._latents, "temb": self.temb, "cos": cos, "sin": sin}
        return self._denoiser._sessions.run("latent_embedder", feeds)["image_tokens"]

    @cached_property
    def references(self) -> DeviceArray:
        """All references' tokens, (1, R, D)."""
        tokens = self._denoiser._no_references
        for index, latents in enumerate(self._denoiser._conditions.references):
            cos, sin = self._denoiser._rotary.references[index]
            feeds = {"earlier_references": tokens, "latents": latents, "index": np.array([index]), "temb": self.temb}
            outputs = self._denoiser._sessions.run("reference_embedder", {**feeds, "cos": cos, "sin": sin})
            tokens = outputs["references"]
        return tokens


def _grid(latents: Latents, patch: int) -> tuple[int, int]:
    return latents.shape[2] // patch, latents.shape[3] // patch
