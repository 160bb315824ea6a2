"""Each bad input gets one line that says what was wrong, exit code 1, and leaves no file."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.components import Components
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.commands.command import Command
from tests.damages import BUNDLE_DAMAGES, CHECKPOINT_DAMAGES
from tests.exporter.checkpoints import copied
from tests.exporting import GOLDENS

CHECKPOINT = GOLDENS / "A" / "checkpoint"


@pytest.fixture
def copied_bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle of one's own to spoil."""
    return Path(shutil.copytree(bundles["B"], tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--height", 8), "height_px=8 is below the smallest size, 16"),
        (("--width", -64), "width_px=-64 is below the smallest size, 16"),
        (("--steps", 0), "steps=0"),
        (("--count", 0), "images_per_prompt=0"),
        (("--text-guidance", "nan"), "text_guidance=nan is not a finite number"),
        (("--cfg-range", 0.6, 0.2), "cfg_range=(0.6, 0.2) must satisfy"),
        (("--scheduler", "heun"), "scheduler='heun'"),
        (("--cache", "magic"), "--cache 'magic' is unknown; choose"),
        (("--tea-threshold", 0.1), "--tea-threshold belongs to --cache teacache"),
        (("--timesteps", "0,half"), "--timesteps '0,half' is not a list of numbers"),
        (("--timesteps", "0.5,0.2"), "timesteps must increase"),
        (("--memory-limit", "lots"), "--memory-limit 'lots' is not a size such as 4GB"),
        (("--memory-limit", "0GB"), "--memory-limit '0GB' is below the smallest size"),
        (("--threads", 0), "threads=0 is not a whole number"),
        (("--backend", "abacus"), "backend='abacus' is not one of auto"),
        (("--precision", "fp8"), "can't run fp8"),
        (("--image", "nowhere.png"), "nowhere.png"),
        (("--latents", "nowhere.npy"), "'nowhere.npy' can't be read as a .npy file: No such file or directory"),
        (("--latents", CHECKPOINT / "model_index.json"), "can't be read as a .npy file: it holds something else"),
        (("--bundle", "nowhere"), "'nowhere' is not a bundle"),
    ],
)
def test_generate_with_a_bad_value_says_so(
    command: Command, draw: tuple[object, ...], tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails(*draw, "--out", tmp_path / "a.png", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing/a.png", "does not exist: make it first"), ("a.jpg", "must end in .png"), ("folder.png", "is a folder")],
)
def test_generate_with_a_bad_name_says_so_before_drawing(
    command: Command, draw: tuple[object, ...], tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Pipeline, "generate", lambda *words, **settings: pytest.fail("it was drawn"))
    assert said in command.fails(*draw, "--out", tmp_path / name)


def test_generate_with_six_references_says_how_many_are_allowed(
    command: Command, draw: tuple[object, ...], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    references = ["--image", tmp_path / "in.png"] * 6
    said = command.fails(*draw, *references, "--out", tmp_path / "a.png")
    assert said == "error: 6 images were given; this model takes at most 5"


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"])
def test_generate_with_an_unreadable_image_names_it(
    command: Command, draw: tuple[object, ...], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "in.png").write_bytes(content)
    assert "in.png" in command.fails(*draw, "--image", tmp_path / "in.png", "--out", tmp_path / "a.png")


def test_generate_with_noise_that_is_not_finite_says_so(
    command: Command, draw: tuple[object, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "noise.npy", np.full((1, 16, 4, 4), np.nan, np.float32))
    said = command.fails(*draw, "--latents", tmp_path / "noise.npy", "--out", tmp_path / "a.png")
    assert "latents holds NaN or infinite values" in said


@pytest.mark.parametrize(("damage", "message"), BUNDLE_DAMAGES.values(), ids=BUNDLE_DAMAGES)
def test_generate_with_a_damaged_bundle_says_what_is_wrong(
    command: Command, bundles: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    bundle = Path(shutil.copytree(bundles["A"], tmp_path / "bundle"))
    damage(bundle)
    assert re.search(message, command.fails("generate", "x", "--bundle", bundle, "--out", tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("damage", "message"), CHECKPOINT_DAMAGES.values(), ids=CHECKPOINT_DAMAGES)
def test_export_of_a_damaged_checkpoint_says_what_is_wrong(
    command: Command, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    checkpoint = copied(CHECKPOINT, tmp_path)
    damage(checkpoint)
    assert re.search(message, command.fails("export", checkpoint, tmp_path / "bundle").removeprefix("error: "))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precision", "int8"), "precision int8 is unknown; choose from fp32, fp16, bf16"),
        (("--lora", "nowhere.safetensors"), "LoRA 'nowhere.safetensors' does not exist"),
        (("--lora", CHECKPOINT / "vae/config.json"), "can't be read"),
        (("--lora", "x", "--lora-scale", "nan"), "the LoRA's scale, nan, is not a finite number"),
        (("--lora-scale", 0.5), "--lora-scale belongs to --lora"),
        (("--lora", "x", "--lora", "y", "--lora-scale", 0.5), "2 --lora and 1 --lora-scale: give each LoRA its scale"),
    ],
)
def test_export_with_a_bad_value_says_so(command: Command, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    assert said in command.fails("export", CHECKPOINT, tmp_path / "new", *words)
    assert not list(tmp_path.iterdir())


def test_folders_that_were_swapped_are_told_apart(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    a_bundle, a_checkpoint = "is a bundle that `omnigen2 export` made", "it is a checkpoint; run `omnigen2 export` on it first"
    assert a_bundle in command.fails("export", bundles["A"], tmp_path / "new")
    assert a_bundle in command.fails("compare", bundles["A"], CHECKPOINT)
    assert "/checkpoint' is of another model: its transformer.hidden_size" in command.fails("compare", CHECKPOINT, "nano")
    assert a_checkpoint in command.fails("generate", "x", "--bundle", CHECKPOINT, "--out", tmp_path / "a.png")
    assert "it is a file; give the bundle's folder" in command.fails("bench", bundles["A"] / "bundle.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", 8), "height_px=8 is below the smallest size, 16"),
        (("--size", -8), "height_px=-8 is below the smallest size, 16"),
        (("--steps", 0), "steps=0"),
        (("--repeat", 0), "repeat=0 is out of range; 1 to 1000 are allowed"),
        (("--repeat", 10**9), "repeat=1000000000 is out of range; 1 to 1000 are allowed"),
        (("--json", "nowhere/figures.json"), "can't write 'nowhere/figures.json': No such file or directory"),
        (("--references", 6), "references=6 is out of range; this model takes 0 to 5"),
        (("--cache", "magic"), "--cache 'magic' is unknown"),
    ],
)
def test_bench_with_a_bad_value_says_so(
    command: Command, bundles: dict[str, Path], words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("bench", bundles["A"], "--size", 32, *words)


def test_bench_with_a_cache_that_the_bundle_cannot_compute_is_refused_before_drawing(
    command: Command, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first case, of one step without a cache, was drawn first."""
    monkeypatch.setattr(Pipeline, "generate", lambda *words, **settings: pytest.fail("it was drawn"))
    monkeypatch.setattr(Components, "most_blended", 2)
    words = ("--size", 32, "--steps", 1, "--precision", "fp32", "--cache", "taylorseer")
    assert "TaylorSeer order=4 is too high for this bundle; it allows 0 to 1" in command.fails("bench", bundles["A"], *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scheme", "int3"), "scheme 'int3' is unknown; choose int8-weights, int4-weights, int8"),
        (("--scheme", "int8", "--size", 8), "height_px=8 is below the smallest size, 16"),
        (("--scheme", "int8", "--threads", 0), "threads=0 is not a whole number"),
        (("--scheme", "int8", "--prompts", "nowhere.txt"), "can't read prompts from 'nowhere.txt': No such file"),
    ],
)
def test_quantize_with_a_bad_value_says_so(
    command: Command, bundles: dict[str, Path], tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("quantize", bundles["B"], tmp_path / "new", *words)
    assert not list(tmp_path.iterdir())


def test_quantize_with_prompts_that_never_end_says_so(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    """A pipe was waited for, a device was read until memory was full."""
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_text("a red cube\n" * 100_000)
    for file, said in ((pipe, "not a regular file"), ("/dev/zero", "not a regular file"), (large, "larger than 1048576 bytes")):
        words = ("--scheme", "int8", "--prompts", file)
        assert said in command.fails("quantize", bundles["B"], tmp_path / "new", *words)


def test_quantize_over_something_says_so(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    assert "exists: choose another name" in command.fails("quantize", bundles["B"], tmp_path, "--scheme", "int8")


def test_chat_into_a_folder_that_is_not_there_says_so_first(command: Command, tmp_path: Path) -> None:
    assert "is not a folder: make it first" in command.fails("chat", "x", "--bundle", "y", "--out", tmp_path / "missing")


def test_info_verify_finds_a_changed_weight(command: Command, copied_bundle: Path) -> None:
    weights = max(copied_bundle.glob("vae/*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.unlink()
    weights.write_bytes(changed)
    assert command("info", copied_bundle).code == 0
    assert weights.name in command.fails("info", copied_bundle, "--verify")


@pytest.mark.parametrize("name", ["nowhere", "empty", "plain.png"])
def test_info_of_something_else_says_so(command: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert name in command.fails("info", tmp_path / name)


def test_info_of_a_truncated_checkpoint_names_the_file(command: Command, tmp_path: Path) -> None:
    checkpoint = copied(CHECKPOINT, tmp_path)
    weights = max(checkpoint.glob("vae/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    assert weights.name in command.fails("info", checkpoint)
    weights.unlink()
    assert "vae' holds no safetensors file: the checkpoint is incomplete" in command.fails("info", checkpoint)


def test_export_over_something_says_so(command: Command, copied_bundle: Path, tmp_path: Path) -> None:
    assert "--force" in command.fails("export", CHECKPOINT, copied_bundle)
    assert "nowhere" in command.fails("export", tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_export_without_its_libraries_says_what_to_install(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = command.fails("export", CHECKPOINT, tmp_path / "new")
    assert 'pip install "omnigen2-rt[export]"' in said


def test_generate_without_disk_space_keeps_the_old_picture(
    command: Command, draw: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def no_space(*words: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    assert "No space left on device" in command.fails(*draw, "--out", tmp_path / "a.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_figures_without_disk_space_say_so(
    command: Command, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--size", 32, "--steps", 1, "--references", 0, "--precision", "fp32", "--json", "/dev/full")
    assert "No space left on device" in command.fails("bench", bundles["A"], *words)


def test_debug_shows_the_trace(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnigen2_rt import RequestError, cli

    monkeypatch.setattr("sys.argv", ["omnigen2", "--debug", "info", "/nowhere"])
    with pytest.raises(RequestError, match="does not exist"):
        cli.main()
