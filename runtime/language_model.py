"""Reading with the MLLM: tokens and pictures go in, hidden states come out, and a context keeps what was read.

The keys and values of a context stay on the backend's device; reading more gives a new context and leaves the old one
as it was, so a run that fails or is cancelled breaks nothing. Knows nothing of templates and of choosing words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backends import Backend, DeviceArray
from .bundle import Bundle, ChatFacts, VisionFacts
from .errors import BundleError, RequestError
from .rope import Grid, chat_positions, mrope_tables, text_positions
from .sessions import Sessions
from .vision import vision_patches
from .vision_tables import vision_tables


@dataclass(frozen=True)
class Context:
    """What was read so far: its token ids, the position of what comes next, and the cache on the device."""

    ids: tuple[int, ...] = ()
    next_position: int = 0
    past: Mapping[str, DeviceArray] = field(default_factory=dict)


class Seen(NamedTuple):
    """A picture as the language model gets it: one embedding a token, (tokens, Dt) float32, and its rows and columns."""

    embeds: NDArray[np.float32]
    grid: Grid


class LanguageModel:
    """The MLLM's components of a bundle. Raises BundleError where the bundle can't talk, or can't look at what it is shown."""

    def __init__(self, bundle: Bundle, sessions: Sessions, backend: Backend) -> None:
        self._bundle = bundle
        self._sessions = sessions
        self._backend = backend
        self._facts = bundle.manifest.mllm

    @property
    def chat_facts(self) -> ChatFacts:
        """The bundle's `chat`. Raises BundleError if it has none."""
        if self._bundle.manifest.chat is None:
            raise BundleError(f"the bundle {str(self._bundle.path)!r} can only draw; export its checkpoint again to chat")
        return self._bundle.manifest.chat

    def look(self, image: Image.Image) -> Seen:
        """One RGB picture through the vision encoder."""
        facts = self._vision_facts()
        patches, grid = vision_patches(image, facts.processor)
        processor = facts.processor
        tables = vision_tables(
            grid,
            merge=processor.merge_size,
            window_px=facts.window_px,
            patch_px=processor.patch_size,
            head_width=facts.head_width,
        )
        outputs = self._sessions.run("vision_encoder", {"patches": patches, **tables._asdict()})
        embeds = self._backend.to_host(outputs["image_embeds"]).astype(np.float32)
        return Seen(embeds, (grid[1] // processor.merge_size, grid[2] // processor.merge_size))

    def expand(self, ids: Sequence[int], pictures: Sequence[Seen]) -> list[int]:
        """The ids with each picture's one image token repeated for all its embeddings.

        Raises RequestError unless there are as many image tokens as pictures.
        """
        image_token = self.chat_facts.image_token_id
        tokens = sum(number == image_token for number in ids)
        if tokens != len(pictures):
            raise RequestError(
                f"the prompt holds {tokens} image tokens for {len(pictures)} images; leave them out of the text: "
                "each image given brings its own"
            )
        remaining = iter(pictures)
        return [copy for number in ids for copy in [number] * (len(next(remaining).embeds) if number == image_token else 1)]

    def read(
        self, context: Context, ids: Sequence[int], pictures: Sequence[Seen] = ()
    ) -> tuple[NDArray[np.float32], Context]:
        """Read expanded ids after a context: their hidden states (T, Dt) float32, and the context with them.

        Raises RequestError beyond the context length.
        """
        total, most = len(context.ids) + len(ids), self.chat_facts.max_context_tokens
        if total > most:
            raise RequestError(f"the conversation has {total} tokens; this model reads at most {most}: shorten it or start anew")
        is_image = [number == self.chat_facts.image_token_id for number in ids]
        positions = chat_positions(context.next_position, is_image, [picture.grid for picture in pictures])
        return self._run(context, ids, self._embeds(ids, is_image, pictures), positions)

    def read_text(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The hidden states (T, Dt) float32 of a text on its own; needs nothing of a bundle's chat."""
        return self._run(Context(), ids, self._embeds(ids, (), ()), text_positions(0, len(ids)))[0]

    def _run(
        self, context: Context, ids: Sequence[int], embeds: DeviceArray | np.ndarray, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], Context]:
        tables = mrope_tables(positions, self._facts.head_width, self._facts.rope_theta, self._facts.mrope_section)
        before = len(context.ids)
        feeds = {
            "inputs_embeds": embeds,
            "cos": tables.cos[None],
            "sin": tables.sin[None],
            "mask": np.tri(len(ids), before + len(ids), before, dtype=bool)[None, None],
            **(context.past or self._empty_past()),
        }
        outputs = self._sessions.run("language_model", feeds)
        past = {name.replace("present", "past"): outputs[name] for name in outputs if name.startswith("present")}
        read = Context((*context.ids, *ids), int(positions.max()) + 1, past)
        return self._backend.to_host(outputs["hidden_states"])[0], read

    def logits(self, hidden_state: NDArray[np.float32]) -> NDArray[np.float32]:
        """What may follow a token with this hidden state (Dt): (vocabulary) float32."""
        outputs = self._sessions.run("lm_head", {"hidden_states": hidden_state[None]})
        row: NDArray[np.float32] = self._backend.to_host(outputs["logits"])[0]
        return row

    def _embeds(self, ids: Sequence[int], is_image: Sequence[bool], pictures: Sequence[Seen]) -> DeviceArray | np.ndarray:
        feeds = {"input_ids": np.array([ids], np.int64)}
        embeds: DeviceArray = self._sessions.run("token_embedding", feeds)["inputs_embeds"]
        if not pictures:
            return embeds
        host = self._backend.to_host(embeds).astype(np.float32)
        host[0, np.array(is_image)] = np.concatenate([picture.embeds for picture in pictures])
        return host

    def _empty_past(self) -> dict[str, np.ndarray]:
        empty = np.zeros((1, self._facts.kv_heads, 0, self._facts.head_width), np.float32)
        return {f"past_{kind}_{k}": empty for kind in ("key", "value") for k in range(self._facts.layers)}

    def _vision_facts(self) -> VisionFacts:
        if self._bundle.manifest.vision is None:
            raise BundleError(f"the bundle {str(self._bundle.path)!r} can't look at pictures: it has no vision encoder")
        return self._bundle.manifest.vision
