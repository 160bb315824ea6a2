"""A request: the values that it accepts and normalises, and its errors for the rest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request
from omnigen2_rt.runtime.schedulers import SCHEDULERS
from omnigen2_rt.runtime.step_caches import CACHES, TaylorSeer, TeaCache
from tests.runtime.hostile_values import Disguised

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
        "align_size": None,
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
    ({"seed": 2**64}, f"seed={2**64} is above the largest allowed, {2**64 - 1}"),
    ({"seed": 10**5000}, f"seed=(an integer of 16610 bits) is above the largest allowed, {2**64 - 1}"),
    ({"seed": -(10**5000)}, "seed=(an integer of 16610 bits) is below the smallest seed, 0"),
    ({"seed": np.array(5)}, "seed=array(5) is not a whole number"),
    ({"steps": 2**63}, f"steps={2**63} is above the largest allowed, 100000"),
    ({"images_per_prompt": 10**5}, "images_per_prompt=100000 is above the largest allowed, 1000"),
    ({"width_px": 10**9}, "width_px=1000000000 is above the largest allowed, 65535"),
    (
        {"width_px": 2**15, "height_px": 2**14},
        "a picture of 32768×16384 px would hold 536870912 pixels; a drawing holds at most 268435456",
    ),
    (
        {"width_px": 1024, "height_px": 1024, "images_per_prompt": 257},
        "257 pictures of 1024×1024 px would hold 269484032 pixels; a drawing holds at most 268435456",
    ),
    ({"max_pixels": 10**5000}, "max_pixels=(an integer of 16610 bits) is above the largest allowed, 4294967296"),
    ({"max_prompt_tokens": 2**20}, "max_prompt_tokens=1048576 is above the largest allowed, 32768"),
    ({"max_input_side_px": 10**6}, "max_input_side_px=1000000 is above the largest allowed, 65535"),
    ({"text_guidance": 1e300}, "text_guidance=1e+300 is above the largest scale, 1000 (4 to 5 is usual)"),
    ({"image_guidance": 10**400}, "image_guidance=(an integer of 1329 bits) is not a finite number"),
    ({"prompt": "x" * 1_000_001}, "prompt has 1000001 characters; at most 1000000 are read"),
    ({"cfg_range": np.array(0.5)}, "cfg_range has shape (); it needs one axis"),
    ({"cfg_range": range(10**18)}, "cfg_range holds more than 2 numbers, the most that are allowed"),
    ({"timesteps": np.zeros(10**7)}, "timesteps holds more than 100000 numbers, the most that are allowed"),
    ({"timesteps": np.zeros((2, 2))}, "timesteps has shape (2, 2); it needs one axis"),
    ({"timesteps": [0.0, 1e300]}, "timesteps must increase from step to step and lie in [0, 1), 0 being noise (in float32)"),
    ({"latents": np.float32(1)}, "latents must be a floating-point numpy array, not float32"),
    ({"latents": np.array(1.0)}, "latents has shape (); it needs 4 axes, (B, C, h, w)"),
    ({"latents": NOISE.astype(object)}, "latents must be a floating-point numpy array, not object array"),
    (
        {"latents": np.broadcast_to(np.float16(0), (1, 10**4, 10**4, 10**4))},
        "latents has shape (1, 10000, 10000, 10000); at most 67108864 values are allowed",
    ),
    ({"images": range(10**18)}, "images holds more than 1000 images, the most of a request"),
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


class Endless(Sequence[float]):
    """Says that it holds two numbers, and never ends."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return 0.5


class Loud(Sequence[float]):
    """Raises from every method."""

    def __len__(self) -> int:
        raise OSError("len")

    def __getitem__(self, index: Any) -> Any:
        raise OSError("getitem")

    def __repr__(self) -> str:
        raise OSError("repr")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Request)])
@pytest.mark.parametrize("make", [Endless, Loud, Disguised])
def test_request_with_an_object_that_misbehaves_says_so(make: type, field: str) -> None:
    with pytest.raises(RequestError, match=f"^{field}"):
        Request(**{"prompt": "cat", field: make()})


def test_request_with_a_list_that_contains_itself_says_so() -> None:
    endless: list[Any] = []
    endless += [endless] * 10
    for field in ("images", "cfg_range", "timesteps", "steps", "scheduler", "cache", "latents"):
        with pytest.raises(RequestError, match=f"^{field}"):
            Request(**{"prompt": "cat", field: endless})


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, np.uint64(2**64 - 1)])
def test_request_takes_every_seed_that_pytorch_takes(seed: Any) -> None:
    kept = Request(prompt="cat", seed=seed).seed
    assert kept == int(seed) and type(kept) is int


def test_request_with_a_subclass_of_text_holds_plain_text() -> None:
    class Shouting(str):
        def __str__(self) -> str:
            return "LOUD"

    request = Request(prompt=Shouting("quiet"), scheduler=Shouting("euler"))
    assert (request.prompt, type(request.prompt), request.scheduler) == ("quiet", str, "euler")


@pytest.mark.parametrize(("policy", "field"), [(TeaCache(), "threshold"), (TaylorSeer(), "order")])
def test_request_with_a_cache_policy_whose_field_was_broken_says_so(policy: Any, field: str) -> None:
    """It failed with a TypeError in the middle of the drawing."""
    object.__setattr__(policy, field, "many")
    with pytest.raises(RequestError, match=f"{field}='many' is not a"):
        Request(prompt="cat", cache=policy)


def test_request_takes_latents_that_are_read_only_and_not_contiguous() -> None:
    latents = np.broadcast_to(np.arange(4, dtype=np.float16), (1, 2, 3, 4))[..., ::-1]
    kept = Request(prompt="cat", latents=latents).latents
    assert kept is not None and kept.flags.c_contiguous
    np.testing.assert_array_equal(kept, latents)


@pytest.mark.filterwarnings("error")
def test_request_with_latents_too_large_for_float32_says_so() -> None:
    with pytest.raises(RequestError, match="^latents holds NaN or infinite values$"):
        Request(prompt="cat", latents=np.full((1, 1, 1, 1), 1e300))
