"""What each command does when all is well."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Request, cli, load
from omnigen2_rt.runtime.backends import BACKENDS
from omnigen2_rt.runtime.png import read_parameters
from tests.cli.command import Command
from tests.exporting import GOLDENS

CHECKPOINT = GOLDENS / "A" / "checkpoint"
OPTION_NAMES = {
    "images": "image",
    "height_px": "height",
    "width_px": "width",
    "images_per_prompt": "count",
    "max_input_side_px": "max_input_side",
}


def test_generate_has_an_option_for_every_request_field_with_its_default() -> None:
    options = inspect.signature(cli.generate).parameters
    for field in dataclasses.fields(Request):
        option = options[OPTION_NAMES.get(field.name, field.name)]
        if field.default is not dataclasses.MISSING and field.default not in ((), None):
            assert option.default == field.default, field.name


def test_generate_draws_what_the_api_draws(
    command: Command, draw: tuple[object, ...], bundles: dict[str, Path], tmp_path: Path
) -> None:
    finished = command(*draw, "--seed", 7, "--out", tmp_path / "a.png")
    assert (finished.code, finished.out) == (0, f"{tmp_path / 'a.png'}\n")
    assert "2/2 drawing, 0 s left" in finished.err
    request = Request(prompt="a red square", height_px=32, width_px=32, steps=2, seed=7)
    with load(bundles["A"], precision="fp32") as pipeline, Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(pipeline.generate(request).images[0]))


def test_generate_leaves_its_parameters_in_the_picture(
    command: Command, draw: tuple[object, ...], tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    command(*draw, "--cache", "teacache", "--tea-threshold", 0.1, "--cfg-range", 0, 0.6, "--out", picture)
    told = read_parameters(picture)
    assert (told["prompt"], told["steps"], told["cfg_range"]) == ("a red square", 2, [0.0, 0.6])
    assert (told["backend"], told["precision"], told["cache"]) == ("ort-cpu", "fp32", "TeaCache(threshold=0.1)")
    assert json.loads(command("info", picture, "--json").out) == told
    assert "prompt: a red square\n" in command("info", picture).out


def test_generate_several_pictures_get_numbered_names(
    command: Command, draw: tuple[object, ...], tmp_path: Path
) -> None:
    finished = command(*draw, "--count", 2, "--out", tmp_path / "a.png")
    assert finished.out.splitlines() == [str(tmp_path / "a-0.png"), str(tmp_path / "a-1.png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0.png", "a-1.png"]


def test_generate_with_a_reference_takes_its_size_unless_told_not_to(
    command: Command, draw: tuple[object, ...], tmp_path: Path
) -> None:
    Image.new("RGB", (48, 64), "teal").save(tmp_path / "in.png")
    edit = (*draw, "--image", tmp_path / "in.png", "--image-guidance", 2, "--out", tmp_path / "out.png")
    for words, size in (((), (48, 64)), (("--no-align-size",), (32, 32))):
        assert command(*edit, *words).code == 0
        with Image.open(tmp_path / "out.png") as picture:
            assert picture.size == size


def test_generate_at_given_times_draws(command: Command, draw: tuple[object, ...], tmp_path: Path) -> None:
    with_times = (*draw, "--timesteps", "0,0.3,0.6", "--memory-limit", "1GB", "--out", tmp_path / "a.png")
    finished = command(*with_times)
    assert finished.code == 0 and "3/3 drawing" in finished.err
    assert read_parameters(tmp_path / "a.png")["timesteps"] == [0, 0.3, 0.6]


def test_info_of_a_bundle_verifies_every_byte(command: Command, bundles: dict[str, Path]) -> None:
    told = json.loads(command("info", bundles["A"], "--verify", "--json").out)
    assert (told["kind"], told["precisions"], told["checked"]) == ("bundle", "fp32, fp16, bf16", "every byte")


def test_info_of_a_checkpoint_counts_parameters(command: Command) -> None:
    told = json.loads(command("info", CHECKPOINT, "--json").out)
    assert told["transformer"] == "1,577,552 parameters in 147 tensors, BF16, 1 files"


def test_doctor_lists_every_backend(command: Command) -> None:
    told = json.loads(command("doctor", "--json").out)
    assert list(told["backends"]) == list(BACKENDS)
    assert told["backends"]["ort-cpu"] == "works" and told["packages"]["numpy"] == np.__version__


def test_bench_measures_every_case(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ("--size", 32, "--steps", 2, "--references", 1, "--precision", "fp32", "--json", figures)
    finished = command("bench", bundles["A"], *words)
    assert finished.code == 0 and len(finished.out.splitlines()) == 5
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert [(case["references"], case["cfg_range"]) for case in told["cases"]] == [
        (0, [0, 1]), (0, [0, 0.6]), (1, [0, 1]), (1, [0, 0.6])
    ]  # fmt: skip
    for case in told["cases"]:
        assert case["seconds"] == pytest.approx(sum(case["stages"].values())) and case["peak_bytes"] > 10**7
    assert told["versions"]["numpy"] == np.__version__ and told["machine"]["python"]


def test_compare_of_an_exported_bundle_is_within_tolerance(
    command: Command, bundles: dict[str, Path], tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    words = ("--precision", "fp32", "--steps", 2, "--size", 32, "--json", figures)
    finished = command("compare", CHECKPOINT, bundles["A"], *words)
    assert finished.code == 0, finished.err
    assert "vae_decoder" in finished.out and json.loads(figures.read_text(encoding="utf-8"))["within_tolerance"] is True


def test_compare_beyond_tolerance_exits_1(
    command: Command, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnigen2_rt.exporter.compare import Difference, Report

    row = Difference(
        name="x", kind="component", max_error=1.0, mean_error=1.0, relative_error=1.0, cosine=0.0, tolerance=1e-3
    )
    report = Report(checkpoint="c", bundle="b", backend="ort-cpu", precision="fp32", differences=(row,))
    monkeypatch.setattr("omnigen2_rt.exporter.compare.compare", lambda *words, **settings: report)
    finished = command("compare", CHECKPOINT, bundles["A"])
    assert finished.code == 1 and "too far" in finished.out


def test_unknown_option_exits_2(command: Command) -> None:
    assert command("generate", "x", "--no-such-option").code == 2
