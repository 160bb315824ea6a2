"""The choice of a backend, a precision and its graphs, and the rules that every backend's sessions follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import ml_dtypes
import numpy as np
import onnx
import pytest

from omnigen2_rt.runtime.backends import (
    BACKENDS,
    Backend,
    choose_backend,
    choose_graphs,
    choose_precision,
    needs_streaming,
    open_backend,
    ort,
)
from omnigen2_rt.runtime.backends.openvino.library import openvino_core
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from tests.runtime.goldens import CPU_BACKENDS


@pytest.fixture(scope="module", params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Iterator[Backend]:
    yield open_backend(Bundle.open(bundles["A"]), request.param, "fp32", threads=1)


def holding(bundle: Bundle, *precisions: str) -> Bundle:
    """The bundle with the graphs of these precisions only."""
    graphs = tuple(graph for graph in bundle.manifest.graphs if graph.precision in precisions)
    return Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))


def feeds_of(backend: Backend, bundle: Path, component: str, **sizes: int) -> dict[str, Any]:
    """Random inputs of a component; dynamic sizes that aren't given are 3."""
    rng = np.random.default_rng(0)
    inputs = Bundle.open(bundle).graph(component, backend.graph_precision).inputs
    shapes = {
        name: [size if isinstance(size, int) else sizes.get(size, 3) for size in spec.shape] for name, spec in inputs.items()
    }
    return {name: rng.standard_normal(shape).astype(inputs[name].dtype) for name, shape in shapes.items()}


def test_backend_of_unknown_name_lists_the_known() -> None:
    with pytest.raises(BackendError, match="backend='npu' is not one of auto, .*openvino, ort-cpu"):
        choose_backend("npu")


def test_backend_auto_takes_openvino_on_a_cpu_where_it_is_installed() -> None:
    if ort.problem("ort-cuda"):
        assert choose_backend("auto") == "openvino"


def test_backend_auto_takes_openvino_only_for_large_models(bundles: dict[str, Path]) -> None:
    small = Bundle.open(bundles["A"])
    grown = tuple(replace(graph, weight_bytes=50_000_000) for graph in small.manifest.graphs)
    large = Bundle(small.path, replace(small.manifest, graphs=grown))
    if ort.problem("ort-cuda"):
        assert [choose_backend("auto", bundle) for bundle in (small, large)] == ["ort-cpu", "openvino"]
        assert open_backend(small, "auto", "auto").precision == "fp32"


def test_backend_auto_takes_onnxruntime_on_a_cpu_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "openvino", replace(BACKENDS["openvino"], problem=lambda: "not installed"))
    if ort.problem("ort-cuda"):
        assert choose_backend("auto") == "ort-cpu"


@pytest.mark.parametrize(("name", "module", "extra"), [("ort-cpu", "onnxruntime", "cpu"), ("openvino", "openvino", "openvino")])
def test_backend_without_its_engine_says_what_to_install(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_core.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf'pip install "omnigen2-rt\[{extra}\]"'):
        choose_backend(name)


@pytest.mark.parametrize(
    ("config", "backend", "precision", "message"),
    [
        ("A", "ort-cpu", "bf16", "backend ort-cpu can't run bf16; it runs fp32, fp16"),
        ("A", "openvino", "fp16", "backend openvino can't run fp16; it runs .*fp32"),
        ("B", "ort-cpu", "fp16", "the bundle holds fp32, not fp16: export it with --precision fp16"),
    ],
)
def test_precision_that_is_not_available_says_why(
    config: str, backend: str, precision: str, message: str, bundles: dict[str, Path]
) -> None:
    with pytest.raises(BackendError, match=message):
        choose_precision(Bundle.open(bundles[config]), backend, precision)


def test_precision_auto_takes_the_best_of_backend_and_bundle(bundles: dict[str, Path]) -> None:
    assert choose_precision(Bundle.open(bundles["A"]), "ort-cpu", "auto") == "fp32"
    assert choose_precision(Bundle.open(bundles["A"]), "ort-cuda", "auto") == "bf16"
    assert choose_precision(Bundle.open(bundles["B"]), "ort-cuda", "auto") == "fp32"


def test_quantized_graphs_on_cuda_are_never_those_in_bf16(bundles: dict[str, Path]) -> None:
    """ONNX Runtime has no DequantizeLinear in bfloat16: opening such a graph failed with words about a missing implementation."""
    whole = Bundle.open(bundles["A"])
    graphs = tuple(replace(graph, rounded_bytes=graph.resident_bytes) for graph in whole.manifest.graphs)
    quantized = Bundle(whole.path, replace(whole.manifest, graphs=graphs))
    assert choose_precision(quantized, "ort-cuda", "auto") == "fp16"
    assert choose_precision(quantized, "ort-cpu", "auto") == "fp32"
    reason = "quantized graphs in bf16; it runs them in fp16, fp32; the bundle holds fp32, fp16, bf16: choose"
    with pytest.raises(BackendError, match=reason):
        choose_precision(quantized, "ort-cuda", "bf16")


def test_precision_auto_on_openvino_is_bf16_where_the_cpu_computes_it(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundles["A"])
    for computed, chosen in {("bf16", "fp32"): "bf16", ("fp32",): "fp32"}.items():
        entry = replace(BACKENDS["openvino"], precisions=lambda threads, possible=computed: possible)
        monkeypatch.setitem(BACKENDS, "openvino", entry)
        assert choose_precision(bundle, "openvino", "auto") == chosen


def test_graphs_of_bf16_on_openvino_are_those_in_fp32_where_there_are_any(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["A"])
    assert choose_graphs(bundle, "openvino", "bf16") == "fp32"
    assert choose_graphs(holding(bundle, "bf16"), "openvino", "bf16") == "bf16"
    assert choose_graphs(bundle, "ort-cuda", "bf16") == "bf16"


def test_backend_auto_skips_one_that_cannot_run_the_bundle(bundles: dict[str, Path]) -> None:
    if ort.problem("ort-cuda"):
        opened = open_backend(holding(Bundle.open(bundles["A"]), "fp16"), "auto", "auto")
        assert (opened.name, opened.precision) == ("ort-cpu", "fp16")


def test_streaming_is_needed_where_one_component_alone_is_too_large(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["A"])
    largest = max(graph.resident_bytes for graph in bundle.manifest.graphs if graph.precision == "fp32")
    assert [needs_streaming(bundle, "fp32", limit) for limit in (None, largest, largest - 1)] == [False, False, True]
    assert not needs_streaming(bundle, "bf16", largest // 2, graphs="fp32")
    assert needs_streaming(bundle, "bf16", largest // 2 - 1, graphs="fp32")


def test_component_beyond_the_memory_limit_goes_to_a_backend_that_streams(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["A"])
    with pytest.raises(BackendError, match=r"one takes \d\.\d MB in fp32: raise the memory limit above that, or take backend"):
        open_backend(bundle, "openvino", "fp32", memory_limit_bytes=1000)
    if ort.problem("ort-cuda"):
        assert open_backend(bundle, "auto", "fp32", memory_limit_bytes=1000).name == "ort-cpu"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_array_comes_back_from_the_device(dtype: str, backend: Backend) -> None:
    array = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(backend.to_host(backend.to_device(array, dtype)), array.astype(dtype))


def test_array_of_no_values_comes_back_from_the_device(backend: Backend) -> None:
    assert backend.to_host(backend.to_device(np.zeros((1, 0, 4), np.float32))).shape == (1, 0, 4)


def test_array_on_the_device_is_a_copy(backend: Backend) -> None:
    array = np.zeros(3, np.float32)
    placed = backend.to_device(array)
    array[:] = 1
    first = backend.to_host(placed)
    first[:] = 2
    np.testing.assert_array_equal(backend.to_host(placed), np.zeros(3))


def test_array_of_bfloat16_goes_over_and_comes_back_as_float32(backend: Backend) -> None:
    array = np.array([1.0, 0.1], np.float32)
    widened = backend.to_host(backend.to_device(array, "bfloat16"))
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened, array.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert widened[1] != array[1]


def test_model_that_widens_bfloat16_is_one_cast() -> None:
    model = onnx.load_from_string(ort.WIDEN)
    assert [node.op_type for node in model.graph.node] == ["Cast"]


def test_onnxruntime_on_cuda_gets_the_measured_options(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a double: no test machine has a GPU."""
    library = MagicMock()
    library.get_available_providers.return_value = ["CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: library)
    opened = library.InferenceSession.return_value.get_providers
    opened.return_value = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    backend = ort.OrtBackend(Bundle.open(bundles["A"]), "ort-cuda", "bf16")
    backend.open("transformer")
    providers = library.InferenceSession.call_args.kwargs["providers"]
    assert providers == [("CUDAExecutionProvider", ort.CUDA_OPTIONS), "CPUExecutionProvider"]
    assert ort.CUDA_OPTIONS["use_tf32"] == "0"
    library.set_default_logger_severity.assert_called_once_with(ort.FATAL)
    opened.return_value = ["CPUExecutionProvider"]
    with pytest.raises(BackendError, match="transformer.bf16.onnx without CUDAExecutionProvider: CUDA or cuDNN can't be loaded"):
        backend.open("transformer")


def test_session_runs_every_size_on_one_opening(backend: Backend, bundles: dict[str, Path]) -> None:
    """And later runs leave the outputs of earlier ones unchanged."""
    session = backend.open("velocity_head")
    outputs, copies = [], []
    for side in (4, 6, 4, 2):
        feeds = feeds_of(backend, bundles["A"], "velocity_head", latent_height=side, latent_width=4, image_tokens=side, batch=1)
        outputs.append(session.run(feeds)["velocity"])
        copies.append(backend.to_host(outputs[-1]))
    assert [array.shape for array in copies] == [(1, 16, side, 4) for side in (4, 6, 4, 2)]
    for device, host in zip(outputs, copies, strict=True):
        np.testing.assert_array_equal(backend.to_host(device), host)


def test_session_leaves_its_inputs_unchanged(backend: Backend, bundles: dict[str, Path]) -> None:
    feeds = feeds_of(backend, bundles["A"], "blend")
    placed = {name: backend.to_device(array) for name, array in feeds.items()}
    first, second = (backend.open("blend").run(placed) for _ in range(2))
    for name, array in feeds.items():
        np.testing.assert_array_equal(backend.to_host(placed[name]), array)
    for name in first:
        np.testing.assert_array_equal(backend.to_host(first[name]), backend.to_host(second[name]))


def test_session_takes_the_output_of_another_session(backend: Backend) -> None:
    temb = backend.open("timestep_embedding").run({"timesteps": np.array([0.5], np.float32)})["temb"]
    feeds = {"hidden_states": np.ones((1, 4, 96), np.float32), "latents": np.zeros((1, 16, 4, 4), np.float32)}
    session = backend.open("velocity_head")
    direct, copied = (session.run({**feeds, "temb": each})["velocity"] for each in (temb, backend.to_host(temb)))
    np.testing.assert_array_equal(backend.to_host(direct), backend.to_host(copied))


def test_session_with_wrong_names_says_which(backend: Backend) -> None:
    with pytest.raises(BackendError, match=r"timestep_embedding takes timesteps; missing or unknown: \['time', 'timesteps'\]"):
        backend.open("timestep_embedding").run({"time": np.zeros(1, np.float32)})


def test_session_with_a_wrong_rank_says_which(backend: Backend) -> None:
    with pytest.raises(BackendError, match=r"takes timesteps of shape \('steps',\); it was given \(1, 1\)"):
        backend.open("timestep_embedding").run({"timesteps": np.zeros((1, 1), np.float32)})


def test_session_that_fails_gives_one_line_with_the_shapes(backend: Backend) -> None:
    session = backend.open("velocity_head")
    feeds: dict[str, Any] = {"hidden_states": np.zeros((1, 5, 96), np.float32), "temb": np.zeros((1, 96), np.float32)}
    with pytest.raises(BackendError, match="velocity_head failed on ") as caught:
        session.run({**feeds, "latents": np.zeros((1, 16, 4, 4), np.float32)})
    assert "\n" not in str(caught.value)


def test_graph_that_cannot_be_read_gives_one_line(backend: Backend, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = Bundle.open(bundles["A"])
    graph = replace(bundle.graph("blend", "fp32"), file="broken.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    for spec in bundle.manifest.files:
        (tmp_path / spec.file).parent.mkdir(exist_ok=True)
        (tmp_path / spec.file).touch()
    broken = Bundle(tmp_path, replace(bundle.manifest, graphs=(graph,)))
    with pytest.raises(BackendError, match=r"can't open broken\.onnx: ") as caught:
        open_backend(broken, backend.name, "fp32").open("blend")
    assert "\n" not in str(caught.value)
