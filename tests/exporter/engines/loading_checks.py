"""Loading engines and freeing them, on doubles of TensorRT and CUDA. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.exporter.engines.loading_checks CHECK
"""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import tensorrt as trt

from omnigen2_rt.runtime.backends.sessions import Sessions
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES, records
from omnigen2_rt.runtime.backends.tensorrt import backend as tensorrt
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.files.user_cache import UserCache
from tests.exporter.engines.engine_setup import engine_setup, fails
from tests.exporter.engines.fake_tensorrt import TRANSFORMER


def engine_of_other_types_or_places_is_refused() -> None:
    with engine_setup(plans={"transformer": replace(TRANSFORMER, dtype="float32")}) as setup:
        with fails("has references in FLOAT, not float16: build it again"):
            setup.backend.open("transformer")
    with engine_setup() as setup:
        setup.engine.double.get_tensor_location.return_value = trt.TensorLocation.HOST
        with fails("wants references in host memory"):
            setup.backend.open("transformer")


def components_are_freed_under_a_memory_limit() -> None:
    """A component takes 1,000 bytes, so 1,500 keep one open. TensorRT's contexts are freed after the work that uses them."""
    with engine_setup(components=("transformer", "velocity_head")) as setup:
        sessions = Sessions(setup.bundle, setup.backend, 1500)
        for component in ("transformer", "velocity_head", "transformer"):
            hidden = sessions.run(component, setup.feeds())["hidden_states"]
            assert sessions.open_components == (component,)
        assert setup.runtime.instance.deserialize_cuda_engine.call_count == 3
        setup.cuda.calls.clear()
        sessions.close()
        gc.collect()
        assert setup.cuda.calls[0] == "cudaStreamSynchronize"
        assert set(setup.cuda.memory) == {hidden.address, setup.backend.scratch.reserve(0).address}
        address = hidden.address
        del hidden
        assert address not in setup.cuda.memory


def plan_is_hashed_once_for_several_opens() -> None:
    with engine_setup() as setup:
        with mock.patch.object(tensorrt, "find_engine", side_effect=tensorrt.find_engine) as find:
            for _ in range(3):
                setup.backend.open("transformer")
        assert find.call_count == 1


def closed_session_frees_its_captures() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        for _ in range(3):
            session.run(setup.feeds())
        session.close()
        assert not setup.cuda.graphs
        assert set(setup.cuda.memory) == {setup.backend.scratch.reserve(0).address}
        assert setup.run(session) == 3.0, "it can be used again"


def freed_memory_stays_in_the_pool_until_an_engine_is_loaded() -> None:
    with engine_setup() as setup:
        assert setup.cuda.kept_bytes == 2**64 - 1
        assert "cudaMemPoolTrimTo" not in setup.cuda.calls
        calls_before = []

        def load(plan: memoryview) -> Any:
            calls_before.extend(setup.cuda.calls[-2:])
            return setup.engine.double

        setup.runtime.instance.deserialize_cuda_engine.side_effect = load
        setup.backend.open("transformer")
        assert calls_before == ["cudaStreamSynchronize", "cudaMemPoolTrimTo"]
        assert setup.backend.device.memory_bytes() == (30 * 10**9, 40 * 10**9)


def weights_beyond_the_limit_stay_on_the_host_and_are_not_captured() -> None:
    with engine_setup(streams_weights=True, limit=600, streamable=1000) as setup:
        session = setup.backend.open("transformer")
        assert setup.engine.double.weight_streaming_budget_v2 == 600
        setup.engine.double.create_execution_context.assert_not_called()
        for _ in range(3):
            session.run(setup.feeds())
        assert "cudaStreamBeginCapture" not in setup.cuda.calls, "TensorRT: an engine that streams weights can't be captured"


def weights_within_the_limit_are_not_streamed() -> None:
    with engine_setup(streams_weights=True, limit=1000, streamable=1000) as setup:
        session = setup.backend.open("transformer")
        for _ in range(2):
            session.run(setup.feeds())
        assert setup.engine.double.weight_streaming_budget_v2 == 1000
        assert "cudaStreamBeginCapture" in setup.cuda.calls


def weights_beyond_the_limit_without_streaming_are_an_error() -> None:
    with engine_setup(streams_weights=True, limit=600) as setup:
        with fails("run `omnigen2 build --weight-streaming`, or raise the limit"):
            setup.backend.open("transformer")


def refused_streaming_budget_is_an_error() -> None:
    with engine_setup(streams_weights=True, limit=600, streamable=1000) as setup:
        budget = mock.PropertyMock(return_value=1000)
        type(setup.engine.double).weight_streaming_budget_v2 = budget
        with fails("TensorRT refused a budget of 600 bytes"):
            setup.backend.open("transformer")
        assert mock.call(600) in budget.call_args_list


def version_compatible_engine_allows_its_own_code() -> None:
    with engine_setup(version_compatible=True) as setup:
        setup.backend.open("transformer")
        assert setup.runtime.instance.engine_host_code_allowed is True


def engine_of_another_user_is_not_loaded_and_runs_no_code() -> None:
    """A record's own word let host code run."""
    other = UserCache(Path("elsewhere"), b"another secret", None)
    with engine_setup(version_compatible=True) as setup, mock.patch.object(records, "user_cache", lambda: other):
        with fails("this user did not build it"):
            setup.backend.open("transformer")
        assert setup.runtime.instance.engine_host_code_allowed is not True
        setup.runtime.instance.deserialize_cuda_engine.assert_not_called()
        setup.backend._trust_engines = True  # as `load(…, trust_engines=True)` opens it
        setup.backend.open("transformer")
        assert setup.runtime.instance.engine_host_code_allowed is True


def engine_that_needs_no_host_code_is_not_allowed_any() -> None:
    with engine_setup() as setup:
        setup.backend.open("transformer")
        assert setup.runtime.instance.engine_host_code_allowed is False


def stripped_plan_gets_its_weights_from_the_graph() -> None:
    with engine_setup(strip_plan=True) as setup:
        refitter = mock.create_autospec(trt.Refitter, instance=True)
        parser = mock.create_autospec(trt.OnnxParserRefitter, instance=True)
        parser.refit_from_file.return_value = True
        refitter.refit_cuda_engine.return_value = True
        with mock.patch.object(trt, "Refitter", lambda engine, logger: refitter):
            with mock.patch.object(trt, "OnnxParserRefitter", lambda refitter, logger: parser):
                setup.backend.open("transformer")
                parser.refit_from_file.assert_called_once_with(str(setup.bundle.path / "transformer.fp16.onnx"))
                setup.engine.double.create_execution_context.assert_not_called()
                parser.refit_from_file.return_value = False
                parser_error = mock.create_autospec(trt.ParserError, instance=True)
                parser_error.node.return_value = -1
                parser_error.desc.return_value = "Only successfully refitted 1 weights out of 2"
                parser.num_errors = 1
                parser.get_error.return_value = parser_error
                with fails("its weights from transformer.fp16.onnx: Only successfully refitted 1"):
                    setup.backend.open("transformer")


def engine_that_does_not_load_is_an_error() -> None:
    with engine_setup() as setup:
        setup.runtime.instance.deserialize_cuda_engine.side_effect = None
        setup.runtime.instance.deserialize_cuda_engine.return_value = None
        with fails("TensorRT can't load transformer.fp16."):
            setup.backend.open("transformer")


def profiles_are_those_of_the_record() -> None:
    with engine_setup() as setup:
        assert setup.backend.profiles("transformer")["text"]["image_tokens"][2] == [1, 9, 32]


def machine_without_parts_names_every_one() -> None:
    def missing() -> Any:
        raise BackendError("cuda-bindings is not installed")

    with mock.patch.object(tensorrt_library, "import_cudart", missing), mock.patch.object(trt, "__version__", "10.14.1"):
        message = LIBRARIES["tensorrt"].problem()
    upgrade = 'pip install --upgrade "omnigen2-rt[tensorrt]"'
    assert message == f"TensorRT 10.14.1 is older than 10.15: {upgrade}; cuda-bindings is not installed"


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
