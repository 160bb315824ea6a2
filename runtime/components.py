"""The model's components, one verb for each. Nothing else knows their names, inputs and outputs.

Owns the backend and the open sessions. An array that one component hands to the next stays on the backend's device; what the host
computes with (velocities, pictures, hidden states of the language model, logits) comes back as numpy.

B batch, T text tokens, L image tokens, R reference tokens, S joint tokens, D hidden size, Dt that of the language model, C latent
channels, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends import Backend, DeviceArray, Sessions
from .bundle import Bundle
from .dtypes import PRECISIONS
from .rope import Rotary

Floats = NDArray[np.float32]
KeysAndValues = Mapping[str, DeviceArray | np.ndarray]
"""The language model's keys and values by the names of its graph's inputs, each (B, heads, tokens, width)."""


class JointTokens(NamedTuple):
    """The parts of the transformer's joint sequence, on the device: (1, T, D), (1, R, D) and (B, L, D)."""

    context: DeviceArray
    references: DeviceArray
    image_tokens: DeviceArray


class Components:
    """A bundle's components on a backend: opened when first run, closed again under a memory limit.

    Every verb raises BundleError where the bundle lacks the component, and BackendError where the engine fails.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, memory_limit_bytes: int | None = None, lender: Sessions | None = None
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.memory_limit_bytes = memory_limit_bytes
        self.sessions = Sessions(bundle, backend, memory_limit_bytes, lender)

    def embed_tokens(self, input_ids: NDArray[np.int64]) -> DeviceArray:
        """input_ids: (B, T). Returns inputs_embeds (B, T, Dt) float32."""
        return self.sessions.run("token_embedding", {"input_ids": input_ids})["inputs_embeds"]

    def encode_vision(self, patches: Floats, tables: Mapping[str, np.ndarray]) -> Floats:
        """patches: (N, values) of one picture. tables: `mllm.vision_tables` by name. Returns image_embeds (N / 4, Dt)."""
        outputs = self.sessions.run("vision_encoder", {"patches": patches, **tables})
        return self.backend.to_host(outputs["image_embeds"])

    def run_language_model(
        self, inputs_embeds: DeviceArray | np.ndarray, rotary: Rotary, mask: NDArray[np.bool_], past: KeysAndValues
    ) -> tuple[Floats, KeysAndValues]:
        """inputs_embeds: (B, T, Dt). rotary: tables (B, T, Dh). mask: (B, 1, T, past + T), True where a token attends.

        past: as an earlier run returned it, or empty. Returns hidden states (B, T, Dt), and keys and values with the new tokens'.
        """
        feeds = {"inputs_embeds": inputs_embeds, "cos": rotary.cos, "sin": rotary.sin, "mask": mask}
        outputs = self.sessions.run("language_model", {**feeds, **(past or self._empty_past(len(mask)))})
        present = {name.replace("present", "past"): outputs[name] for name in outputs if name.startswith("present")}
        return self.backend.to_host(outputs["hidden_states"]), present

    def predict_logits(self, hidden_states: Floats) -> Floats:
        """hidden_states: (B, Dt). Returns the next tokens' logits, (B, vocabulary)."""
        return self.backend.to_host(self.sessions.run("lm_head", {"hidden_states": hidden_states})["logits"])

    def embed_timestep(self, timestep: float) -> DeviceArray:
        """Returns temb (1, width)."""
        return self.sessions.run("timestep_embedding", {"timesteps": np.array([timestep], np.float32)})["temb"]

    def refine_context(self, prompt_embeds: Floats, rotary: Rotary) -> DeviceArray:
        """prompt_embeds: (T, Dt). Returns context (1, T, D)."""
        return self.sessions.run("context_refiner", {"prompt_embeds": prompt_embeds[None], **rotary._asdict()})["context"]

    def no_references(self) -> DeviceArray:
        """Reference tokens of no reference, (1, 0, D)."""
        return self._zeros(1, 0)

    def embed_reference(
        self, earlier: DeviceArray, latents: Floats, index: int, temb: DeviceArray, rotary: Rotary
    ) -> DeviceArray:
        """latents: (1, C, h, w) of reference `index`. Returns `earlier` (1, R, D) with its tokens behind."""
        feeds = {"earlier_references": earlier, "latents": latents, "index": np.array([index]), "temb": temb}
        return self.sessions.run("reference_embedder", {**feeds, **rotary._asdict()})["references"]

    def embed_latents(self, latents: Floats, temb: DeviceArray, rotary: Rotary) -> DeviceArray:
        """latents: (B, C, h, w). Returns image_tokens (B, L, D)."""
        return self.sessions.run("latent_embedder", {"latents": latents, "temb": temb, **rotary._asdict()})["image_tokens"]

    def transform(self, tokens: JointTokens, temb: DeviceArray, rotary: Rotary) -> DeviceArray:
        """Runs the joint layers. Returns the image's hidden states (B, L, D)."""
        return self.sessions.run("transformer", {**tokens._asdict(), "temb": temb, **rotary._asdict()})["hidden_states"]

    def no_signal(self, batch: int, joint_tokens: int) -> DeviceArray:
        """A cache signal of zeros, (B, S, D): what the first step compares with."""
        return self._zeros(batch, joint_tokens)

    def measure_change(self, tokens: JointTokens, temb: DeviceArray, previous: DeviceArray) -> tuple[DeviceArray, float]:
        """previous: the signal of the step before. Returns the signal (B, S, D) and its relative L1 change."""
        outputs = self.sessions.run("cache_signal", {**tokens._asdict(), "temb": temb, "previous": previous})
        return outputs["signal"], float(self.backend.to_host(outputs["change"]))

    @property
    def most_blended(self) -> int:
        """The number of states that `blend` takes."""
        graph = self.bundle.graph("blend", self.backend.graph_precision)
        return len(graph.inputs) - 1  # the last one is their weights

    def blend(self, states: Sequence[DeviceArray], weights: Sequence[float]) -> DeviceArray:
        """states: at most `most_blended` arrays (B, L, D). Returns their weighted sum."""
        missing = self.most_blended - len(states)
        feeds = {f"state_{k}": state for k, state in enumerate([*states, *[states[-1]] * missing])}
        feeds["weights"] = np.array([*weights, *[0.0] * missing], np.float32)
        return self.sessions.run("blend", feeds)["hidden_states"]

    def predict_velocity(self, hidden_states: DeviceArray, temb: DeviceArray, latents: Floats) -> Floats:
        """hidden_states: (B, L, D). Returns the velocity (B, C, h, w)."""
        feeds = {"hidden_states": hidden_states, "temb": temb, "latents": latents}
        return self.backend.to_host(self.sessions.run("velocity_head", feeds)["velocity"])

    def encode_pixels(self, pixels: Floats) -> Floats:
        """pixels: (B, 3, H, W) in [-1, 1]. Returns the mean of the autoencoder's distribution, (B, C, h, w), unscaled."""
        return self.backend.to_host(self.sessions.run("vae_encoder", {"pixels": pixels})["mean"])

    def decode_latents(self, latents: Floats) -> Floats:
        """latents: (B, C, h, w), unscaled. Returns pixels (B, 3, H, W), about in [-1, 1]."""
        return self.backend.to_host(self.sessions.run("vae_decoder", {"latents": latents})["pixels"])

    def to_device(self, rotary: Rotary) -> Rotary:
        """Copies rotary tables to the device, so that later steps need not."""
        return Rotary(self.backend.to_device(rotary.cos), self.backend.to_device(rotary.sin))

    def close(self, for_good: bool = False) -> None:
        """Close every component. The next run opens it again, or raises RequestError after closing for good."""
        self.sessions.close(for_good)

    def _zeros(self, batch: int, tokens: int) -> DeviceArray:
        shape = (batch, tokens, self.bundle.manifest.transformer.hidden_size)
        return self.backend.to_device(np.zeros(shape, np.float32), PRECISIONS[self.backend.graph_precision].name)

    def _empty_past(self, rows: int) -> dict[str, np.ndarray]:
        sizes = self.bundle.manifest.mllm
        empty = np.zeros((rows, sizes.kv_heads, 0, sizes.head_width), np.float32)
        return {f"past_{kind}_{k}": empty for kind in ("key", "value") for k in range(sizes.layers)}
