"""LoRAs on the command line: their options, the parameters in pictures, and the merged bundles."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.commands.option_values import lora_option
from omnigen2_rt.exporter.lora_store import store_folders
from omnigen2_rt.exporter.weights import placement
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.files.hashes import file_hash
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.pipeline import NANO
from tests.commands.command import Command
from tests.exporter.merged_loras import MODULES, nano_lora

QUICK = ("--steps", 2, "--backend", "ort-cpu", "--threads", 1)


@pytest.mark.parametrize(
    ("text", "file", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        ("style.safetensors:-1", "style.safetensors", -1.0),
        ("style.safetensors:+.5e1", "style.safetensors", 5.0),
        ("C:\\loras\\style.safetensors", "C:\\loras\\style.safetensors", 1.0),
        ("C:\\loras\\style.safetensors:0.8", "C:\\loras\\style.safetensors", 0.8),
        ("C:/loras/style:0.8", "C:/loras/style", 0.8),
        ("a:b:2", "a:b", 2.0),
        ("a:2:1", "a:2", 1.0),
        ("style:nan", "style:nan", 1.0),
        ("style:0x10", "style:0x10", 1.0),
        ("style:1_0", "style:1_0", 1.0),
        ("style: 1", "style: 1", 1.0),
        ("style:", "style:", 1.0),
    ],
)
def test_lora_option_ends_in_a_scale_if_a_number_follows_the_last_colon(text: str, file: str, scale: float) -> None:
    assert lora_option(text) == (Path(file), scale)


@pytest.mark.parametrize("text", ["", " ", ":0.5", " :1", "style:1e999"])
def test_lora_option_without_a_file_or_a_finite_scale_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=f"--lora '{text}' is not FILE or FILE:SCALE, such as style.safetensors:0.8") as error:
        lora_option(text)
    assert "\n" not in str(error.value)


def test_generate_with_a_lora_draws_another_picture_that_names_it(command: Command, tmp_path: Path) -> None:
    file, store = nano_lora(tmp_path / "style.safetensors"), tmp_path / "store"
    words = ("a red circle", *QUICK, "--lora-dir", store)
    plain = command("generate", *words[:-2], "--out", tmp_path / "plain.png")
    first = command("generate", *words, "--lora", f"{file}:0.5", "--out", tmp_path / "a.png")
    second = command("generate", *words, "--lora", f"{file}:0.5", "--out", tmp_path / "b.png")
    assert (plain.code, first.code, second.code) == (0, 0, 0), first
    (merged,) = store.iterdir()
    assert "LoRA style.safetensors: 4 modules, scale 0.5 × the file's own factor 1 = 0.5" in first.err
    assert f"merged into '{merged}'" in first.err and "LoRA" not in second.err and "merg" not in second.err
    plain_picture, a, b = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "a", "b"))
    assert np.array_equal(a, b) and not np.array_equal(a, plain_picture)
    identity = {"name": "style.safetensors", "sha256": file_hash(file), "scale": 0.5, "settings_sha256": None}
    parameters = read_parameters(tmp_path / "a.png")
    assert (parameters["loras"], parameters["bundle"]) == ([identity], "nano")
    assert read_parameters(tmp_path / "plain.png")["loras"] == []
    assert "style.safetensors" in command("info", tmp_path / "a.png").out
    assert f"1. style.safetensors: scale 0.5, SHA-256 {file_hash(file)}" in command("info", merged).out


def test_generate_with_several_loras_merges_them_in_their_order(command: Command, tmp_path: Path) -> None:
    a, b = (nano_lora(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    out = tmp_path / "a.png"
    finished = command("generate", "x", *QUICK, "--lora", a, "--lora", f"{b}:-2", "--lora-dir", tmp_path / "s", "--out", out)
    assert finished.code == 0, finished
    named = [(lora["name"], lora["scale"]) for lora in read_parameters(out)["loras"]]
    assert named == [("a.safetensors", 1), ("b.safetensors", -2)]


@pytest.mark.parametrize("words", [("chat", "a small blue star on white"), ("reflect", "a red circle", "--rounds", 1)])
def test_chat_and_reflect_take_loras(command: Command, tmp_path: Path, words: tuple[object, ...]) -> None:
    """The store holds what they drew with."""
    file, store = nano_lora(tmp_path / "style.safetensors", strength=0.01), tmp_path / "store"
    out = tmp_path if words[0] == "chat" else tmp_path / "out.png"
    assert command(*words, *QUICK, "--lora", file, "--lora-dir", store, "--out", out).code == 0
    (merged,) = store.iterdir()
    assert [lora.name for lora in Bundle.open(merged).manifest.loras] == ["style.safetensors"]
    if words[0] == "reflect":
        assert [lora["name"] for lora in read_parameters(out)["loras"]] == ["style.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "x", "--lora", "nowhere.safetensors:0.8"), "LoRA 'nowhere.safetensors' does not exist"),
        (("generate", "x", "--lora", ":1"), "--lora ':1' is not FILE or FILE:SCALE"),
        (("generate", "x", "--lora-dir", "there"), "--lora-dir belongs to --lora"),
        (("lora", "nano", "--list", "--lora-dir", ""), "--lora-dir is empty: name a folder, or . for the current one"),
        (("generate", "x", "--lora", NANO / "vae/config.json"), "can't be read"),
        (("lora", "nano"), "give one of --lora, --list and --prune"),
        (("lora", "nano", "--list", "--prune"), "give one of --lora, --list and --prune, not 2"),
        (("lora", "nowhere", "--lora", "x"), "'nowhere' is not a bundle"),
        (("serve", "--lora", "style.safetensors"), "is not NAME=FILE, NAME=FILE:SCALE or NAME@BUNDLE=FILE"),
        (("serve", "--lora", "=x"), "is not NAME=FILE"),
        (("serve", "--lora", "a="), "is not NAME=FILE"),
        (("serve", "--lora", "a@big=x"), "is for the bundle 'big'; there are: nano"),
        (("serve", "--lora", "nano=x"), "the name 'nano' is another model's"),
        (("serve", "--bundle", "a=nano", "--bundle", "b=nano", "--lora", "c=x", "--lora", "c@b=x"), "'c' is another model's"),
        (("serve", "--lora", "a=nowhere:2"), "LoRA 'nowhere' does not exist"),
        (("serve", "--lora-dir", "there"), "--lora-dir belongs to --lora"),
    ],
)
def test_lora_with_a_bad_value_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in command.fails(*words)
    assert not list(tmp_path.iterdir())


def test_lora_command_merges_lists_and_removes(command: Command, tmp_path: Path) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    file = nano_lora(tmp_path / "style.safetensors", modules=MODULES[:1])
    assert command("lora", bundle, "--list").out == f"no merged bundles of '{bundle}' in '{bundle}.loras'\n"
    path = Path(command("lora", bundle, "--lora", f"{file}:2").out.strip())
    assert (path.parent,) == store_folders(bundle) and Bundle.open(path).manifest.loras[0].scale == 2
    listed = command("lora", bundle, "--list").out
    assert re.fullmatch(rf"{re.escape(str(path))}: style\.safetensors × 2; 0\.[0-9] MB\n", listed), listed
    (path / "notes.txt").touch()
    assert command("lora", bundle, "--prune").out == (
        f"left: '{path}': it holds 'notes.txt', which isn't part of it\nremoved 0 merged bundles, 0.0 MB\n"
    )
    (path / "notes.txt").unlink()
    assert re.fullmatch(r"removed 1 merged bundles, 0\.[0-9] MB\n", command("lora", bundle, "--prune").out)
    assert not path.parent.exists()
    Bundle.open(bundle).verify()


def test_merging_onto_another_filesystem_copies_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(placement, "_reflink", lambda source, target: False)
    monkeypatch.setattr(placement.os, "link", refuse)
    finished = command("lora", "nano", "--lora", nano_lora(tmp_path / "style.safetensors"), "--lora-dir", tmp_path / "store")
    said = r"note: \d+ files were copied \(\d+\.\d MB\): the new folder lies on another filesystem, and no link leads there; "
    assert re.search(said, finished.err)
    Bundle.open(finished.out.strip()).verify()


def test_engines_of_the_original_bundle_are_not_taken_over(command: Command, tmp_path: Path) -> None:
    bundle = shutil.copytree(NANO, tmp_path / "bundle")
    (bundle / "engines").mkdir()
    (bundle / "engines" / "transformer.fp32.0123456789abcdef.plan").touch()
    finished = command("lora", bundle, "--lora", nano_lora(tmp_path / "style.safetensors"))
    path = Path(finished.out.strip())
    assert f"note: the bundle's engines don't fit; `omnigen2 build {path}` builds those of the merged one" in finished.err
    assert not (path / "engines").exists()
