"""Looking and answering against the original's recordings, through the exported graphs and the torch-free runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import ChatResult, load
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.chat.exchange import draw_from_states
from omnigen2_rt.runtime.chat.sampling import Sampler, Sampling
from omnigen2_rt.runtime.chat.token_generation import GenerationState, generate_tokens
from omnigen2_rt.runtime.images.loading import load_image
from omnigen2_rt.runtime.mllm.language_model import KVCache, States, Tokens
from omnigen2_rt.runtime.mllm.mrope import chat_positions
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.runtime.request import Request
from tests.runtime.goldens import CONFIGS, CPU_BACKENDS, GOLDENS, arguments, arrays, recordings

LATENTS = 1e-3
HIDDEN = 3e-4
CALLS = recordings("chat_call_")
DRAWN = [case for case in CALLS if "step_index" in arrays(*case)]
WORDS = [case for case in CALLS if case not in DRAWN]


@pytest.fixture(scope="module", params=CPU_BACKENDS)
def recorded_talkers(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> dict[str, Pipeline]:
    """Each backend in turn, for what was recorded; how a conversation goes is the same on all of them."""
    return {name: load(bundle, backend=request.param, precision="fp32", threads=1) for name, bundle in bundles.items()}


def pictures(config: str, files: Any) -> list[Path]:
    return [GOLDENS / config / "golden" / file for file in files or ()]


def read(pipeline: Pipeline, config: str, text: str, files: Any) -> tuple[Tokens, States, KVCache]:
    model = pipeline.language_model
    features = [model.encode_image(load_image(path)) for path in pictures(config, files)]
    tokens = model.expand(pipeline.prompt_encoder.tokenizer.encode(text), features)
    return tokens, *model.read(tokens, features)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["chat1", "chat2"])
def test_vision_features_equal_the_original(recorded_talkers: dict[str, Pipeline], config: str, case: str) -> None:
    files = arguments(config, "mllm")[case]["images"]
    seen = [recorded_talkers[config].language_model.encode_image(load_image(path)) for path in pictures(config, files)]
    features = np.concatenate([picture.embeds for picture in seen])
    np.testing.assert_allclose(features, arrays(config, "mllm")[f"{case}_visual"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["chat0", "chat1", "chat2"])
def test_hidden_states_of_a_turn_equal_the_original(
    recorded_talkers: dict[str, Pipeline], config: str, case: str
) -> None:
    args, recorded = arguments(config, "mllm")[case], arrays(config, "mllm")
    pipeline = recorded_talkers[config]
    tokens, hidden, _ = read(pipeline, config, args["text"], args["images"])
    assert list(tokens.ids) == recorded[f"{case}_ids"][0].tolist()
    np.testing.assert_allclose(hidden, recorded[f"{case}_hidden_full"][0], rtol=0, atol=HIDDEN)
    logits = pipeline.language_model.logits(hidden[-1])
    np.testing.assert_allclose(logits, recorded[f"{case}_logits_last"][0], rtol=0, atol=HIDDEN)
    if args["images"]:
        states = pipeline.encode_prompt(args["prompt"], pictures(config, args["images"]))
        np.testing.assert_allclose(states, recorded[f"{case}_hidden_text"][0], rtol=0, atol=HIDDEN)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["chat0", "chat1", "chat2"])
def test_positions_equal_the_original(config: str, case: str) -> None:
    recorded = arrays(config, "mllm")
    is_image = recorded[f"{case}_ids"][0] == {"A": 612, "B": 572}[config]
    grids = [(rows // 2, columns // 2) for _, rows, columns in recorded.get(f"{case}_grid", ())]
    assert np.array_equal(chat_positions(0, is_image.tolist(), grids), recorded[f"{case}_pos"][:, 0])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["gen0", "gen1", "gen2"])
@pytest.mark.parametrize(("name", "penalty"), [("rp1", 1.0), ("rp105", 1.05)])
def test_greedy_tokens_equal_the_original(
    recorded_talkers: dict[str, Pipeline], config: str, case: str, name: str, penalty: float
) -> None:
    args, recorded = arguments(config, "mllm")[case], arrays(config, "mllm")
    pipeline = recorded_talkers[config]
    _, hidden, cache = read(pipeline, config, args["text"], args["images"])
    logits = pipeline.language_model.logits(hidden[-1])
    np.testing.assert_allclose(logits, recorded[f"{case}_{name}_logits0"][0], rtol=0, atol=HIDDEN)
    ended = {"A": (602, 600), "B": (562, 560)}[config]  # the recording masked the end tokens
    sampler = Sampler(Sampling(repetition_penalty=penalty), ended)
    generated = generate_tokens(pipeline.language_model, GenerationState(cache), hidden[-1:], [sampler], (), 16)
    assert [token for _, token in generated] == recorded[f"{case}_{name}_tokens"][0].tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_prompts_read_together_equal_the_original(recorded_talkers: dict[str, Pipeline], config: str) -> None:
    """The original pads on the right, we on the left."""
    recorded = arrays(config, "mllm")
    mask = recorded["t2i_batch_mask"].astype(bool)
    rows = [recorded[f"t2i{number}_ids"][0].tolist() for number in (0, 1)]
    model = recorded_talkers[config].language_model
    states, _ = model.extend(KVCache.empty(len(rows)), [Tokens.text(row) for row in rows])
    for given, wanted, kept in zip(states, recorded["t2i_batch_hidden"], mask, strict=True):
        np.testing.assert_allclose(given, wanted[kept], rtol=0, atol=HIDDEN)


def drawing(config: str, name: str) -> Request:
    """The recorded call's drawing."""
    args, latents = arguments(config, name), arrays(config, name)["latents"]
    kwargs = args["call_kwargs"]
    return Request(
        prompt="",
        negative_prompt=kwargs.get("negative_prompt", ""),
        images=pictures(config, args["images"]),
        width_px=kwargs.get("width", 1024),
        height_px=kwargs.get("height", 1024),
        steps=kwargs["num_inference_steps"],
        text_guidance=kwargs["text_guidance_scale"],
        image_guidance=kwargs["image_guidance_scale"],
        latents=latents,
        align_size=True,  # the original's default (align_res)
    )


def call(pipeline: Pipeline, config: str, name: str) -> ChatResult:
    args, request = arguments(config, name), drawing(config, name)
    return pipeline.chat(args["call_kwargs"]["prompt"], request.images, request=request)


@pytest.mark.parametrize(("config", "name"), WORDS)
def test_answer_in_words_equals_the_original(recorded_talkers: dict[str, Pipeline], config: str, name: str) -> None:
    answer = call(recorded_talkers[config], config, name)
    recorded = arguments(config, name)["text"]
    assert list(answer.token_ids) == arrays(config, name)["generated_ids"][0].tolist()
    text = recorded_talkers[config].prompt_encoder.tokenizer.decode(answer.token_ids, skip_special=False)
    assert text.replace("<|im_end|>", "") == recorded
    assert (answer.images, answer.result) == ([], None)


@pytest.mark.parametrize(("config", "name"), DRAWN)
def test_answer_with_a_picture_equals_the_original(
    recorded_talkers: dict[str, Pipeline], config: str, name: str
) -> None:
    answer, recorded = call(recorded_talkers[config], config, name), arrays(config, name)
    assert list(answer.token_ids) == recorded["generated_ids"][0].tolist()
    assert answer.text == "" and answer.result is not None
    for step, expected in zip(recorded["step_index"], recorded["latents_steps"], strict=True):
        np.testing.assert_allclose(answer.result.steps[step].latents, expected, atol=LATENTS, rtol=0)
    shape = tuple(arguments(config, name)["output_shape"])
    assert (len(answer.images), *np.asarray(answer.images[0]).shape) == shape


@pytest.mark.parametrize(("config", "name"), recordings("chat_genimg"))
def test_drawing_from_hidden_states_equals_the_original(
    recorded_talkers: dict[str, Pipeline], config: str, name: str
) -> None:
    args, recorded = arguments(config, name), arrays(config, name)
    pipeline, request = recorded_talkers[config], drawing(config, name)
    tokens, hidden, _ = read(pipeline, config, args["call_kwargs"]["prompt"], args["images"])
    result = draw_from_states(pipeline.prompt_encoder, request, tokens.text_states(hidden))
    for step, expected in zip(recorded["step_index"], recorded["latents_steps"], strict=True):
        np.testing.assert_allclose(result.steps[step].latents, expected, atol=LATENTS, rtol=0)


def test_half_precision_reads_a_turn_with_pictures_as_the_original(bundles: dict[str, Path]) -> None:
    args, recorded = arguments("A", "mllm")["chat2"], arrays("A", "mllm")
    with load(bundles["A"], backend="ort-cpu", precision="fp16", threads=1) as pipeline:
        _, hidden, _ = read(pipeline, "A", args["text"], args["images"])
    wanted = recorded["chat2_hidden_full"][0]
    assert np.linalg.norm(hidden - wanted) / np.linalg.norm(wanted) < 1e-2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_embeddings_reach_the_host_in_float32(bundles: dict[str, Path], precision: str) -> None:
    """bfloat16 arrays of a GPU had to be read as numpy arrays where a picture was shown."""
    bundle = Bundle.open(bundles["A"])
    assert bundle.graph("vision_encoder", precision).outputs["image_embeds"].dtype == "float32"
    assert bundle.graph("token_embedding", precision).outputs["inputs_embeds"].dtype == "float32"
    assert bundle.graph("language_model", precision).inputs["inputs_embeds"].dtype == "float32"
