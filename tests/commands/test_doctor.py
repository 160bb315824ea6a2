"""`omnigen2 doctor BUNDLE`: OpenVINO's rewrites of a bundle's graphs, and the reasons where it makes none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnigen2_rt.commands import describe
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
