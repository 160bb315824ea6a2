"""The guided velocity of each step of one drawing.

What doesn't depend on the step is computed once before the first (contexts, rope tables); what doesn't depend on the guidance
branch is computed once a step (image tokens, reference tokens). A cache policy may predict the transformer's output of a branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceArray
from .components import Components, JointTokens
from .guidance import Plan, combine, has_references
from .request import Request
from .rope import RequestRotary, request_rotary
from .step_caches import BranchCache

Latents = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Hidden states and latents that guide a drawing, all float32.

    prompts: hidden states (T, Dt) by guidance branch.
    references: latents (1, C, h, w) of each input image.
    """

    prompts: Mapping[str, NDArray[np.float32]]
    references: Sequence[Latents]


class Denoiser:
    """Computes velocities for one drawing; the steps come in order.

    plan: the branches of each step. latents: any of the drawing's, for their size.
    """

    def __init__(
        self, components: Components, request: Request, conditions: Conditions, plan: Plan, latents: Latents
    ) -> None:
        self.components = components
        self.references = conditions.references
        self.rotary = _device_tables(components, conditions, latents)
        self.no_references = components.no_references()
        self.contexts = {
            branch: components.refine_context(states, self.rotary.text[branch])
            for branch, states in conditions.prompts.items()
        }
        self._request = request
        self._plan = plan
        self._caches: dict[str, BranchCache] = {}
        self._signals: dict[str, DeviceArray] = {}

    def velocity(self, index: int, timestep: float, latents: Latents) -> tuple[Latents, dict[str, bool]]:
        """The guided velocity (B, C, h, w) of step `index`, and for each of its branches whether the transformer ran."""
        step = _Step(self, timestep, latents)
        velocities, computed = {}, {}
        for branch in self._plan[index]:
            hidden_states, computed[branch] = self._hidden_states(branch, index, step)
            velocities[branch] = self.components.predict_velocity(hidden_states, step.temb, latents)
        request = self._request
        guided = combine(velocities, text_guidance=request.text_guidance, image_guidance=request.image_guidance)
        return guided, computed

    def _hidden_states(self, branch: str, index: int, step: _Step) -> tuple[DeviceArray, bool]:
        """The transformer's output for the image, and whether it was computed rather than predicted."""
        if self._request.cache is None:
            return self._transform(branch, step), True
        if branch not in self._caches:
            coefficients = self.components.bundle.manifest.transformer.teacache_coefficients
            self._caches[branch] = self._request.cache.start(coefficients)
        cache = self._caches[branch]
        change = self._change(branch, step) if cache.needs_change else None
        if cache.should_compute(index, len(self._plan), change):
            hidden_states = self._transform(branch, step)
            cache.record(step.image_tokens if cache.needs_change else None, hidden_states)
            return hidden_states, True
        return self.components.blend(*cache.predict(step.image_tokens if cache.needs_change else None)), False

    def _transform(self, branch: str, step: _Step) -> DeviceArray:
        return self.components.transform(step.joint(branch), step.temb, self.rotary.joint[branch])

    def _change(self, branch: str, step: _Step) -> float | None:
        """The relative change of the transformer's input since this branch's last step; None at its first."""
        is_first = branch not in self._signals
        tokens = len(self.components.backend.to_host(self.rotary.joint[branch].cos)) if is_first else 0
        previous = self.components.no_signal(len(step.latents), tokens) if is_first else self._signals[branch]
        self._signals[branch], change = self.components.measure_change(step.joint(branch), step.temb, previous)
        return None if is_first else change


class _Step:
    """The arrays that the branches of one step share, computed when the first of them needs one: a predicted step may not."""

    def __init__(self, denoiser: Denoiser, timestep: float, latents: Latents) -> None:
        self._denoiser = denoiser
        self._components = denoiser.components
        self._timestep = timestep
        self.latents = latents

    def joint(self, branch: str) -> JointTokens:
        """The transformer's input of a branch."""
        references = self.references if has_references(branch) else self._denoiser.no_references
        return JointTokens(self._denoiser.contexts[branch], references, self.image_tokens)

    @cached_property
    def temb(self) -> DeviceArray:
        """The timestep's embedding, (1, width)."""
        return self._components.embed_timestep(self._timestep)

    @cached_property
    def image_tokens(self) -> DeviceArray:
        """The noisy image's tokens, (B, L, D)."""
        return self._components.embed_latents(self.latents, self.temb, self._denoiser.rotary.image)

    @cached_property
    def references(self) -> DeviceArray:
        """All references' tokens, (1, R, D)."""
        tokens = self._denoiser.no_references
        for index, latents in enumerate(self._denoiser.references):
            rotary = self._denoiser.rotary.references[index]
            tokens = self._components.embed_reference(tokens, latents, index, self.temb, rotary)
        return tokens


def _device_tables(components: Components, conditions: Conditions, latents: Latents) -> RequestRotary:
    """The drawing's rope tables, copied to the device once."""
    transformer = components.bundle.manifest.transformer
    tables = request_rotary(
        {branch: len(states) for branch, states in conditions.prompts.items()},
        [_grid(reference, transformer.patch_size) for reference in conditions.references],
        _grid(latents, transformer.patch_size),
        transformer.rope_axes,
        transformer.rope_theta,
    )
    return RequestRotary(
        image=components.to_device(tables.image),
        references=tuple(map(components.to_device, tables.references)),
        text={branch: components.to_device(table) for branch, table in tables.text.items()},
        joint={branch: components.to_device(table) for branch, table in tables.joint.items()},
    )


def _grid(latents: Latents, patch: int) -> tuple[int, int]:
    return latents.shape[2] // patch, latents.shape[3] // patch
