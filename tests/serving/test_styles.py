"""LoRAs as models of a server: each is listed, and draws what its merged bundle draws."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.exporter.lora_bundle import Lora, merged_bundle
from omnigen2_rt.runtime.files.hashes import file_hash
from omnigen2_rt.runtime.images.png import read_parameters
from tests.exporter.merged_loras import nano_lora
from tests.serving.processes import ServerProcess, server_process
from tests.serving.running import picture_of

PROMPT = "a large red circle on a blue background"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs and the folder of their merged bundles."""
    folder = tmp_path_factory.mktemp("styles")
    for seed, name in enumerate(("warm", "cold")):
        nano_lora(folder / f"{name}.safetensors", seed)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    warm, cold = folder / "warm.safetensors", folder / "cold.safetensors"
    styles = ("--lora", f"warm={warm}", "--lora", f"mixed@other={warm}:0.5", "--lora", f"mixed@other={cold}:-1")
    bundles = ("--bundle", "nano=nano", "--bundle", "other=nano")
    with server_process(*bundles, *styles, "--lora-dir", folder / "store", "--precision", "fp32") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as client:
        yield client


def test_models_lists_bundles_and_styles(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano", "other", "warm", "mixed"]
    assert client.models.retrieve("mixed").id == "mixed"
    with pytest.raises(openai.NotFoundError, match="there are: nano, other, warm, mixed"):
        client.models.retrieve("cold")


def test_each_model_draws_its_own_picture_and_names_its_loras(client: openai.OpenAI, folder: Path, tmp_path: Path) -> None:
    warm, cold = folder / "warm.safetensors", folder / "cold.safetensors"
    loras = {"nano": [], "warm": [(warm, 1.0)], "mixed": [(warm, 0.5), (cold, -1.0)]}
    pictures = {}
    for name, chosen in loras.items():
        (answer,) = client.images.generate(model=name, prompt=PROMPT, extra_body={"seed": 7, "num_inference_steps": 3}).data or []
        merged = [Lora(path=path, scale=scale) for path, scale in chosen]
        with load(backend="ort-cpu") as nano:
            bundle = merged_bundle(nano.bundle, merged, folder=folder / "store").path if merged else nano.bundle.path
        with load(bundle, backend="ort-cpu", precision="fp32", threads=1) as pipeline:
            expected = pipeline.generate(Request(prompt=PROMPT, seed=7, steps=3)).images[0]
        pictures[name] = picture_of(answer.b64_json).tobytes()
        assert pictures[name] == expected.tobytes()
        assert answer.b64_json is not None
        (tmp_path / "a.png").write_bytes(base64.b64decode(answer.b64_json))
        parameters = read_parameters(tmp_path / "a.png")
        assert parameters["bundle"] == name
        assert [(lora["name"], lora["sha256"], lora["scale"]) for lora in parameters["loras"]] == [
            (path.name, file_hash(path), scale) for path, scale in chosen
        ]
    assert len({*pictures.values()}) == 3
    assert len(list((folder / "store").iterdir())) == 2


def test_models_that_draw_at_the_same_time_give_the_pictures_that_each_gives_alone(client: openai.OpenAI) -> None:
    """They run in threads of their own, and share components."""

    def draw(name: str) -> bytes:
        (answer,) = client.images.generate(model=name, prompt=PROMPT, extra_body={"seed": 3, "num_inference_steps": 6}).data or []
        return picture_of(answer.b64_json).tobytes()

    names = ["nano", "warm", "nano", "warm", "warm", "nano"]
    alone = {name: draw(name) for name in ("nano", "warm")}
    with ThreadPoolExecutor(len(names)) as threads:
        together = list(threads.map(draw, names))
    assert together == [alone[name] for name in names] and alone["nano"] != alone["warm"]


def test_a_style_chats(client: openai.OpenAI) -> None:
    question = [{"role": "user", "content": "a small blue star on a white background"}]
    answer = client.chat.completions.create(model="warm", messages=question, extra_body={"num_inference_steps": 2})  # type: ignore[arg-type]
    assert answer.model == "warm"
