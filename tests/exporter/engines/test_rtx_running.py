"""Running engines of TensorRT for RTX, on doubles that its real classes specify; its own word on plans, without a driver."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from omnigen2_rt.exporter.engines.engine_store import prune
from omnigen2_rt.runtime import backends
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES, kernel_cache
from omnigen2_rt.runtime.backends.tensorrt.kernel_cache import SUFFIX
from omnigen2_rt.runtime.backends.tensorrt.library import make_log, take_errors
from omnigen2_rt.runtime.backends.tensorrt.records import FOLDER, TARGETS
from omnigen2_rt.runtime.backends.tensorrt.rtx import REASONS
from omnigen2_rt.runtime.dtypes import DTYPES
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.files.user_cache import UserCache
from tests.exporter.engines.engine_setup import EngineSetup
from tests.exporter.engines.fake_cuda import FakeCuda, fake_cuda
from tests.exporter.engines.small_bundle import HIDDEN
from tests.rtx_library import needs_rtx

pytestmark = needs_rtx

LIBRARY = LIBRARIES["tensorrt-rtx"]


@pytest.fixture
def trt() -> Any:
    return LIBRARY.load()


@pytest.fixture
def setup(tmp_path: Path) -> EngineSetup:
    return EngineSetup(tmp_path, library="tensorrt-rtx")


def kernel_files(setup: EngineSetup) -> list[Path]:
    return sorted((setup.bundle.path / FOLDER).glob(f"*{SUFFIX}"))


def run_once(setup: EngineSetup, kernels: bytes) -> None:
    """Open, run and close in what stands for a new process, in which the library comes to hold `kernels`."""
    session = setup.open_backend().open("transformer")
    session.run(setup.feeds())
    setup.engine.kernels = kernels
    session.close()


# What the library's module has.


@pytest.fixture(scope="module")
def names() -> Iterator[Any]:
    """name_checks.py imports TensorRT's bindings, which need stub libraries; its walk over the sources doesn't."""
    with mock.patch.dict("sys.modules", tensorrt=LIBRARY.load()):
        from tests.exporter.engines import name_checks

        yield name_checks


def test_rtx_names_all_exist(names: Any, trt: Any) -> None:
    existing, missing = names.checked_names(trt, (*names.SHARED, *names.RTX))
    assert missing == []
    assert len(existing) > 60, f"only {len(existing)} names were checked"


def test_rtx_enumerations_have_our_names(trt: Any) -> None:
    assert {row.tensorrt for row in DTYPES.values()} <= trt.DataType.__members__.keys()
    assert {target.upper() for target in TARGETS} - {"PORTABLE"} <= trt.ComputeCapability.__members__.keys()
    assert REASONS.keys() == trt.EngineInvalidityDiagnostics.__members__.keys()
    assert {"LAZY", "EAGER", "NONE"} == trt.DynamicShapesKernelSpecializationStrategy.__members__.keys()


def test_rtx_subclasses_override_real_methods(names: Any, trt: Any) -> None:
    for name, file in names.SUBCLASSED.items():
        tree = ast.parse((names.ROOT / file).read_text(encoding="utf-8"))
        (ours,) = (it for it in ast.walk(tree) if isinstance(it, ast.ClassDef) and f"trt.{name}" in map(ast.unparse, it.bases))
        methods = {it.name for it in ours.body if isinstance(it, ast.FunctionDef) and not it.name.startswith("_")}
        assert methods and all(callable(getattr(getattr(trt, name), method)) for method in methods), name


# Plans that the library refuses.


@pytest.mark.parametrize("name", REASONS)
def test_plan_that_the_library_refuses_is_not_loaded_and_the_reason_is_named(setup: EngineSetup, trt: Any, name: str) -> None:
    found = int(getattr(trt.EngineInvalidityDiagnostics, name))
    setup.runtime.instance.get_engine_validity.return_value = (trt.EngineValidity.INVALID, found)
    with pytest.raises(BackendError) as raised:
        setup.backend.open("transformer")
    expected = f"no tensorrt-rtx engine of transformer in fp16 may run here ({REASONS[name]}): run `omnigen2 build"
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    setup.runtime.instance.deserialize_cuda_engine.assert_not_called()


def test_plan_with_several_faults_or_an_unknown_one_names_them(setup: EngineSetup, trt: Any) -> None:
    diagnostics = trt.EngineInvalidityDiagnostics
    both = int(diagnostics.VERSION_MISMATCH) | int(diagnostics.UNSUPPORTED_CC)
    runtime = setup.runtime.instance
    named = f"{REASONS['VERSION_MISMATCH']}; {REASONS['UNSUPPORTED_CC']}"
    for found, text in [(both, named), (2**20, "the library calls it invalid: it gave no reason")]:
        runtime.get_engine_validity.return_value = (trt.EngineValidity.INVALID, found)
        assert text in str(LIBRARY.refusal(runtime, memoryview(b"plan of transformer")))


def test_library_gets_the_plans_header_alone(setup: EngineSetup, trt: Any) -> None:
    """A plan may have 8 GB."""
    setup.backend.open("transformer")
    setup.runtime.instance.get_engine_validity.assert_called_once_with(b"plan of transformer"[:8])


def test_plan_that_is_not_the_best_for_a_gpu_runs(setup: EngineSetup, trt: Any) -> None:
    setup.runtime.instance.get_engine_validity.return_value = (trt.EngineValidity.SUBOPTIMAL, 0)
    assert setup.run(setup.backend.open("transformer")) == 3.0


@pytest.mark.parametrize("plan", [b"", b"x" * 63, b"x" * 64, b"x" * 1000], ids=["empty", "cut", "header", "whole"])
def test_real_library_calls_bytes_that_are_no_plan_damaged(trt: Any, plan: bytes) -> None:
    runtime = trt.Runtime(make_log(trt))
    assert runtime.engine_header_size == 64
    assert LIBRARY.refusal(runtime, memoryview(plan)) == REASONS["MALFORMED_ENGINE"]
    take_errors(make_log(trt))


# GPUs.


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 0), False), ((7, 5), True), ((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), False), ((10, 0), False),
     ((12, 0), True), ((12, 1), True)],
)  # fmt: skip
def test_gpu_that_the_library_does_not_support_is_named(capability: tuple[int, int], runs: bool) -> None:
    with fake_cuda(FakeCuda(capability)):
        problem = LIBRARY.problem()
    if runs:
        assert problem is None
    else:
        assert f"this GPU has compute capability {capability[0]}.{capability[1]}" in str(problem)
        assert "take backend tensorrt or ort-cuda" in str(problem)


def test_gpu_that_cannot_be_asked_is_a_problem_and_no_error() -> None:
    double = FakeCuda((8, 9))
    double.fail_next = "cudaStreamCreateWithFlags"
    with fake_cuda(double):
        assert LIBRARY.problem() == "CUDA: cudaStreamCreateWithFlags failed: cudaErrorMemoryAllocation"


def test_gpu_that_the_library_does_not_support_opens_no_backend(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"compute capability 9\.0"):
        EngineSetup(tmp_path, library="tensorrt-rtx", capability=(9, 0))


def test_auto_asks_no_backend_behind_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking one loads its libraries."""
    asked: list[str] = []

    def problem(name: str, answer: str | None) -> Any:
        return lambda: asked.append(name) or answer

    for name, entry in list(backends.BACKENDS.items()):
        answer = None if name in ("ort-cpu", "tensorrt-rtx") else "not here"
        monkeypatch.setitem(backends.BACKENDS, name, mock.Mock(entry, problem=problem(name, answer)))
    assert backends.choose_backend("auto") == "ort-cpu"
    assert asked == ["ort-cuda", "openvino", "ort-cpu"]


# Contexts.


@pytest.mark.parametrize("specialization", ["lazy", "eager", "none"])
def test_contexts_are_made_with_the_runtime_configuration(tmp_path: Path, trt: Any, specialization: str) -> None:
    setup = EngineSetup(tmp_path, library="tensorrt-rtx", specialization=specialization)
    setup.run(setup.backend.open("transformer"))
    (config,) = setup.engine.runtime_configs
    assert config.allocation == trt.ExecutionContextAllocationStrategy.USER_MANAGED
    expected = getattr(trt.DynamicShapesKernelSpecializationStrategy, specialization.upper())
    assert config.double.dynamic_shapes_kernel_specialization_strategy == expected


def test_unknown_specialization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="specialization='soon' is not one of lazy, eager, none"):
        EngineSetup(tmp_path, library="tensorrt-rtx", specialization="soon")


def test_context_that_is_refused_is_an_error(setup: EngineSetup) -> None:
    session = setup.backend.open("transformer")
    setup.engine.double.create_execution_context.side_effect = None
    setup.engine.double.create_execution_context.return_value = None
    with pytest.raises(BackendError, match="it gave no execution context"):
        session.run(setup.feeds())


def test_repeated_shape_is_recorded_by_the_library_and_replayed_at_fixed_addresses(setup: EngineSetup) -> None:
    """The doubles assert that a recorded context isn't changed. The outputs of a replay are copies."""
    session = setup.backend.open("transformer")
    outputs = [session.run(setup.feeds(value=value))["hidden_states"] for value in (1.0, 2.0, 3.0, 4.0)]
    assert [float(setup.backend.to_host(tensor)[0, 0, 0]) for tensor in outputs] == [2.0, 4.0, 6.0, 8.0]
    plain, recorded = setup.engine.contexts
    assert (plain.records, plain.runs) == (False, 1)
    assert (recorded.records, recorded.runs) == (True, 3), "from the second run of the shape on"
    assert recorded.addresses["image_tokens"] not in {tensor.address for tensor in outputs}
    assert "cudaStreamBeginCapture" not in setup.cuda.calls and not setup.cuda.graphs


def test_other_shapes_do_not_touch_a_recorded_context(setup: EngineSetup) -> None:
    session = setup.backend.open("transformer")
    for tokens in (4, 4, 5, 5, 4, 5, 6, 4):
        assert setup.run(session, tokens=tokens, value=tokens / 2) == tokens
    assert [context.records for context in setup.engine.contexts] == [False, True, True]


def test_grown_scratch_drops_the_records(setup: EngineSetup) -> None:
    session = setup.backend.open("transformer")
    for references in (0, 0, 3):
        session.run(setup.feeds(references=references))
    assert [setup.run(session, references=0) for _ in range(2)] == [3.0, 3.0]
    assert [context.records for context in setup.engine.contexts] == [False, True, False, True]
    assert setup.engine.contexts[-1].scratch[1] == 5000


def test_component_that_runs_rarely_is_not_recorded(tmp_path: Path) -> None:
    setup = EngineSetup(tmp_path, library="tensorrt-rtx", components=("velocity_head",))
    session = setup.backend.open("velocity_head")
    for _ in range(3):
        session.run(setup.feeds())
    assert [context.records for context in setup.engine.contexts] == [False]


def test_weights_beyond_the_limit_stay_on_the_host_and_are_not_recorded(tmp_path: Path) -> None:
    setup = EngineSetup(tmp_path, library="tensorrt-rtx", streams_weights=True, limit=600, streamable=1000)
    session = setup.backend.open("transformer")
    assert setup.engine.double.weight_streaming_budget_v2 == 600
    assert [setup.run(session) for _ in range(3)] == [3.0] * 3
    assert [context.records for context in setup.engine.contexts] == [False]


def test_tensors_of_the_device_and_of_the_host_are_inputs(setup: EngineSetup) -> None:
    session = setup.backend.open("transformer")
    device = session.run(setup.feeds())["hidden_states"]
    references = setup.backend.to_device(np.zeros((1, 2, HIDDEN)), "float16")
    setup.cuda.copies.clear()
    again = session.run({"references": references, "image_tokens": device})
    assert setup.cuda.copies == []
    assert setup.cuda.streams == {FakeCuda.STREAM}
    assert np.all(setup.backend.to_host(again["hidden_states"]) == 6.0)


# Compiled kernels.


def test_compiled_kernels_are_kept_beside_the_engine_and_taken_by_the_next_process(setup: EngineSetup) -> None:
    run_once(setup, b"kernels of one shape")
    (file,) = kernel_files(setup)
    assert file.name.startswith(f"{setup.records['transformer'].name}.")
    setup.engine.kernels = b"no kernels"
    session = setup.open_backend().open("transformer")
    assert setup.engine.kernels == b"kernels of one shape"
    written = file.stat().st_mtime_ns, file.stat().st_ino
    session.close()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written, "nothing changed, nothing is written"
    run_once(setup, b"kernels of two shapes")
    assert file.read_bytes().endswith(b"kernels of two shapes") and kernel_files(setup) == [file]


def test_kernels_of_another_user_are_ignored(setup: EngineSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a program."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(kernel_cache, "user_cache", lambda: UserCache(Path("elsewhere"), b"another secret", None))
        run_once(setup, b"kernels of somebody else")
    assert kernel_files(setup)
    setup.engine.kernels = b"no kernels"
    setup.open_backend().open("transformer")
    assert setup.engine.kernels == b"no kernels"


@pytest.mark.parametrize("content", [b"", b"short", b"0" * 64, b"0" * 64 + b"kernels of one shape"])
def test_damaged_kernels_are_ignored_and_written_anew(setup: EngineSetup, content: bytes) -> None:
    run_once(setup, b"kernels of one shape")
    (file,) = kernel_files(setup)
    whole = file.read_bytes()
    file.write_bytes(content)
    setup.engine.kernels = b"no kernels"
    setup.open_backend().open("transformer")
    assert setup.engine.kernels == b"no kernels"
    run_once(setup, b"kernels of one shape")
    assert file.read_bytes() == whole


def test_kernels_that_the_library_refuses_are_compiled_again(setup: EngineSetup) -> None:
    run_once(setup, b"of an older library")
    run_once(setup, b"kernels of one shape")
    (file,) = kernel_files(setup)
    assert file.read_bytes().endswith(b"kernels of one shape")


def test_kernels_of_another_gpu_or_driver_have_their_own_file(setup: EngineSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    run_once(setup, b"kernels of 8.9")
    setup.cuda.capability = (12, 0)
    run_once(setup, b"kernels of 12.0")
    monkeypatch.setattr("omnigen2_rt.runtime.backends.tensorrt.cuda.driver_version", lambda path: "999.1")
    run_once(setup, b"kernels of another driver")
    assert sorted(file.read_bytes()[64:] for file in kernel_files(setup)) == [
        b"kernels of 12.0", b"kernels of 8.9", b"kernels of another driver",
    ]  # fmt: skip


def test_folder_that_cannot_be_written_is_no_error(setup: EngineSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(kernel_cache, "write_whole", refuse)
    run_once(setup, b"kernels of one shape")
    assert kernel_files(setup) == []


def test_prune_removes_kernels_with_their_engine(setup: EngineSetup) -> None:
    run_once(setup, b"kernels of one shape")
    (file,) = kernel_files(setup)
    assert prune(setup.bundle.path, lambda record: True) == ([], 0)
    removed, _ = prune(setup.bundle.path, lambda record: False)
    name = setup.records["transformer"].name
    assert sorted(removed) == sorted([f"{name}.json", f"{name}.plan", file.name])
    assert not [entry for entry in os.listdir(setup.bundle.path / FOLDER) if not entry.endswith(".lock")]
