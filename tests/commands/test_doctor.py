"""`omnigen2 doctor`: OpenVINO's rewrites of a bundle's graphs, the reasons where it makes none, and options without a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt.commands import describe
from omnigen2_rt.exporter.engines.rtx import RTXBuilder
from omnigen2_rt.exporter.engines.standard import StandardBuilder
from omnigen2_rt.runtime.backends import BACKENDS
from tests.commands.command import Command


def test_doctor_counts_openvinos_rewrites_and_says_why_it_refused_others(command: Command, bundles: dict[str, Path]) -> None:
    words = ("doctor", bundles["A"], "--backend", "openvino", "--precision", "fp32")
    report = json.loads(command(*words, "--json").out)
    assert report["rewrites"]["transformer"] == "rotate_by_products 6, keep_stored_weights 24"
    assert report["rewrites"]["blend"] == "nothing"
    place, reason = "keep_stored_weights at visual.patch_embed.proj.weight.cast", "looked for a cast that MatMul alone reads"
    assert report["refused rewrites"] == {"vision_encoder": {place: f"{reason}; found Reshape"}}
    assert f"\n  vision_encoder:\n    {place}: {reason}; found Reshape" in command(*words).out


def test_doctor_joins_refusals_of_one_reason_and_counts_the_rest(
    command: Command, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("doctor", bundles["A"], "--backend", "openvino", "--precision", "bf16", "--json")
    (place, reason), *others = json.loads(command(*words).out)["refused rewrites"]["transformer"].items()
    assert place.startswith("split_feed_forward at node_mul_") and place.endswith(" and 2 more")
    assert (reason, others) == ("looked for more than 512 columns; found 384", [])
    monkeypatch.setattr(describe, "MOST_REFUSALS", 0)
    assert json.loads(command(*words).out)["refused rewrites"]["transformer"] == {"further refusals": 3}


def test_doctor_of_another_backend_has_no_rewrites(command: Command, bundles: dict[str, Path]) -> None:
    assert "rewrites" not in json.loads(command("doctor", bundles["A"], "--backend", "ort-cpu", "--json").out)


@pytest.mark.parametrize("words", [("--memory-limit", "1MB"), ("--steps", 4), ("--backend", "ort-cpu"), ("--precision", "fp32")])
def test_doctor_with_an_option_of_a_drawing_needs_a_bundle(command: Command, words: tuple[object, ...]) -> None:
    """The option was ignored."""
    assert command.fails("doctor", *words) == f"error: {words[0]} needs a BUNDLE: give its folder, or nano"


def test_doctor_names_once_what_neither_runs_nor_builds_engines(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasons that the backend has stood there twice."""
    entry = replace(BACKENDS["tensorrt"], problem=lambda: "no TensorRT")
    monkeypatch.setitem(BACKENDS, "tensorrt", entry)
    monkeypatch.setattr(StandardBuilder, "problem", lambda self, rope: "no TensorRT; no triton")
    report = json.loads(command("doctor", "--json").out)
    assert report["backends"]["tensorrt"] == "no: no TensorRT"
    assert report["building engines"]["tensorrt"] == "no: needs what `tensorrt` lacks above; no triton"


def test_doctor_tells_that_engines_can_be_built_that_do_not_run_here(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX builds without a GPU."""
    entry = replace(BACKENDS["tensorrt-rtx"], problem=lambda: "no GPU")
    monkeypatch.setitem(BACKENDS, "tensorrt-rtx", entry)
    monkeypatch.setattr(RTXBuilder, "problem", lambda self, rope: None)
    report = json.loads(command("doctor", "--json").out)
    assert report["backends"]["tensorrt-rtx"] == "no: no GPU"
    assert report["building engines"]["tensorrt-rtx"] == "works"


def test_doctor_does_not_hide_why_engines_cannot_be_built_where_they_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(BACKENDS["tensorrt-rtx"], problem=lambda: "no GPU")
    monkeypatch.setitem(BACKENDS, "tensorrt-rtx", entry)
    monkeypatch.setattr(RTXBuilder, "problem", lambda self, rope: "too old")
    assert json.loads(command("doctor", "--json").out)["building engines"]["tensorrt-rtx"] == "no: too old"
