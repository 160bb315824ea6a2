"""The choice of a backend and a precision, and what ONNX Runtime's sessions check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from omnigen2_rt.runtime.backends import choose_backend, choose_precision, ort
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError


@pytest.fixture
def backend(bundles: dict[str, Path]) -> ort.OrtBackend:
    return ort.OrtBackend(Bundle.open(bundles["A"]), "ort-cpu", "fp32", threads=1)


def test_backend_of_unknown_name_lists_the_known() -> None:
    with pytest.raises(BackendError, match="backend='npu' is not one of auto, .*ort-cpu"):
        choose_backend("npu")


def test_backend_auto_takes_the_cpu_where_nothing_else_works() -> None:
    assert choose_backend("ort-cpu") == "ort-cpu"
    if ort.problem("ort-cuda"):
        assert choose_backend("auto") == "ort-cpu"


def test_backend_without_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "omnigen2-rt\[cpu\]"'):
        choose_backend("ort-cpu")


@pytest.mark.parametrize(
    ("config", "precision", "message"),
    [
        ("A", "bf16", "backend ort-cpu can't run bf16; it runs fp32, fp16"),
        ("B", "fp16", "the bundle holds fp32, not fp16: export it with --precision fp16"),
    ],
)
def test_precision_that_cannot_be_had_says_why(
    config: str, precision: str, message: str, bundles: dict[str, Path]
) -> None:
    with pytest.raises(BackendError, match=message):
        choose_precision(Bundle.open(bundles[config]), "ort-cpu", precision)


def test_precision_auto_takes_the_best_of_both(bundles: dict[str, Path]) -> None:
    assert choose_precision(Bundle.open(bundles["A"]), "ort-cpu", "auto") == "fp32"
    assert choose_precision(Bundle.open(bundles["A"]), "ort-cuda", "auto") == "bf16"
    assert choose_precision(Bundle.open(bundles["B"]), "ort-cuda", "auto") == "fp32"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_array_comes_back_from_the_device(dtype: str, backend: ort.OrtBackend) -> None:
    array = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(backend.to_host(backend.to_device(array, dtype)), array.astype(dtype))


def test_array_of_bfloat16_goes_over_bit_by_bit(backend: ort.OrtBackend) -> None:
    value = backend.to_device(np.array([1.0, 0.1], np.float32), "bfloat16")
    assert value.element_type() == ort.ONNX_BFLOAT16
    assert np.float32(ml_dtypes.bfloat16(0.1)) != np.float32(0.1)


def test_session_with_wrong_names_says_which(backend: ort.OrtBackend) -> None:
    with pytest.raises(BackendError, match=r"timestep_embedding takes timesteps; missing or unknown: \['time', 'timesteps'\]"):
        backend.open("timestep_embedding").run({"time": np.zeros(1, np.float32)})


def test_session_with_a_wrong_rank_says_which(backend: ort.OrtBackend) -> None:
    with pytest.raises(BackendError, match=r"takes timesteps of shape \('steps',\); it was given \(1, 1\)"):
        backend.open("timestep_embedding").run({"timesteps": np.zeros((1, 1), np.float32)})


def test_session_that_fails_gives_one_line_with_the_shapes(backend: ort.OrtBackend) -> None:
    session = backend.open("velocity_head")
    feeds: dict[str, Any] = {"hidden_states": np.zeros((1, 5, 96), np.float32), "temb": np.zeros((1, 96), np.float32)}
    with pytest.raises(BackendError, match="velocity_head failed on ") as caught:
        session.run({**feeds, "latents": np.zeros((1, 16, 4, 4), np.float32)})
    assert "\n" not in str(caught.value)
