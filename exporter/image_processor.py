"""The image processor's parameters, as any version of transformers wrote them.

Version 4 writes preprocessor_config.json, version 5 the entry "image_processor" of processor_config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..reference.config_values import is_number, object_at
from ..reference.vision import VisionConfig
from ..runtime.errors import ExportError
from ..runtime.manifest import ImageProcessorParameters
from .json_files import integer_in, number_in, read_json, read_optional_json

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""PIL's numbers of its filters."""
STEPS = ("do_resize", "do_rescale", "do_normalize")
"""The steps that the runtime always takes."""


def read_image_processor(folder: Path, vision: VisionConfig) -> ImageProcessorParameters:
    """Read the files of `processor/`. Raises ExportError, naming file and field."""
    file, stored = _stored(folder)
    if skipped := [step for step in STEPS if stored.get(step) not in (None, True)]:
        raise ExportError(f"{file} has {skipped[0]}={stored[skipped[0]]!r}; an exported model always takes this step")
    parameters = ImageProcessorParameters(
        patch_size=integer_in(file, stored, "patch_size", 1, 1024),
        temporal_patch_size=integer_in(file, stored, "temporal_patch_size", 1, 64),
        merge_size=integer_in(file, stored, "merge_size", 1, 64),
        min_pixels=_area(file, stored, "min_pixels", "shortest_edge"),
        max_pixels=_area(file, stored, "max_pixels", "longest_edge"),
        image_mean=_channels(file, stored, "image_mean", -10, 10),
        image_std=_channels(file, stored, "image_std", 1e-6, 1e6),
        rescale_factor=number_in(file, stored, "rescale_factor", 1e-6, 1e6),
        resample=_filter(file, stored),
    )
    if parameters.min_pixels > parameters.max_pixels:
        raise ExportError(f"{file} has min_pixels={parameters.min_pixels} above max_pixels={parameters.max_pixels}")
    _check_patches(file, parameters, vision)
    return parameters


def _stored(folder: Path) -> tuple[Path, dict[str, Any]]:
    newer, older = folder / "processor_config.json", folder / "preprocessor_config.json"
    processor = read_optional_json(newer)
    try:
        if entry := object_at(processor, "image_processor"):
            return newer, entry
    except ValueError as error:
        raise ExportError(f"{newer}: {error}") from error
    return older, read_json(older)


def _area(file: Path, stored: dict[str, Any], name: str, edge: str) -> int:
    """The area under its older name, or else under its newer one in `size`."""
    if stored.get(name) is not None:
        return integer_in(file, stored, name, 1, 2**31)
    try:
        size = object_at(stored, "size")
    except ValueError as error:
        raise ExportError(f"{file}: {error}") from error
    if size.get(edge) is None:
        raise ExportError(f"{file} lacks {name}, and size has no {edge} in its place")
    return integer_in(file, size, edge, 1, 2**31)


def _channels(file: Path, stored: dict[str, Any], name: str, low: float, high: float) -> tuple[float, float, float]:
    values = stored.get(name)
    if not isinstance(values, list) or len(values) != 3 or not all(is_number(v) and low <= v <= high for v in values):
        raise ExportError(f"{file} has {name}={values!r}; three numbers from {low:g} to {high:g} are allowed")
    return values[0], values[1], values[2]


def _filter(file: Path, stored: dict[str, Any]) -> int:
    value = stored.get("resample")
    number = FILTERS.get(value.lower().rpartition(".")[2]) if isinstance(value, str) else value
    if type(number) is not int or number not in FILTERS.values():
        raise ExportError(f"{file} has resample={value!r}; a number from 0 to 5 or one of {', '.join(FILTERS)} is allowed")
    return number


def _check_patches(file: Path, parameters: ImageProcessorParameters, vision: VisionConfig) -> None:
    """The processor cuts the patches that the vision encoder embeds."""
    pairs = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    for name, expected in pairs.items():
        value = getattr(parameters, name)
        if value != expected:
            raise ExportError(f"{file} has {name}={value}; the vision encoder of mllm/config.json has {expected}")
