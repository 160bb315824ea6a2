"""The image processor's parameters, as transformers' versions write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.exporter.image_processor import read_image_processor
from omnigen2_rt.reference.vision import VisionConfig
from omnigen2_rt.reference.weights import read_config
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A

STORED: dict[str, Any] = json.loads((A / "processor/preprocessor_config.json").read_text())
VISION = VisionConfig.from_json(read_config(A / "mllm"))
EXPECTED = read_image_processor(A / "processor", VISION)
NEW = {name: value for name, value in STORED.items() if name not in ("min_pixels", "max_pixels")}
FAST = {"crop_size": None, "data_format": "channels_first", "image_processor_type": "Qwen2VLImageProcessorFast"}

SAME = {
    "of transformers 5": ("processor_config.json", {"image_processor": NEW, "processor_class": "Qwen2_5_VLProcessor"}),
    "areas null beside size": ("preprocessor_config.json", {**STORED, "min_pixels": None, "max_pixels": None}),
    "areas in size alone": ("preprocessor_config.json", NEW),
    "of the fast processor": ("preprocessor_config.json", {**STORED, **FAST}),
    "filter as a word": ("preprocessor_config.json", {**STORED, "resample": "bicubic"}),
    "filter as PIL's name": ("preprocessor_config.json", {**STORED, "resample": "PILImageResampling.BICUBIC"}),
}


@pytest.mark.parametrize(("file", "content"), SAME.values(), ids=SAME)
def test_processor_of_any_version_gives_the_same_parameters(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    """Checkpoints saved by transformers 5 could not be exported."""
    (tmp_path / file).write_text(json.dumps(content))
    assert read_image_processor(tmp_path, VISION) == EXPECTED


def test_processor_inside_processor_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**STORED, "max_pixels": 9000}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": NEW}))
    assert read_image_processor(tmp_path, VISION).max_pixels == EXPECTED.max_pixels
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    assert read_image_processor(tmp_path, VISION).max_pixels == 9000


REFUSED = {
    "patch_size 0": ({"patch_size": 0}, "has patch_size=0; an integer from 1 to 1024"),
    "patch_size of another encoder": ({"patch_size": 16}, "has patch_size=16; the vision encoder of mllm/config.json has 14"),
    "areas of no size": ({"min_pixels": None, "size": {"longest_edge": 3}}, "lacks min_pixels, and size has no shortest_edge"),
    "size as a number": ({"min_pixels": None, "size": 3}, "size=3 must be an object"),
    "smallest above largest": ({"min_pixels": 10**9}, "min_pixels=1000000000 above max_pixels"),
    "two means": ({"image_mean": [0.5, 0.5]}, "three numbers from -10 to 10"),
    "deviation 0": ({"image_std": [0, 1, 1]}, "three numbers from 1e-06"),
    "boolean": ({"merge_size": True}, "has merge_size=True; an integer"),
    "unknown filter": ({"resample": "cubic"}, "has resample='cubic'; a number from 0 to 5 or one of nearest"),
    "no normalization": ({"do_normalize": False}, "has do_normalize=False; an exported model always takes this step"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_processor_that_can_not_be_exported_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**STORED, **changes}))
    with pytest.raises(ExportError, match=message):
        read_image_processor(tmp_path, VISION)
