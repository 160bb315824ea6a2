"""The manifest's fields: their types, ranges and what must fit together. Each wrong value gives its place and what is allowed."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from omnigen2_rt.runtime.errors import BundleError
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from omnigen2_rt.runtime.pipeline import NANO
from tests.repository.pages import ROOT

TEXT = (NANO / MANIFEST).read_text(encoding="utf-8")


def parse_with(place: str, value: Any) -> Manifest:
    """nano's manifest with another value at a place such as "graphs.0.file"."""
    data = json.loads(TEXT)
    *path, last = place.split(".")
    target = data
    for key in path:
        target = target[int(key)] if isinstance(target, list) else target[key]
    target[int(last) if isinstance(target, list) else last] = value
    return Manifest.from_json(json.dumps(data), MANIFEST)


WRONG = [
    ("mllm.layers", 2**31, "bundle.json.mllm.layers is 2147483648; allowed is 1 to 1000: export the bundle again"),
    ("mllm.layers", 0, "mllm.layers is 0; allowed is 1 to 1000"),
    ("mllm.layers", True, "mllm.layers is True, not int"),
    ("mllm.layers", 4.0, "mllm.layers is 4.0, not int"),
    ("mllm.kv_heads", -1, "mllm.kv_heads is -1; allowed is 1 to 4096"),
    ("mllm.head_width", 64, "mllm.mrope_section sums to 16; allowed is half of head_width, 32"),
    ("mllm.mrope_section", [4, 6, 5], "mllm.mrope_section sums to 15; allowed is half of head_width, 16"),
    ("mllm.mrope_section", [8, 8], "mllm.mrope_section has 2 entries; allowed is 3"),
    ("mllm.rope_theta", 0, "mllm.rope_theta is 0.0; allowed is 1 to 1000000000000.0"),
    ("transformer.patch_size", 0, "transformer.patch_size is 0; allowed is 1 to 64"),
    ("transformer.hidden_size", 10**9, "transformer.hidden_size is 1000000000; allowed is 1 to 65536"),
    ("transformer.rope_axes", [8, 12, 13], "transformer.rope_axes is (8, 12, 13); allowed are even widths"),
    ("transformer.rope_axes", [8, 12], "transformer.rope_axes has 2 entries; allowed is 3"),
    ("transformer.rope_axes", [0, 12, 12], "transformer.rope_axes[0] is 0; allowed is 2 to 1024"),
    ("transformer.teacache_coefficients", [], "transformer.teacache_coefficients has 0 entries; allowed is 1 to 32"),
    ("transformer.teacache_coefficients", ["1"], "transformer.teacache_coefficients[0] is '1', not float"),
    ("vae.downscale", 0, "vae.downscale is 0; allowed is 1 to 256"),
    ("vae.scaling_factor", 0, "vae.scaling_factor is 0.0; allowed is 1e-06 to 1000000.0"),
    ("vae.sample_px", 10**6, "vae.sample_px is 1000000; allowed is 1 to 4096"),
    ("vision.processor.patch_size", 0, "vision.processor.patch_size is 0; allowed is 1 to 256"),
    ("vision.processor.min_pixels", 10**9, "vision.processor.min_pixels is 1000000000; allowed is 1 to 4194304"),
    ("vision.processor.min_pixels", 78401, "vision.processor.min_pixels is 78401; allowed is 1 to max_pixels, 78400"),
    ("vision.processor.resample", 6, "vision.processor.resample is 6; allowed is 0 to 5"),
    ("vision.processor.image_std", [0, 1, 1], "vision.processor.image_std[0] is 0.0; allowed is 1e-06 to 1000000.0"),
    ("vision.processor.image_mean", [0, 0], "vision.processor.image_mean has 2 entries; allowed is 3"),
    ("vision.head_width", 22, "vision.head_width is 22; allowed are multiples of 4"),
    ("vision.window_px", 20, "vision.window_px is 20; allowed is a token's side, 28, or more"),
    ("chat.temperature", 1e-308, "chat.temperature is 1e-308; allowed is 0, or 0.0001 to 100"),
    ("chat.temperature", -1, "chat.temperature is -1.0; allowed is 0 to 100"),
    ("chat.top_p", 0, "chat.top_p is 0.0; allowed is 1e-06 to 1"),
    ("chat.repetition_penalty", 0, "chat.repetition_penalty is 0.0; allowed is 0.01 to 100"),
    ("chat.image_token_id", -1, "chat.image_token_id is -1; allowed is 0 to 2147483647"),
    ("chat.draw_token_id", 640, "chat.draw_token_id is 640; allowed is 0 to 639, as lm_head gives 640 logits"),
    ("chat.draw_token_id", "<|img|>", "chat.draw_token_id is '<|img|>', not int"),
    ("chat.first_turn", "hello", "chat.first_turn holds {prompt} 0 times; allowed is once"),
    ("chat.image_tag", "{number}{number}", "chat.image_tag holds {number} 2 times; allowed is once"),
    ("prompts.drawing", "{prompt}" + "x" * 100_000, "prompts.drawing has 100008 characters; allowed is 1 to 100000"),
    ("graphs.0.precision", "fp8", "graphs[0].precision is 'fp8'; allowed is fp32, fp16, bf16"),
    ("graphs.0.component", "", "graphs[0].component is ''; allowed is a name of up to 64 letters, digits and _"),
    ("graphs.0.sha256", "0", "graphs[0].sha256 is '0'; allowed is 64 hexadecimal digits"),
    ("graphs.0.weight_bytes", -1, "graphs[0].weight_bytes is -1; allowed is 0 to 1125899906842624"),
    ("graphs.0.rounded_bytes", 10**9, "graphs[0].rounded_bytes is 1000000000; allowed is 0 to resident_bytes, 327680"),
    ("graphs.0.inputs.input_ids.dtype", "float7", "inputs.input_ids.dtype is 'float7'; allowed is float32, float16"),
    ("graphs.0.inputs.input_ids.shape", [-1], "inputs.input_ids.shape[0] is -1; allowed is 0 to 1099511627776"),
    ("graphs.0.inputs.input_ids.shape", [None], "inputs.input_ids.shape[0] is None, not int or str"),
    ("graphs.0.inputs", {"": {}}, "graphs[0].inputs has a key that has 0 characters; allowed is 1 to 200"),
    ("files.0.size_bytes", "1", "files[0].size_bytes is '1', not int"),
    ("tools", {"torch": 2}, "tools.torch is 2, not str"),
    ("vision", 5, "vision is 5, not an object"),
    ("source", None, "source is None, not str"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=[f"{place}={value!r:.20}" for place, value, _ in WRONG])
def test_value_that_is_not_allowed_names_its_place_and_what_is(place: str, value: Any, message: str) -> None:
    """Layers of 2³¹ took all memory, a patch of 0 divided by zero, 10⁹ pixels hung: each far from the manifest."""
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        parse_with(place, value)
    assert len(str(caught.value)) <= 300


def test_long_value_and_place_give_one_short_line() -> None:
    with pytest.raises(BundleError) as caught:
        parse_with("tools", {"\x1b[2J" * 1000: ["x" * 10_000] * 1000})
    assert len(str(caught.value)) <= 300 and str(caught.value).isprintable()


def optional_fields(kind: Any) -> set[str]:
    """The fields with a default of a dataclass and of those inside it."""
    names = {item.name for item in fields(kind) if item.default is not MISSING or item.default_factory is not MISSING}
    for hint in get_type_hints(kind).values():
        for part in (hint, *get_args(hint)):
            if is_dataclass(part):
                names |= optional_fields(part)
    return names


def test_fields_that_may_be_missing_are_named_in_the_page() -> None:
    """The page said that a missing field is an error; bundles of before lack some, and open."""
    page = (Path(ROOT) / "docs" / "bundle.md").read_text(encoding="utf-8")
    sentence = page[page.index("except for these") : page.index("`sample_px` (1024).") + 20]
    assert optional_fields(Manifest) <= set(re.findall(r"`(\w+)`", sentence))


def test_manifest_without_its_optional_fields_opens() -> None:
    data = json.loads(TEXT)
    optional = optional_fields(Manifest)

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(item) for key, item in value.items() if key not in optional}
        return [stripped(item) for item in value] if isinstance(value, list) else value

    manifest = Manifest.from_json(json.dumps(stripped(data)), MANIFEST)
    assert (manifest.chat, manifest.vision, manifest.vae.sample_px) == (None, None, 1024)
