"""What the language model reads in training: conversations as token ids and positions, pictures as patches, in batches.

Pictures are rendered once for a sitting. Uses the runtime's own template, positions and image processor.
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
from ...runtime.mllm.tokenizer import Tokenizer
from ...runtime.mllm.vision_tables import vision_tables
from ...runtime.rope import chat_positions
from ..render import render
from ..world import Scene

END = "<|im_end|>"


class Turn(NamedTuple):
    """A question with its pictures and its answer, as ids. `answer_from`: where the answer begins."""

    ids: NDArray[np.int64]  # (T,)
    positions: NDArray[np.int64]  # (3, T)
    answer_from: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Turns side by side, padded on the right. Images of all rows one after another."""

    ids: Tensor  # (B, T) int64
    answered: Tensor  # (B, T) bool: tokens of answers
    written: Tensor  # (B, T) bool: tokens at all
    cos: Tensor  # (B, T, Dh) float32
    sin: Tensor
    patches: Tensor  # (N, patches, values) float32


class Reader:
    """The checkpoint's tokenizer, templates and image processor."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = Tokenizer(checkpoint / "processor" / "tokenizer.json")
        templates = read_prompt_templates(checkpoint)
        self.drawing, self.chat = templates.drawing, templates.first_turn
        self.image_token = self.tokenizer.token_id("<|image_pad|>")
        self.model = MLLMConfig.from_json(read_config(checkpoint / "mllm"))
        stored = read_json(checkpoint / "processor" / "preprocessor_config.json")
        names = ImageProcessorParameters.__dataclass_fields__
        self.processor = ImageProcessorParameters(**{name: stored[name] for name in names})
        _, self.grid = vision_patches(Image.new("RGB", (128, 128)), self.processor)
        self.tokens_a_side = self.grid[1] // self.processor.merge_size
        side = self.grid[1] * self.processor.patch_size
        self.no_pixels: NDArray[np.uint8] = np.zeros((0, side, side, 3), np.uint8)

    def request(self, prompt: str) -> Turn:
        """A request in the drawing template."""
        ids = self.tokenizer.encode(self.drawing.replace(PLACEHOLDER, prompt))
        return Turn(np.array(ids), chat_positions(0, [False] * len(ids), []), len(ids))

    def turn(self, question: str, pictures: int, answer: str = "") -> Turn:
        """A question in the chat template, its image tokens repeated, and the answer if there is one."""
        tags = "".join(IMAGE_TAG.replace("{number}", str(k + 1)) for k in range(pictures))
        asked = self._expanded(self.tokenizer.encode(self.chat.replace(PLACEHOLDER, tags + question)))
        ids = [*asked, *self.tokenizer.encode(answer + END)] if answer else asked
        grids = [(self.tokens_a_side, self.tokens_a_side)] * pictures
        positions = chat_positions(0, [number == self.image_token for number in ids], grids)
        return Turn(np.array(ids), positions, len(asked))

    def pixels(self, scene: Scene, blur_px: float = 0.0) -> NDArray[np.uint8]:
        """The scene's picture, blurred, at the size that the image processor brings it to."""
        side = self.grid[1] * self.processor.patch_size
        picture = render(scene).filter(ImageFilter.GaussianBlur(blur_px)) if blur_px else render(scene)
        return np.asarray(picture.resize((side, side), Image.Resampling(self.processor.resample)))

    def patches(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(N, side, side, 3) uint8 -> (N, patches, values) float32, as `vision_patches` gives them for one picture."""
        p, tokens = self.processor, self.tokens_a_side
        scaled = torch.from_numpy(pixels).float() * p.rescale_factor
        normal = (scaled - torch.tensor(p.image_mean)) / torch.tensor(p.image_std)
        tiles = normal.reshape(len(pixels), tokens, p.merge_size, p.patch_size, tokens, p.merge_size, p.patch_size, 3)
        tiles = (
            tiles.permute(0, 1, 4, 2, 5, 7, 3, 6)
            .unsqueeze(6)
            .expand(-1, -1, -1, -1, -1, -1, p.temporal_patch_size, -1, -1)
        )
        return tiles.flatten(5).flatten(1, 4)

    def batch(self, turns: list[Turn], pixels: NDArray[np.uint8]) -> Batch:
        """pixels: (N, side, side, 3) uint8 of all turns' pictures, in order."""
        longest = max(len(turn.ids) for turn in turns)
        ids, positions = np.zeros((len(turns), longest), np.int64), np.zeros((3, len(turns), longest), np.int64)
        answered, written = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
        for row, turn in enumerate(turns):
            length = len(turn.ids)
            ids[row, :length], positions[:, row, :length] = turn.ids, turn.positions
            written[row, :length], answered[row, turn.answer_from : length] = True, True
        cos, sin = mrope_tables(
            torch.from_numpy(positions), self.model.head_width, self.model.rope_theta, self.model.mrope_section
        )
        return Batch(
            ids=torch.from_numpy(ids),
            answered=torch.from_numpy(answered),
            written=torch.from_numpy(written),
            cos=cos,
            sin=sin,
            patches=self.patches(pixels),
        )

    def _expanded(self, ids: list[int]) -> list[int]:
        copies = self.tokens_a_side**2
        return [copy for number in ids for copy in [number] * (copies if number == self.image_token else 1)]


def look(visual: VisionEncoder, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Many pictures of one size at once: (N, patches, values) -> (N, tokens, Dt). Each sees only itself."""
    config, (count, size, _) = visual.config, patches.shape
    tables = vision_tables(
        grid,
        merge=config.spatial_merge_size,
        window_px=config.window_size,
        patch_px=config.patch_size,
        head_width=config.head_width,
    )
    first = torch.arange(count) * size
    windows, most = tables.window_members.shape
    narrow = Windows(
        (torch.from_numpy(tables.window_members) + first[:, None, None]).flatten(0, 1),
        torch.from_numpy(tables.window_present).repeat(count, 1),
        (torch.from_numpy(tables.window_slots) + torch.arange(count)[:, None] * windows * most).flatten(),
    )
    everything = torch.arange(count * size)
    wide = Windows(everything.reshape(count, size), torch.ones(count, size, dtype=torch.bool), everything)
    cos, sin = (torch.from_numpy(table).repeat(count, 1) for table in (tables.cos, tables.sin))
    hidden = visual.patch_embed(patches.flatten(0, 1))
    for number, block in enumerate(visual.blocks):
        hidden = block(hidden, cos, sin, wide if number in config.fullatt_block_indexes else narrow)
    embeddings: Tensor = visual.merger(hidden)
    return embeddings.reshape(count, -1, embeddings.shape[-1])
