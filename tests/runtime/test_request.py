"""What a request accepts, how it normalises it, and what it says about the rest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request
from omnigen2_rt.runtime.schedulers import SCHEDULERS
from omnigen2_rt.runtime.step_caches import CACHES

NOISE = np.zeros((1, 16, 8, 8), np.float32)


def test_request_with_a_prompt_alone_has_the_documented_defaults() -> None:
    defaults = {f.name: getattr(Request(prompt="cat"), f.name) for f in dataclasses.fields(Request)}
    assert defaults == {
        "prompt": "cat",
        "negative_prompt": "",
        "images": (),
        "height_px": None,
        "width_px": None,
        "steps": 50,
        "text_guidance": 4.0,
        "image_guidance": 1.0,
        "cfg_range": (0.0, 1.0),
        "scheduler": "euler",
        "timesteps": None,
        "images_per_prompt": 1,
        "seed": 0,
        "latents": None,
        "max_prompt_tokens": 1024,
        "max_pixels": 1024 * 1024,
        "max_input_side_px": 1024,
        "align_size": True,
        "cache": None,
    }


def test_request_docstring_explains_every_field() -> None:
    for field in dataclasses.fields(Request):
        assert re.search(rf"\b{field.name}\b.*:", Request.__doc__ or ""), field.name


def test_request_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request(prompt="cat").steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Request("cat")  # type: ignore[misc]


def test_request_replaced_is_checked_again() -> None:
    request = Request(prompt="cat", seed=7)
    assert dataclasses.replace(request, steps=8).seed == 7
    with pytest.raises(RequestError, match="steps=0"):
        dataclasses.replace(request, steps=0)


def test_request_normalises_numpy_numbers_and_lists() -> None:
    request = Request(
        prompt="",
        steps=np.int64(3),  # type: ignore[arg-type]
        text_guidance=np.float32(2.5),  # type: ignore[arg-type]
        image_guidance=2,
        cfg_range=[0, np.float64(0.5)],  # type: ignore[arg-type]
        timesteps=np.array([0, 0.5]),  # type: ignore[arg-type]
    )
    assert (request.steps, request.text_guidance, request.image_guidance) == (3, 2.5, 2.0)
    assert type(request.steps) is int
    assert type(request.text_guidance) is type(request.image_guidance) is float
    assert request.cfg_range == (0.0, 0.5)
    assert request.timesteps == (0.0, 0.5)


@pytest.mark.parametrize(
    "source",
    ["a.png", Path("a.png"), Image.new("L", (3, 2)), np.zeros((2, 3), np.uint8), np.zeros((2, 3, 4), np.uint8)],
    ids=["str", "path", "pil", "grey", "rgba"],
)
def test_request_with_one_image_or_a_list_holds_a_tuple(source: Any) -> None:
    assert Request(prompt="cat", images=source).images == (source,)
    two = Request(prompt="cat", images=[source, "b.png"]).images
    assert isinstance(two, tuple)
    assert two[0] is source


def test_request_keeps_a_float32_copy_of_latents() -> None:
    latents = np.ones((2, 16, 4, 6), np.float64)
    kept = Request(prompt="cat", latents=latents, images_per_prompt=2).latents
    latents[:] = 5
    assert kept is not None
    assert kept.dtype == np.float32
    assert kept.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        kept[:] = 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_request_takes_every_scheduler(name: str) -> None:
    assert Request(prompt="cat", scheduler=name).scheduler == name


@pytest.mark.parametrize("name", CACHES)
def test_request_takes_every_cache_policy(name: str) -> None:
    policy = CACHES[name]()
    assert Request(prompt="cat", cache=policy).cache is policy


BAD = [
    ({"prompt": None}, "prompt must be text (str), not NoneType"),
    ({"negative_prompt": 3}, "negative_prompt must be text (str), not int"),
    ({"prompt": "a\ud800"}, "prompt is not valid Unicode text at character 1"),
    ({"height_px": 8}, "height_px=8 is below the smallest size, 16"),
    ({"width_px": 15}, "width_px=15 is below the smallest size, 16"),
    ({"width_px": -64}, "width_px=-64 is below the smallest size, 16"),
    ({"width_px": 64.0}, "width_px=64.0 is not a whole number"),
    ({"height_px": "64"}, "height_px='64' is not a whole number"),
    ({"steps": 0}, "steps=0 is below the fewest steps, 1"),
    ({"steps": True}, "steps=True is not a whole number"),
    ({"text_guidance": float("nan")}, "text_guidance=nan is not a finite number"),
    ({"image_guidance": float("inf")}, "image_guidance=inf is not a finite number"),
    ({"text_guidance": "4"}, "text_guidance='4' is not a number"),
    ({"image_guidance": False}, "image_guidance=False is not a number"),
    ({"text_guidance": -1}, "text_guidance=-1 is below the smallest scale, 0 (1 turns guidance off)"),
    ({"cfg_range": (0.6, 0.2)}, "cfg_range=(0.6, 0.2) must satisfy 0 <= first <= last <= 1"),
    ({"cfg_range": (-0.1, 0.2)}, "cfg_range=(-0.1, 0.2) must satisfy 0 <= first <= last <= 1"),
    ({"cfg_range": (0, 1.5)}, "cfg_range=(0.0, 1.5) must satisfy 0 <= first <= last <= 1"),
    ({"cfg_range": (0.0, float("nan"))}, "cfg_range[1]=nan is not a finite number"),
    ({"cfg_range": (0.0,)}, "cfg_range=(0.0,) needs two numbers, (first, last)"),
    ({"cfg_range": 0.5}, "cfg_range=0.5 is not a sequence of numbers"),
    ({"cfg_range": "01"}, "cfg_range='01' is not a sequence of numbers"),
    ({"scheduler": "ddim"}, "scheduler='ddim' is unknown; choose one of 'euler', 'dpmsolver++'"),
    ({"scheduler": None}, "scheduler=None is unknown; choose one of 'euler', 'dpmsolver++'"),
    ({"timesteps": []}, "timesteps is empty; give at least one, or None for the scheduler's own"),
    ({"timesteps": [0.0, "x"]}, "timesteps[1]='x' is not a number"),
    *(
        (
            {"timesteps": times},
            "timesteps must increase from step to step and lie in [0, 1), 0 being noise (in float32)",
        )
        for times in ([0.0, 0.5, 0.5], [0.5, 0.2], [-0.1, 0.2], [0.0, 1.0], [0.0, 0.999999999], [0.5, 0.5000000001])
    ),
    ({"images_per_prompt": 0}, "images_per_prompt=0 is below the fewest images, 1"),
    ({"seed": -1}, "seed=-1 is below the smallest seed, 0"),
    ({"seed": 2**63}, f"seed={2**63} is too large; the largest is 2**63 - 1"),
    ({"seed": 1.0}, "seed=1.0 is not a whole number"),
    ({"latents": [[1.0]]}, "latents must be a floating-point numpy array, not list"),
    ({"latents": NOISE.astype(int)}, "latents must be a floating-point numpy array, not int64 array"),
    ({"latents": NOISE[0]}, "latents has shape (16, 8, 8); it needs 4 axes, (B, C, h, w)"),
    ({"latents": NOISE, "images_per_prompt": 2}, "latents has shape (1, 16, 8, 8), but images_per_prompt is 2"),
    ({"latents": NOISE * np.nan}, "latents holds NaN or infinite values"),
    ({"max_prompt_tokens": 0}, "max_prompt_tokens=0 is below the smallest limit, 1"),
    ({"max_pixels": 255}, "max_pixels=255 is below the smallest limit, 256"),
    ({"max_input_side_px": 15}, "max_input_side_px=15 is below the smallest limit, 16"),
    ({"align_size": 1}, "align_size=1 is not True or False"),
    ({"cache": "teacache"}, "cache='teacache' is not a cache policy; pass TeaCache() or TaylorSeer(), or None"),
    ({"images": 3}, "images must be a sequence of images, not int"),
    ({"images": None}, "images must be a sequence of images, not NoneType"),
    ({"images": ["a.png", 3]}, "images[1] is a int; pass a path, a PIL image or a uint8 array"),
    ({"images": [np.zeros((2, 2))]}, "images[0] is a float64 array; image arrays are uint8"),
    (
        {"images": [np.zeros((2, 2, 5), np.uint8)]},
        "images[0] has shape (2, 2, 5); image arrays are (H, W), (H, W, 3) or (H, W, 4)",
    ),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[m for _, m in BAD])
def test_request_with_a_bad_value_says_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{"prompt": "cat", **values})
    assert str(caught.value) == message


@pytest.mark.filterwarnings("error")
def test_request_with_latents_too_large_for_float32_says_so() -> None:
    with pytest.raises(RequestError, match="^latents holds NaN or infinite values$"):
        Request(prompt="cat", latents=np.full((1, 1, 1, 1), 1e300))
