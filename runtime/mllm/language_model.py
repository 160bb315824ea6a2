"""Reading with the MLLM: tokens and pictures go in, hidden states come out, and a context keeps what was read.

A context holds one text, or several side by side as the rows of one batch. Its keys and values stay on the backend's
device; reading more gives a new context and leaves the old one as it was, so a run that fails or is cancelled breaks
nothing. Knows nothing of templates and of choosing words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..backends import Backend, DeviceArray
from ..backends.sessions import Sessions
from ..bundle import Bundle
from ..errors import BundleError, RequestError
from ..manifest import ChatParameters, VisionParameters
from ..rope import Grid, chat_positions, mrope_tables, text_positions
from .image_processor import vision_patches
from .vision_tables import vision_tables


@dataclass(frozen=True, eq=False)
class Context:
    """What was read so far: each row's token ids, the position of what comes next in it, and the cache on the device.

    is_token: (B, P) bool: which columns of the cache are tokens of the row; the others are padding.
    """

    rows: tuple[tuple[int, ...], ...] = ((),)
    next_positions: tuple[int, ...] = (0,)
    is_token: NDArray[np.bool_] = field(default_factory=lambda: np.ones((1, 0), bool))
    past: Mapping[str, DeviceArray] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, count: int) -> Context:
        """Nothing read yet, for `count` texts side by side."""
        return cls(rows=((),) * count, next_positions=(0,) * count, is_token=np.ones((count, 0), bool))

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids of the first row, the only one of most contexts."""
        return self.rows[0]


class Seen(NamedTuple):
    """A picture as the language model gets it: one embedding a token, (tokens, Dt) float32, and its rows and columns."""

    embeds: NDArray[np.float32]
    grid: Grid


class _Block(NamedTuple):
    """The new tokens of all rows, padded on the left to one length: so the last column is the last token of each."""

    ids: NDArray[np.int64]  # (B, T)
    is_token: NDArray[np.bool_]  # (B, T)
    positions: NDArray[np.int64]  # (3, B, T)


class LanguageModel:
    """The MLLM's components of a bundle. Raises BundleError where the bundle can't talk, or can't look at what it is shown."""

    def __init__(self, bundle: Bundle, sessions: Sessions, backend: Backend) -> None:
        self._bundle = bundle
        self._sessions = sessions
        self._backend = backend
        self._facts = bundle.manifest.mllm

    @property
    def chat_facts(self) -> ChatParameters:
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
        embeds = self._backend.to_host(outputs["image_embeds"])
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
        """Read expanded ids after a context of one row: their hidden states (T, Dt) float32, and the context with them.

        Raises RequestError beyond the context length.
        """
        states, after = self.read_rows(context, [ids], [pictures])
        return states[0], after

    def read_rows(
        self, context: Context, rows: Sequence[Sequence[int]], pictures: Sequence[Sequence[Seen]] = ()
    ) -> tuple[list[NDArray[np.float32]], Context]:
        """Read expanded ids in every row of a context: each row's hidden states (T, Dt) float32, and the context with them.

        Rows may differ in length, also be empty: they are padded, and nothing looks at the padding. pictures: each row's.
        Raises RequestError beyond the context length.
        """
        most = self.chat_facts.max_context_tokens
        total = max(len(old) + len(new) for old, new in zip(context.rows, rows, strict=True))
        if total > most:
            raise RequestError(f"the conversation has {total} tokens; this model reads at most {most}: shorten it or start anew")
        shown = pictures or [()] * len(rows)
        positions = [
            chat_positions(start, [number == self.chat_facts.image_token_id for number in row], [seen.grid for seen in given])
            for start, row, given in zip(context.next_positions, rows, shown, strict=True)
        ]
        block = _padded(rows, positions)
        embeds = self._embeds(block, [seen for given in shown for seen in given])
        return self._run(context, rows, block, embeds)

    def read_text(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The hidden states (T, Dt) float32 of a text on its own; needs nothing of a bundle's chat."""
        block = _padded([ids], [text_positions(0, len(ids))])
        return self._run(Context(), [ids], block, self._embeds(block, []))[0][0]

    def logits(self, hidden_states: NDArray[np.float32]) -> NDArray[np.float32]:
        """What may follow tokens with these hidden states (…, Dt): (…, vocabulary) float32."""
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        outputs = self._sessions.run("lm_head", {"hidden_states": flat})
        return self._backend.to_host(outputs["logits"]).reshape(*hidden_states.shape[:-1], -1)

    def _run(
        self, context: Context, rows: Sequence[Sequence[int]], block: _Block, embeds: DeviceArray | np.ndarray
    ) -> tuple[list[NDArray[np.float32]], Context]:
        facts = self._facts
        tables = [
            mrope_tables(block.positions[:, row], facts.head_width, facts.rope_theta, facts.mrope_section)
            for row in range(len(rows))
        ]
        is_token = np.concatenate([context.is_token, block.is_token], axis=1)
        feeds = {
            "inputs_embeds": embeds,
            "cos": np.stack([table.cos for table in tables]),
            "sin": np.stack([table.sin for table in tables]),
            "mask": _mask(is_token, block.ids.shape[1]),
            **(context.past or self._empty_past(len(rows))),
        }
        outputs = self._sessions.run("language_model", feeds)
        hidden = self._backend.to_host(outputs["hidden_states"])
        after = Context(
            rows=tuple((*old, *new) for old, new in zip(context.rows, rows, strict=True)),
            next_positions=_next_positions(context, block),
            is_token=is_token,
            past={name.replace("present", "past"): outputs[name] for name in outputs if name.startswith("present")},
        )
        return [states[len(states) - len(row) :] for states, row in zip(hidden, rows, strict=True)], after

    def _embeds(self, block: _Block, pictures: Sequence[Seen]) -> DeviceArray | np.ndarray:
        """The tokens' embeddings, on the device unless pictures take their places among them."""
        embeds: DeviceArray = self._sessions.run("token_embedding", {"input_ids": block.ids})["inputs_embeds"]
        if not pictures:
            return embeds
        host = self._backend.to_host(embeds)
        is_image = block.is_token & (block.ids == self.chat_facts.image_token_id)
        host[is_image] = np.concatenate([picture.embeds for picture in pictures])
        return host

    def _empty_past(self, rows: int) -> dict[str, np.ndarray]:
        empty = np.zeros((rows, self._facts.kv_heads, 0, self._facts.head_width), np.float32)
        return {f"past_{kind}_{k}": empty for kind in ("key", "value") for k in range(self._facts.layers)}

    def _vision_facts(self) -> VisionParameters:
        if self._bundle.manifest.vision is None:
            raise BundleError(f"the bundle {str(self._bundle.path)!r} can't look at pictures: it has no vision encoder")
        return self._bundle.manifest.vision


def _padded(rows: Sequence[Sequence[int]], positions: Sequence[NDArray[np.int64]]) -> _Block:
    shape = (len(rows), max(map(len, rows)))
    block = _Block(np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros((3, *shape), np.int64))
    for number, (row, places) in enumerate(zip(rows, positions, strict=True)):
        new = slice(shape[1] - len(row), None)
        block.ids[number, new] = row
        block.is_token[number, new] = True
        block.positions[:, number, new] = places
    return block


def _mask(is_token: NDArray[np.bool_], new: int) -> NDArray[np.bool_]:
    """Who sees whom, (B, 1, new, total): the tokens up to oneself. Padding sees itself: a softmax of nothing is not a number."""
    total = is_token.shape[1]
    mask: NDArray[np.bool_] = is_token[:, None, None] & np.tri(new, total, total - new, dtype=bool)
    mask |= np.eye(new, total, total - new, dtype=bool)
    return mask


def _next_positions(context: Context, block: _Block) -> tuple[int, ...]:
    after = np.where(block.is_token, block.positions, -1).max(axis=(0, 2)) + 1
    return tuple(np.maximum(after, context.next_positions).tolist())
