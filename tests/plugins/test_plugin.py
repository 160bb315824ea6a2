"""The TensorRT plugin on TensorRT's real Python API, without its libraries and without a GPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnigen2_rt.plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES
from omnigen2_rt.plugins.omni_rope.ptx import ptx_parameters
from tests.tensorrt_stubs import needs_compiler, run_with_stubs

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    finished = run_with_stubs("from tests.plugins.registered_plugin import report; report()")
    assert finished.returncode == 0, finished.stderr
    results: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return results


@pytest.fixture(params=range(3), ids=["bf16", "fp16", "fp32"])
def build(request: pytest.FixtureRequest, report: dict[str, Any]) -> dict[str, Any]:
    results: dict[str, Any] = report["builds"][request.param]
    return results


def test_plugin_registers_once_under_the_names_in_the_node(report: dict[str, Any]) -> None:
    (creator,) = report["creators"]
    assert report["is_registered"] == [False, True]
    assert creator["name"] == OP_TYPE
    assert creator["namespace"] == DOMAIN == PLUGIN_ATTRIBUTES["plugin_namespace"]
    assert creator["version"] == PLUGIN_ATTRIBUTES["plugin_version"]
    assert creator["fields"] == ["epsilon"]


def test_plugin_output_has_heads_first_and_the_type_of_x(build: dict[str, Any]) -> None:
    (shape,) = build["output_shapes"]
    assert shape in (["B", 21, "S", 120], ["B", 7, "S", 120])
    dtype = build["name"].split("_")[2]
    assert build["output_types"] == [{"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}[dtype]]


def test_plugin_offers_every_type_of_x_with_float32_tables(build: dict[str, Any]) -> None:
    kinds = ("FLOAT", "HALF", "BF16")
    expected = {(x, weight, "FLOAT", "FLOAT", x) for x in kinds for weight in kinds}
    combinations = [tuple(combination) for combination in build["combinations"]]
    assert set(combinations) == expected and len(combinations) == len(expected)


def test_plugin_offers_every_tactic(report: dict[str, Any]) -> None:
    numbers = list(range(1, len(report["tactics"]) + 1))
    assert all(build["tactics"] == numbers for build in report["builds"])


def test_plugin_launches_a_program_for_its_rows_of_tokens_in_each_image(report: dict[str, Any]) -> None:
    for build, (rows, warps) in zip(report["builds"], report["tactics"], strict=False):
        launch = dict(build["launch"])
        assert launch.pop("shared_mem") <= 512
        assert launch.pop("grid_x") == f"CEIL_DIV(S, {rows})"
        assert launch.pop("grid_y") == "B"
        assert launch.pop("block_x") == warps * 32
        assert launch == {"grid_z": 1, "block_y": 1, "block_z": 1}
        assert f"rows{rows}_warps{warps}" in build["name"]


def test_plugin_passes_the_number_of_tokens(build: dict[str, Any]) -> None:
    assert (build["arguments"], build["argument_types"]) == (["S"], ["INT32"])


def test_plugin_kernel_takes_inputs_then_integers_then_outputs(build: dict[str, Any]) -> None:
    assert f".entry {build['name']}(" in build["ptx"]
    assert ptx_parameters(build["ptx"]) == ("u64",) * 4 + ("u32",) * len(build["arguments"]) + ("u64",)


def test_plugin_kernel_holds_the_epsilon_of_the_node(report: dict[str, Any]) -> None:
    """1e-5 as float32: in the name, and as a constant in the code."""
    assert all(build["name"].endswith("eps3727c5ac") for build in report["builds"])
    assert all("0f3727C5AC" in build["ptx"] for build in report["builds"])


def test_plugin_with_a_dynamic_number_of_heads_is_refused(report: dict[str, Any]) -> None:
    assert "needs a fixed number and width of heads, but x is (-1, -1, -1, 120)" in report["free_heads"]
