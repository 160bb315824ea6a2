"""OpenAI's own client, in strict mode, draws and edits; what isn't supported is refused with the parameter's name."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from omnigen2_rt import Request, TaylorSeer
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.serving.running import Running, picture_of, png_bytes, url_of

PROMPT = "a large red circle on a blue background"
QUICK: dict[str, Any] = {"num_inference_steps": 4}
RED = Image.new("RGB", (128, 128), "red")


def test_models_lists_the_bundle_and_answers_its_name(server: Running) -> None:
    models = server.client().models
    assert [model.id for model in models.list()] == ["nano"]
    assert models.retrieve("nano").object == "model"
    with pytest.raises(openai.NotFoundError, match="there is no model 'dall-e'; there are: nano"):
        models.retrieve("dall-e")


def test_generate_gives_each_picture_of_its_own_seed_byte_for_byte(server: Running, nano: Pipeline) -> None:
    images = server.client().images
    together = images.generate(prompt=PROMPT, n=8, extra_body={**QUICK, "seed": 2**63 - 2}).data
    assert together is not None and [picture.model_extra["seed"] for picture in together] == [2**63 - 2, 2**63 - 1, *range(6)]
    for picture in together[:3]:
        seed = picture.model_extra["seed"]
        (alone,) = images.generate(prompt=PROMPT, extra_body={**QUICK, "seed": seed}).data or []
        expected = nano.generate(Request(prompt=PROMPT, steps=4, seed=seed)).images[0]
        assert picture_of(picture.b64_json).tobytes() == picture_of(alone.b64_json).tobytes() == expected.tobytes()


def test_generate_takes_the_models_own_parameters(server: Running, nano: Pipeline) -> None:
    own = {
        "num_inference_steps": 5,
        "guidance_scale": 2.5,
        "cfg_range": [0.0, 0.6],
        "scheduler": "dpmsolver++",
        "cache": "taylorseer",
        "negative_prompt": "a blue square",
        "seed": 3,
    }
    answer = server.client().images.generate(prompt=PROMPT, size="96x64", extra_body=own)
    expected = nano.generate(
        Request(
            prompt=PROMPT, negative_prompt="a blue square", width_px=96, height_px=64, steps=5, text_guidance=2.5,
            cfg_range=(0.0, 0.6), scheduler="dpmsolver++", cache=TaylorSeer(), seed=3,
        )
    ).images[0]  # fmt: skip
    assert answer.data and picture_of(answer.data[0].b64_json).tobytes() == expected.tobytes()
    assert (answer.size, answer.quality, answer.background) == ("96x64", "low", "opaque")
    usage = answer.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens == len(nano.prompt_encoder.token_ids(PROMPT)) and usage.input_tokens_details.image_tokens == 0


def test_picture_without_a_seed_says_which_it_was(server: Running, tmp_path: Any) -> None:
    (first,), (second,) = (server.client().images.generate(prompt=PROMPT, extra_body=QUICK).data or [] for _ in range(2))
    assert first.model_extra["seed"] != second.model_extra["seed"]
    (again,) = server.client().images.generate(prompt=PROMPT, extra_body={**QUICK, "seed": first.model_extra["seed"]}).data or []
    assert again.b64_json == first.b64_json
    path = tmp_path / "picture.png"
    path.write_bytes(base64.b64decode(first.b64_json or ""))
    parameters = read_parameters(path)
    assert (parameters["seed"], parameters["prompt"], parameters["bundle"]) == (first.model_extra["seed"], PROMPT, "nano")


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_generate_answers_in_the_asked_format(server: Running, output_format: Any) -> None:
    answer = server.client().images.generate(prompt=PROMPT, output_format=output_format, output_compression=60, extra_body=QUICK)
    assert answer.data and answer.output_format == output_format
    with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as opened:
        assert opened.format == output_format.upper()


@pytest.mark.parametrize("quality", ["low", "medium"])
def test_quality_chooses_the_steps(server: Running, quality: Any) -> None:
    steps = {"low": 20, "medium": 35}[quality]
    answer = server.client().images.generate(prompt=PROMPT, quality=quality, extra_body={"seed": 1})
    same = server.client().images.generate(prompt=PROMPT, extra_body={"seed": 1, "num_inference_steps": steps})
    assert answer.data and same.data and answer.quality == quality
    assert picture_of(answer.data[0].b64_json).tobytes() == picture_of(same.data[0].b64_json).tobytes()


def test_edit_with_one_picture_is_the_runtimes_edit(server: Running, nano: Pipeline) -> None:
    file = ("red.png", png_bytes(RED), "image/png")
    extra = {**QUICK, "seed": 5, "image_guidance_scale": 1.5, "cfg_range": [0, 0.5]}
    answer = server.client().images.edit(image=file, prompt="make it blue", extra_body=extra)
    request = Request(prompt="make it blue", images=RED, steps=4, seed=5, image_guidance=1.5, cfg_range=(0, 0.5))
    expected = nano.generate(request).images[0]
    assert answer.data and picture_of(answer.data[0].b64_json).tobytes() == expected.tobytes()
    assert answer.usage is not None and answer.usage.input_tokens_details.image_tokens == 16


def test_edit_takes_five_pictures_and_refuses_six(server: Running) -> None:
    colours = ("red", "blue", "green", "white", "black", "yellow")
    files = [(f"{colour}.png", png_bytes(Image.new("RGB", (64, 64), colour)), "image/png") for colour in colours]
    edit = server.client().images.edit
    assert edit(image=files[:5], prompt="all of them", extra_body=QUICK).data
    with pytest.raises(openai.BadRequestError) as refused:
        edit(image=files, prompt="all of them", extra_body=QUICK)
    assert refused.value.param == "image" and "at most 5" in refused.value.message


@pytest.mark.parametrize("edits", [False, True], ids=["generation", "edit"])
def test_stream_gives_two_partial_pictures_and_the_picture(server: Running, edits: bool) -> None:
    images = server.client().images
    extra = {"num_inference_steps": 12, "seed": 3}
    if edits:
        stream = images.edit(image=png_bytes(RED), prompt="make it blue", stream=True, partial_images=2, extra_body=extra)
    else:
        stream = images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=extra)
    events = list(stream)
    kind = "image_edit" if edits else "image_generation"
    assert [event.type for event in events] == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, None]
    partial, final = picture_of(events[1].b64_json), picture_of(events[2].b64_json)
    small = np.asarray(final.resize(partial.size, Image.Resampling.BOX), float) / 255
    assert np.abs(np.asarray(partial, float) / 255 - small).mean() < 0.15


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"response_format": "url"}, "unsupported_value", "response_format"),
        ({"background": "transparent"}, "unsupported_value", "background"),
        ({"n": 11}, "invalid_value", "n"),
        ({"size": "100000x64"}, "invalid_value", "size"),
        ({"size": "8192x64"}, "invalid_value", "size"),
        ({"size": "8x64"}, "invalid_value", "size"),
        ({"size": "12x64"}, "invalid_value", "size"),
        ({"n": 10, "size": "4096x4096"}, "invalid_value", "size"),
        ({"prompt": "a" * 32_001}, "invalid_value", "prompt"),
        ({"partial_images": 2}, "invalid_value", "partial_images"),
        ({"stream": True, "n": 2}, "unsupported_value", "n"),
        ({"extra_body": {"num_inference_steps": 201}}, "invalid_value", "num_inference_steps"),
        ({"extra_body": {"cfg_range": [0.6, 0.2]}}, "invalid_value", "cfg_range"),
        ({"extra_body": {"scheduler": "heun"}}, "unsupported_value", "scheduler"),
        ({"extra_body": {"seed": -1}}, "invalid_value", "seed"),
        ({"extra_body": {"lora": "x"}}, "unsupported_value", "lora"),
        ({"extra_body": {"images": ["/etc/passwd"]}}, "image_url_not_allowed", "images[0]"),
    ],
)
def test_generate_refuses_what_is_not_allowed(server: Running, parameters: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().images.generate(**{"prompt": PROMPT, **parameters})
    assert (refused.value.code, refused.value.param) == (code, param)
    assert refused.value.request_id and param.split("[")[0] in refused.value.message


def test_edit_refuses_a_mask(server: Running) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().images.edit(image=png_bytes(RED), mask=png_bytes(RED), prompt="x")
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "mask")


def test_model_that_is_not_served_is_refused(server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        server.client().images.generate(prompt=PROMPT, model="gpt-image-1")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_edit_in_json_takes_data_urls(server: Running) -> None:
    http = server.http()
    answer = http.post("/v1/images/edits", json={"prompt": "make it blue", "images": [url_of(RED)], "seed": 5, **QUICK})
    assert answer.status_code == 200, answer.text
    assert http.post("/v1/images/edits", json={"prompt": "x"}).json()["error"]["param"] == "image"


def test_size_beyond_the_models_own_is_drawn_in_its_own_area_and_resized(server: Running, nano: Pipeline) -> None:
    extra = {"num_inference_steps": 4, "seed": 1}
    answer = server.client().images.generate(prompt=PROMPT, size="1024x1024", extra_body=extra)
    expected = nano.generate(Request(prompt=PROMPT, width_px=1024, height_px=1024, steps=4, seed=1, max_pixels=128 * 128))
    assert answer.data and picture_of(answer.data[0].b64_json).tobytes() == expected.images[0].tobytes()


def test_json_edit_takes_pictures_in_either_form(server: Running, nano: Pipeline) -> None:
    address = url_of(nano.generate(Request(prompt=PROMPT, steps=4)).images[0])
    answers = [
        server.http().post("/v1/images/edits", json={"prompt": "x", "seed": 1, "num_inference_steps": 2, "images": [image]})
        for image in (address, {"image_url": address})
    ]
    assert answers[0].status_code == 200 and answers[0].json()["data"] == answers[1].json()["data"]


def test_pictures_of_one_request_have_the_bytes_of_single_ones(server: Running) -> None:
    def draw(**fields: Any) -> list[Any]:
        body = {"prompt": PROMPT, "num_inference_steps": 3, **fields}
        return [each["b64_json"] for each in server.http().post("/v1/images/generations", json=body).json()["data"]]

    assert draw(seed=5, n=2) == [*draw(seed=5), *draw(seed=6)]
