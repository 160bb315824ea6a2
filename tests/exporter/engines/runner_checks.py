"""Running engines on doubles of TensorRT and CUDA. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.exporter.engines.runner_checks CHECK
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np

from omnigen2_rt.runtime.backends.tensorrt.cuda import DeviceTensor
from omnigen2_rt.runtime.backends.tensorrt.library import make_log, take_errors
from tests.exporter.engines.engine_setup import engine_setup, fails
from tests.exporter.engines.fake_cuda import FakeCuda
from tests.exporter.engines.small_bundle import HIDDEN


def run_computes_on_one_stream_and_tensors_stay_on_the_device() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        device = session.run(setup.feeds())["hidden_states"]
        setup.cuda.copies.clear()
        again = session.run({"references": setup.backend.to_device(np.zeros((1, 2, HIDDEN)), "float16"), "image_tokens": device})
        assert [kind for kind, *_ in setup.cuda.copies] == ["cudaMemcpyHostToDevice"], "the test's own upload"
        assert np.all(setup.backend.to_host(again["hidden_states"]) == 6.0)
        assert setup.backend.to_host(again["hidden_states"]).dtype == np.float16
        assert setup.cuda.streams == {FakeCuda.STREAM}
        assert set(setup.engine.executed) == {FakeCuda.STREAM}


def keys_and_values_go_from_run_to_run_by_address() -> None:
    """Without a copy on host or device: one run's present is bound as the next run's past, and the old one stays valid."""
    with engine_setup(components=("language_model",)) as setup:
        session = setup.backend.open("language_model")
        prompt = {"past": np.zeros((1, 1, 0, 2)), "new": np.arange(6).reshape(1, 1, 3, 2)}
        present = session.run(prompt)["present"]
        for token in range(2):
            new = setup.backend.to_device(np.full((1, 1, 1, 2), 10 + token), "float16")
            setup.cuda.copies.clear()
            grown = session.run({"past": present, "new": new})["present"]
            assert setup.cuda.copies == []
            context = setup.engine.contexts[-1]
            assert context.addresses["past"] == present.address
            assert context.addresses["present"] == grown.address != present.address
            assert grown.shape == (1, 1, 4 + token, 2)
            before, present = present, grown
        assert setup.backend.to_host(before).shape == (1, 1, 4, 2)
        assert setup.backend.to_host(present)[0, 0, :, 0].tolist() == [0, 2, 4, 10, 11]
        assert len(setup.engine.contexts) == 2, "a prompt's and a token's profile"


def run_picks_the_profile_that_fits() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        session.run(setup.feeds(references=0))
        session.run(setup.feeds(references=3))
        assert [context.profile for context in setup.engine.contexts] == [0, 1]
        with fails("was not built for"):
            session.run(setup.feeds(tokens=10))


def run_of_an_empty_tensor_has_an_address() -> None:
    with engine_setup() as setup:
        setup.backend.open("transformer").run(setup.feeds(references=0))
        assert setup.engine.contexts[0].addresses["references"]


def inconsistent_shapes_are_a_backend_error() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        session.run(setup.feeds())
        setup.engine.contexts[0].double.infer_shapes.side_effect = RuntimeError("infer_shapes error code: -1")
        with fails("don't go together"):
            session.run(setup.feeds(tokens=5))


def scratch_is_shared_and_grows_for_the_larger_profile() -> None:
    with engine_setup(components=("transformer", "velocity_head")) as setup:
        transformer, head = setup.backend.open("transformer"), setup.backend.open("velocity_head")
        transformer.run(setup.feeds(references=0))
        assert setup.engine.contexts[0].scratch[1] == 1000
        head.run(setup.feeds(references=3))
        transformer.run(setup.feeds(references=0, tokens=5))
        (context,) = setup.engine.contexts
        assert context.scratch == setup.engines["velocity_head"].contexts[0].scratch
        assert context.scratch[1] == 5000, "the small profile uses the large scratch"


def repeated_shape_becomes_a_cuda_graph() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        assert [setup.run(session, value=value) for value in (1.0, 2.0, 3.0, 4.0)] == [2.0, 4.0, 6.0, 8.0]
        assert setup.cuda.calls.count("cudaGraphInstantiate") == 1, "at the second run of the shape"
        assert setup.cuda.calls.count("cudaGraphLaunch") == 2
        assert len(setup.engine.executed) == 3, "two plain runs and the capture"


def captured_graph_has_its_own_context_that_other_shapes_do_not_change() -> None:
    """The doubles assert that a captured context isn't changed: a graph holds its state."""
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        for tokens in (4, 4, 5, 5, 4, 5, 6, 4):
            assert setup.run(session, tokens=tokens, value=tokens / 2) == tokens
        assert setup.cuda.calls.count("cudaGraphInstantiate") == 2
        assert setup.cuda.calls.count("cudaGraphLaunch") == 3
        assert len(setup.engine.contexts) == 3, "one for plain runs, one for each captured shape"


def outputs_of_a_captured_graph_are_not_shared() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        outputs = [session.run(setup.feeds(value=value))["hidden_states"] for value in (1.0, 2.0, 3.0, 4.0)]
        assert [float(setup.backend.to_host(tensor)[0, 0, 0]) for tensor in outputs] == [2.0, 4.0, 6.0, 8.0]


def components_that_run_rarely_are_not_captured() -> None:
    with engine_setup(components=("velocity_head",)) as setup:
        session = setup.backend.open("velocity_head")
        for _ in range(3):
            session.run(setup.feeds())
        assert "cudaStreamBeginCapture" not in setup.cuda.calls


def captures_beyond_the_limit_are_dropped() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        with mock.patch("omnigen2_rt.runtime.backends.tensorrt.cuda_graphs.MOST_CAPTURES", 2):
            for tokens in (4, 5, 6):
                assert [setup.run(session, tokens=tokens) for _ in range(2)] == [3.0, 3.0]
        assert setup.cuda.calls.count("cudaGraphExecDestroy") == 2
        assert setup.run(session, tokens=4) == 3.0


def grown_scratch_drops_the_captures() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        for references in (0, 0, 3):
            session.run(setup.feeds(references=references))
        assert setup.cuda.calls.count("cudaGraphExecDestroy") == 1
        assert setup.run(session, references=0) == 3.0


def engine_that_cannot_be_captured_still_runs() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        setup.engine.uncapturable = True
        assert [setup.run(session, value=value) for value in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
        assert "the test says no" in session.capture_problem
        assert setup.cuda.calls.count("cudaStreamBeginCapture") == 1
        assert not setup.cuda.graphs


def memory_freed_while_capturing_is_freed_afterwards() -> None:
    """Python may free a tensor at any time; CUDA refuses to free it in a captured stream, and the double asserts that."""
    with engine_setup() as setup:
        device, tensors = setup.backend.device, [DeviceTensor(setup.backend.device, (4,), "float32")]
        address = tensors[0].address
        executable = device.capture(tensors.clear)
        assert address not in setup.cuda.memory
        device.discard(executable)


def failed_run_reports_what_tensorrt_recorded() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        setup.engine.fails = True
        with fails("it did not run (the test says no)"):
            session.run(setup.feeds())
        log = make_log(setup.trt)
        assert take_errors(log) == "it gave no reason", "an error is reported once"
        assert setup.engine.log is log


def failed_allocation_is_a_backend_error() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        setup.cuda.fail_next = "cudaMallocAsync"
        with fails("cudaMallocAsync failed: cudaErrorMemoryAllocation"):
            session.run(setup.feeds())


def wrong_feeds_are_refused() -> None:
    with engine_setup() as setup:
        session = setup.backend.open("transformer")
        with fails("missing or unknown: ['references']"):
            session.run({"image_tokens": np.zeros((1, 4, HIDDEN))})
        with fails("takes image_tokens of shape ('batch', 'image_tokens', 32) in float16"):
            session.run({**setup.feeds(), "image_tokens": setup.backend.to_device(np.zeros((1, 4, HIDDEN)), "float32")})


def bfloat16_goes_in_and_out() -> None:
    with engine_setup() as setup:
        tensor = setup.backend.to_device(np.array([1.5, -2.0]), "bfloat16")
        assert tensor.nbytes == 4
        assert setup.backend.to_host(tensor).astype(np.float32).tolist() == [1.5, -2.0]


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
