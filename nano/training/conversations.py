"""Training inputs of the language model: conversations as token ids and positions, pictures as patches, in batches.

Uses the runtime's template, positions and image processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from ...exporter.chat_template import PLACEHOLDER, read_prompt_templates
from ...exporter.json_files import read_json
from ...exporter.processor import IMAGE_TAG
from ...reference.mllm import MLLMConfig, mrope_tables
from ...reference.vision import VisionEncoder, Windows
from ...reference.weights import read_config
from ...runtime.manifest import ImageProcessorParameters
from ...runtime.mllm.image_processor import vision_patches
from ...runtime.mllm.mrope import chat_positions
from ...runtime.mllm.tokenizer import Tokenizer
from ...runtime.mllm.vision_tables import vision_tables
from ..render import render
from ..world import Scene

END = "<|im_end|>"


class Turn(NamedTuple):
    """A question with its pictures and its answer.

    ids: (T,) token ids.
    positions: (3, T).
    answer_start: the index of the answer's first token.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    answer_start: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of turns, padded on the right.

    ids: (B, T) int64.
    answer_mask: (B, T) bool, true for tokens of answers.
    attention_mask: (B, T) bool, false for padding.
    cos, sin: (B, T, Dh) float32.
    patches: (N, patches, values) float32, the pictures of all rows.
    """

    ids: Tensor
    answer_mask: Tensor
    attention_mask: Tensor
    cos: Tensor
    sin: Tensor
    patches: Tensor


class Processor:
    """The checkpoint's tokenizer, templates and image processor."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = Tokenizer(checkpoint / "processor" / "tokenizer.json")
        templates = read_prompt_templates(checkpoint)
        self.drawing_template, self.chat_template = templates.drawing, templates.first_turn
        self.image_token = self.tokenizer.token_id("<|image_pad|>")
        self.config = MLLMConfig.from_json(read_config(checkpoint / "mllm"))
        stored = read_json(checkpoint / "processor" / "preprocessor_config.json")
        names = ImageProcessorParameters.__dataclass_fields__
        self.image_processor = ImageProcessorParameters(**{name: stored[name] for name in names})
        _, self.grid = vision_patches(Image.new("RGB", (128, 128)), self.image_processor)
        self.tokens_per_side = self.grid[1] // self.image_processor.merge_size
        side = self.grid[1] * self.image_processor.patch_size
        self.empty_pixels: NDArray[np.uint8] = np.zeros((0, side, side, 3), np.uint8)

    def encode_request(self, prompt: str) -> Turn:
        """Encode a request with the drawing template."""
        ids = self.tokenizer.encode(self.drawing_template.replace(PLACEHOLDER, prompt))
        return Turn(np.array(ids), chat_positions(0, [False] * len(ids), []), len(ids))

    def encode_turn(self, question: str, images: int, answer: str = "") -> Turn:
        """Encode a question about a number of images with the chat template, its image tokens expanded, and the answer if any."""
        tags = "".join(IMAGE_TAG.replace("{number}", str(k + 1)) for k in range(images))
        prompt = self._expanded(self.tokenizer.encode(self.chat_template.replace(PLACEHOLDER, tags + question)))
        ids = [*prompt, *self.tokenizer.encode(answer + END)] if answer else prompt
        grids = [(self.tokens_per_side, self.tokens_per_side)] * images
        positions = chat_positions(0, [number == self.image_token for number in ids], grids)
        return Turn(np.array(ids), positions, len(prompt))

    def render_pixels(self, scene: Scene, blur_px: float = 0.0) -> NDArray[np.uint8]:
        """The scene's picture, blurred and resized as by the image processor: (side, side, 3) uint8."""
        side = self.grid[1] * self.image_processor.patch_size
        picture = render(scene).filter(ImageFilter.GaussianBlur(blur_px)) if blur_px else render(scene)
        return np.asarray(picture.resize((side, side), Image.Resampling(self.image_processor.resample)))

    def patches(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The batched equivalent of `vision_patches`: (N, side, side, 3) uint8 -> (N, patches, values) float32."""
        p, tokens = self.image_processor, self.tokens_per_side
        scaled = torch.from_numpy(pixels).float() * p.rescale_factor
        normalized = (scaled - torch.tensor(p.image_mean)) / torch.tensor(p.image_std)
        tiles = normalized.reshape(
            len(pixels), tokens, p.merge_size, p.patch_size, tokens, p.merge_size, p.patch_size, 3
        )
        tiles = (
            tiles.permute(0, 1, 4, 2, 5, 7, 3, 6)
            .unsqueeze(6)
            .expand(-1, -1, -1, -1, -1, -1, p.temporal_patch_size, -1, -1)
        )
        return tiles.flatten(5).flatten(1, 4)

    def collate(self, turns: list[Turn], pixels: NDArray[np.uint8]) -> Batch:
        """A padded batch. pixels: (N, side, side, 3) uint8, the pictures of all turns."""
        max_tokens = max(len(turn.ids) for turn in turns)
        ids, positions = np.zeros((len(turns), max_tokens), np.int64), np.zeros((3, len(turns), max_tokens), np.int64)
        answer_mask, attention_mask = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
        for row, turn in enumerate(turns):
            length = len(turn.ids)
            ids[row, :length], positions[:, row, :length] = turn.ids, turn.positions
            attention_mask[row, :length], answer_mask[row, turn.answer_start : length] = True, True
        cos, sin = mrope_tables(
            torch.from_numpy(positions), self.config.head_width, self.config.rope_theta, self.config.mrope_section
        )
        return Batch(
            ids=torch.from_numpy(ids),
            answer_mask=torch.from_numpy(answer_mask),
            attention_mask=torch.from_numpy(attention_mask),
            cos=cos,
            sin=sin,
            patches=self.patches(pixels),
        )

    def _expanded(self, ids: list[int]) -> list[int]:
        copies = self.tokens_per_side**2
        return [copy for number in ids for copy in [number] * (copies if number == self.image_token else 1)]


def encode_images(visual: VisionEncoder, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Image features of many pictures of one size: (N, patches, values) -> (N, tokens, Dt). Each attends only to itself."""
    config, (count, size, _) = visual.config, patches.shape
    tables = vision_tables(
        grid,
        merge=config.spatial_merge_size,
        window_px=config.window_size,
        patch_px=config.patch_size,
        head_width=config.head_width,
    )
    offsets = torch.arange(count) * size
    windows, slots = tables.window_members.shape
    windowed = Windows(
        (torch.from_numpy(tables.window_members) + offsets[:, None, None]).flatten(0, 1),
        torch.from_numpy(tables.window_present).repeat(count, 1),
        (torch.from_numpy(tables.window_slots) + torch.arange(count)[:, None] * windows * slots).flatten(),
    )
    indices = torch.arange(count * size)
    full = Windows(indices.reshape(count, size), torch.ones(count, size, dtype=torch.bool), indices)
    cos, sin = (torch.from_numpy(table).repeat(count, 1) for table in (tables.cos, tables.sin))
    hidden = visual.patch_embed(patches.flatten(0, 1))
    for number, block in enumerate(visual.blocks):
        hidden = block(hidden, cos, sin, full if number in config.fullatt_block_indexes else windowed)
    features: Tensor = visual.merger(hidden)
    return features.reshape(count, -1, features.shape[-1])
