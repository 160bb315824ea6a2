"""The runner against doubles of TensorRT and CUDA. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.engines.runner_checks CHECK
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import tensorrt as trt

from omnigen2_rt.exporter.engine_cache import store_engine
from omnigen2_rt.runtime.backends import BACKENDS, cuda, tensorrt
from omnigen2_rt.runtime.backends.engines import make_key
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.sessions import Sessions
from tests.engines.fake_cuda import FakeCuda
from tests.engines.fake_tensorrt import Engine, fake_runtime
from tests.engines.made_bundle import HIDDEN, make_bundle


class World:
    """A bundle with one stored engine, fake CUDA, a fake engine and the backend on them."""

    def __init__(self, folder: Path, streams_weights: bool = False, **options: object) -> None:
        self.cuda = FakeCuda()
        self.engine = Engine(self.cuda)
        self.bundle = make_bundle(folder / "bundle")
        self.runtime = fake_runtime(self.engine)
        with mock.patch.object(cuda, "import_cudart", lambda: self.cuda):
            with mock.patch.object(tensorrt, "import_cudart", lambda: self.cuda):
                with mock.patch.object(trt, "Runtime", self.runtime):
                    machine = tensorrt.this_machine()
                    graph = self.bundle.graph("transformer", "fp16")
                    key = make_key(self.bundle, graph, machine, rope="plugin", profiles=[], options=options)
                    store_engine(self.bundle.path, key, b"plan", {})
                    self.backend = BACKENDS["tensorrt"].create(self.bundle, "fp16", None, streams_weights)
        self.engine.recorder = self.runtime.made.error_recorder

    def feeds(self, tokens: int = 4, references: int = 0, value: float = 1.5) -> dict[str, np.ndarray]:
        return {
            "references": np.zeros((1, references, HIDDEN), np.float32),
            "image_tokens": np.full((1, tokens, HIDDEN), value, np.float32),
        }


@contextmanager
def world(streams_weights: bool = False, **options: object) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        yield World(Path(folder), streams_weights, **options)


@contextmanager
def fails(text: str) -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        assert text in str(error), str(error)
        return
    raise AssertionError(f"no error about {text!r}")


def run_computes_on_one_stream_and_tensors_stay_on_the_device() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        outputs = session.run(w.feeds())
        device = outputs["hidden_states"]
        again = session.run({**w.feeds(), "image_tokens": device})["hidden_states"]
        assert np.all(w.backend.to_host(again) == 6.0)
        assert w.backend.to_host(again).dtype == np.float16
        assert w.cuda.streams == {FakeCuda.STREAM}
        assert set(w.engine.executed) == {FakeCuda.STREAM}
        w.runtime.made.deserialize_cuda_engine.assert_called_once_with(b"plan")


def run_picks_the_profile_that_fits() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        session.run(w.feeds(references=0))
        session.run(w.feeds(references=3))
        chosen = [context.set_optimization_profile_async.call_args.args for context in w.engine.contexts]
        assert chosen == [(0, FakeCuda.STREAM), (1, FakeCuda.STREAM)]
        with fails("was not built for"):
            session.run(w.feeds(tokens=10))


def run_of_an_empty_tensor_has_an_address() -> None:
    with world() as w:
        w.backend.open("transformer").run(w.feeds(references=0))
        given = dict(call.args for call in w.engine.contexts[0].set_tensor_address.call_args_list)
        assert given["references"]


def scratch_is_shared_and_grows_for_the_larger_profile() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        session.run(w.feeds(references=0))
        session.run(w.feeds(references=3))
        session.run(w.feeds(references=0))
        sizes = {size for _, size in w.engine.scratch}
        assert sizes == {1000, 5000}
        assert w.engine.scratch[-1] == (w.engine.scratch[-1][0], 5000), "the small profile uses the large scratch"


def transformer_becomes_a_cuda_graph_per_shape() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        for value in (1.0, 2.0, 3.0):
            hidden = session.run(w.feeds(value=value))["hidden_states"]
            assert np.all(w.backend.to_host(hidden) == 2 * value)
        assert w.cuda.calls.count("cudaGraphLaunch") == 2, "the first run is plain, and captured after it"
        assert len(w.engine.executed) == 2
        session.run(w.feeds(tokens=5))
        assert w.cuda.calls.count("cudaGraphInstantiate") == 2
        kept = [session.run(w.feeds(value=value))["hidden_states"] for value in (4.0, 5.0)]
        assert [float(w.backend.to_host(tensor)[0, 0, 0]) for tensor in kept] == [8.0, 10.0], "outputs are not shared"


def grown_scratch_drops_the_captures() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        session.run(w.feeds(references=0))
        session.run(w.feeds(references=3))
        assert w.cuda.calls.count("cudaGraphExecDestroy") == 1
        assert np.all(w.backend.to_host(session.run(w.feeds(references=0))["hidden_states"]) == 3.0)


def failed_run_tells_what_tensorrt_recorded() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        w.engine.fails = True
        with fails("it did not run (the test says no)"):
            session.run(w.feeds())
        assert w.backend.take_errors() == "it gave no reason"


def failed_allocation_is_a_backend_error() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        w.cuda.fail_next = "cudaMallocAsync"
        with fails("cudaMallocAsync failed: cudaErrorMemoryAllocation"):
            session.run(w.feeds())


def wrong_feeds_are_refused() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        with fails("missing or unknown: ['references']"):
            session.run({"image_tokens": np.zeros((1, 4, HIDDEN))})
        with fails("takes image_tokens of shape ('batch', 'image_tokens', 32) in float16"):
            session.run({**w.feeds(), "image_tokens": w.backend.to_device(np.zeros((1, 4, HIDDEN)), "float32")})


def bfloat16_goes_in_and_out() -> None:
    with world() as w:
        tensor = w.backend.to_device(np.array([1.5, -2.0]), "bfloat16")
        assert tensor.nbytes == 4
        assert w.backend.to_host(tensor).astype(np.float32).tolist() == [1.5, -2.0]


def memory_is_freed_with_the_last_reference() -> None:
    with world() as w:
        sessions = Sessions(w.bundle, w.backend, 500)
        hidden = sessions.run("transformer", w.feeds())["hidden_states"]
        sessions.close()
        assert set(w.cuda.memory) == {hidden.address, w.backend.scratch(0).address}
        address = hidden.address
        del hidden
        assert address not in w.cuda.memory
        assert not w.cuda.graphs


def weight_streaming_budget_is_set_before_contexts() -> None:
    with world(streams_weights=True) as w:
        w.backend.open("transformer")
        assert w.engine.double.weight_streaming_budget_v2 == 40
        w.engine.double.create_execution_context.assert_not_called()


def version_compatible_engine_allows_its_own_code() -> None:
    with world(version_compatible=True) as w:
        w.backend.open("transformer")
        assert w.runtime.made.engine_host_code_allowed is True


def stripped_plan_gets_its_weights_from_the_graph() -> None:
    with world(strip_plan=True) as w:
        refitter = mock.create_autospec(trt.Refitter, instance=True)
        parser = mock.create_autospec(trt.OnnxParserRefitter, instance=True)
        parser.refit_from_file.return_value = True
        refitter.refit_cuda_engine.return_value = True
        with mock.patch.object(trt, "Refitter", lambda engine, logger: refitter):
            with mock.patch.object(trt, "OnnxParserRefitter", lambda made, logger: parser):
                w.backend.open("transformer")
                parser.refit_from_file.assert_called_once_with(str(w.bundle.path / "transformer.fp16.onnx"))
                parser.refit_from_file.return_value = False
                with fails("can't give transformer.fp16"):
                    w.backend.open("transformer")


def engine_that_does_not_load_is_an_error() -> None:
    with world() as w:
        w.runtime.made.deserialize_cuda_engine.side_effect = None
        w.runtime.made.deserialize_cuda_engine.return_value = None
        with fails("TensorRT can't load transformer.fp16."):
            w.backend.open("transformer")


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
