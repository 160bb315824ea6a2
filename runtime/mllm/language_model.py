"""Tokens and pictures through the MLLM: hidden states come out, and a KV cache keeps what was read.

A KV cache holds one sequence, or several as the rows of one batch. Its keys and values stay on the backend's device. Extending it
makes a new cache and leaves the old one as it was, so a run that fails or is cancelled breaks nothing. Knows nothing of templates
and of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..backends import DeviceArray
from ..components import Components, KeysAndValues
from ..errors import BackendError, BundleError, RequestError
from ..manifest import ChatParameters, VisionParameters
from ..rope import Grid, Rotary
from .image_processor import vision_patches
from .mrope import chat_positions, mrope_tables, text_positions
from .vision_tables import vision_tables

States = NDArray[np.float32]
"""Hidden states after the final norm, (T, Dt)."""


@dataclass(frozen=True)
class Tokens:
    """Token ids, and which of them stand for a picture: the id alone does not say so, the model may generate it too."""

    ids: tuple[int, ...] = ()
    is_image: tuple[bool, ...] = ()

    @classmethod
    def text(cls, ids: Sequence[int]) -> Tokens:
        """Ids of which none stands for a picture."""
        return cls(tuple(ids), (False,) * len(ids))

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.is_image + other.is_image)

    def __len__(self) -> int:
        return len(self.ids)

    def text_states(self, states: States) -> States:
        """The hidden states (T, Dt) of these tokens without the pictures'."""
        kept: States = states[~np.array(self.is_image, bool)]
        return kept


class ImageFeatures(NamedTuple):
    """A picture as the language model reads it: an embedding for each token, (tokens, Dt) float32, and their rows and columns."""

    embeds: NDArray[np.float32]
    grid: Grid


@dataclass(frozen=True, eq=False)
class KVCache:
    """The keys and values of what was read, on the device, and what is needed to extend them.

    rows: the token ids of each row.
    next_positions: the M-RoPE position of each row's next token.
    is_token: (B, P) bool: which columns are tokens of the row; the others are padding.
    past: keys and values by name.
    """

    rows: tuple[tuple[int, ...], ...] = ((),)
    next_positions: tuple[int, ...] = (0,)
    is_token: NDArray[np.bool_] = field(default_factory=lambda: np.ones((1, 0), bool))
    past: KeysAndValues = field(default_factory=dict)

    @classmethod
    def empty(cls, rows: int = 1) -> KVCache:
        """The cache of `rows` sequences of which nothing was read."""
        return cls(rows=((),) * rows, next_positions=(0,) * rows, is_token=np.ones((rows, 0), bool))


class _Block(NamedTuple):
    """The new tokens of all rows, padded on the left to one length, so that the last column is the last token of each."""

    ids: NDArray[np.int64]  # (B, T)
    is_token: NDArray[np.bool_]  # (B, T)
    is_image: NDArray[np.bool_]  # (B, T)
    positions: NDArray[np.int64]  # (3, B, T)


class LanguageModel:
    """The MLLM of a bundle. Raises BundleError where the bundle can't chat, or can't read pictures."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self._bundle = components.bundle

    @property
    def chat(self) -> ChatParameters:
        """The manifest's `chat`. Raises BundleError if it has none."""
        if self._bundle.manifest.chat is None:
            raise BundleError(f"the bundle {str(self._bundle.path)!r} can only draw; export its checkpoint again to chat")
        return self._bundle.manifest.chat

    @property
    def vision(self) -> VisionParameters:
        """The manifest's `vision`. Raises BundleError if it has none."""
        if self._bundle.manifest.vision is None:
            raise BundleError(f"the bundle {str(self._bundle.path)!r} can't look at pictures: it has no vision encoder")
        return self._bundle.manifest.vision

    def encode_image(self, image: Image.Image) -> ImageFeatures:
        """The features of an RGB picture, from the vision encoder. Raises BundleError for another number than the bundle's."""
        vision, processor = self.vision, self.vision.processor
        patches, grid = vision_patches(image, processor)
        tables = vision_tables(
            grid,
            merge=processor.merge_size,
            window_px=vision.window_px,
            patch_px=processor.patch_size,
            head_width=vision.head_width,
        )
        embeds = self.components.encode_vision(patches, tables._asdict())
        rows, columns = grid[1] // processor.merge_size, grid[2] // processor.merge_size
        expected = rows * columns, self._bundle.manifest.mllm.hidden_size
        if embeds.shape != expected:
            raise BundleError(f"the vision encoder gives features {embeds.shape} where the bundle's numbers give {expected}")
        return ImageFeatures(embeds, (rows, columns))

    def expand(self, ids: Sequence[int], pictures: Sequence[ImageFeatures]) -> Tokens:
        """The tokens of a text, each picture's one image token repeated for all its embeddings.

        Raises RequestError unless there are as many image tokens as pictures.
        """
        image_token = self.chat.image_token_id
        count = sum(number == image_token for number in ids)
        if count != len(pictures):
            raise RequestError(
                f"the prompt holds {count} image tokens for {len(pictures)} images; leave them out of the text: "
                "each image given brings its own"
            )
        remaining = iter(pictures)
        copies = [len(next(remaining).embeds) if number == image_token else 1 for number in ids]
        expanded = [number for number, times in zip(ids, copies, strict=True) for _ in range(times)]
        return Tokens(tuple(expanded), tuple(number == image_token for number in expanded))

    def read(
        self, tokens: Tokens, pictures: Sequence[ImageFeatures] = (), cache: KVCache | None = None
    ) -> tuple[States, KVCache]:
        """The hidden states of one sequence's new tokens, and the cache with them. See `extend`."""
        states, extended = self.extend(cache or KVCache(), [tokens], [pictures])
        return states[0], extended

    def extend(
        self, cache: KVCache, rows: Sequence[Tokens], pictures: Sequence[Sequence[ImageFeatures]] = ()
    ) -> tuple[list[States], KVCache]:
        """Read new tokens in every row of a cache. Returns each row's hidden states (T, Dt) and the cache with the tokens.

        Rows may differ in length and may be empty: they are padded, and no token attends to the padding. pictures: each row's.
        Raises RequestError beyond the context length.
        """
        most = self.chat.max_context_tokens
        total = max(len(old) + len(new) for old, new in zip(cache.rows, rows, strict=True))
        if total == 0:
            raise RequestError("the question has no tokens in the bundle's template: write something")
        if total > most:
            raise RequestError(f"the conversation has {total} tokens; this model reads at most {most}: shorten it or start anew")
        features = pictures or [()] * len(rows)
        positions = [
            chat_positions(start, row.is_image, [picture.grid for picture in row_pictures])
            for start, row, row_pictures in zip(cache.next_positions, rows, features, strict=True)
        ]
        block = _padded(rows, positions)
        embeds = self._embeds(block, [picture for row_pictures in features for picture in row_pictures])
        return self._run(cache, rows, block, embeds)

    def encode_text(self, ids: Sequence[int]) -> States:
        """The hidden states (T, Dt) of a text on its own; works for a bundle that can only draw.

        Raises RequestError for no tokens, and for more than the context takes, where the bundle names its length.
        """
        if not ids:
            raise RequestError("the prompt has no tokens in the bundle's template: write something")
        tokens, chat = Tokens.text(ids), self._bundle.manifest.chat
        most = chat.max_context_tokens if chat else len(tokens)
        if len(tokens) > most:
            raise RequestError(f"the prompt has {len(tokens)} tokens; this model reads at most {most}: shorten it")
        block = _padded([tokens], [text_positions(0, len(tokens))])
        return self._run(KVCache(), [tokens], block, self._embeds(block, []))[0][0]

    def logits(self, hidden_states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next tokens' logits after tokens with these hidden states (…, Dt): (…, vocabulary) float32.

        Raises BackendError where one isn't finite.
        """
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        logits = self.components.predict_logits(flat)
        self._check_finite(logits)
        return logits.reshape(*hidden_states.shape[:-1], -1)

    def _check_finite(self, values: NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            backend = self.components.backend
            raise BackendError(
                f"the language model gave values that are not finite in {backend.precision} on {backend.name}: "
                "try precision fp32, or check the checkpoint"
            )

    def _run(
        self, cache: KVCache, rows: Sequence[Tokens], block: _Block, embeds: DeviceArray | np.ndarray
    ) -> tuple[list[States], KVCache]:
        sizes = self._bundle.manifest.mllm
        tables = [
            mrope_tables(block.positions[:, row], sizes.head_width, sizes.rope_theta, sizes.mrope_section)
            for row in range(len(rows))
        ]
        rotary = Rotary(np.stack([table.cos for table in tables]), np.stack([table.sin for table in tables]))
        is_token = np.concatenate([cache.is_token, block.is_token], axis=1)
        mask = _attention_mask(is_token, block.ids.shape[1])
        hidden, past = self.components.run_language_model(embeds, rotary, mask, cache.past)
        extended = KVCache(
            rows=tuple((*old, *new.ids) for old, new in zip(cache.rows, rows, strict=True)),
            next_positions=_next_positions(cache, block),
            is_token=is_token,
            past=past,
        )
        own = [states[len(states) - len(row) :] for states, row in zip(hidden, rows, strict=True)]
        for states in own:
            self._check_finite(states)
        return own, extended

    def _embeds(self, block: _Block, pictures: Sequence[ImageFeatures]) -> DeviceArray | np.ndarray:
        """The tokens' embeddings: on the device, or on the host with the pictures' features among them."""
        embeds: DeviceArray = self.components.embed_tokens(block.ids)
        if not pictures:
            return embeds
        host = self.components.backend.to_host(embeds)
        host[block.is_image] = np.concatenate([picture.embeds for picture in pictures])
        return host


def _padded(rows: Sequence[Tokens], positions: Sequence[NDArray[np.int64]]) -> _Block:
    shape = (len(rows), max(map(len, rows)))
    ids, is_token, is_image = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, bool)
    block = _Block(ids, is_token, is_image, np.zeros((3, *shape), np.int64))
    for number, (row, row_positions) in enumerate(zip(rows, positions, strict=True)):
        new = slice(shape[1] - len(row), None)
        block.ids[number, new] = row.ids
        block.is_token[number, new] = True
        block.is_image[number, new] = row.is_image
        block.positions[:, number, new] = row_positions
    return block


def _attention_mask(is_token: NDArray[np.bool_], new: int) -> NDArray[np.bool_]:
    """(B, 1, new, total), True where a new token attends: to the row's tokens up to itself.

    Padding attends to itself, because the softmax of an empty row is NaN.
    """
    total = is_token.shape[1]
    mask: NDArray[np.bool_] = is_token[:, None, None] & np.tri(new, total, total - new, dtype=bool)
    mask |= np.eye(new, total, total - new, dtype=bool)
    return mask


def _next_positions(cache: KVCache, block: _Block) -> tuple[int, ...]:
    after = np.where(block.is_token, block.positions, -1).max(axis=(0, 2)) + 1
    return tuple(np.maximum(after, cache.next_positions).tolist())
