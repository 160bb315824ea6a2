"""Running engines on doubles of TensorRT and CUDA. Run by `test_tensorrt.py` where `import tensorrt` works.

python -m tests.engines.runner_checks CHECK
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np

from omnigen2_rt.runtime.backends.tensorrt.cuda import DeviceTensor
from omnigen2_rt.runtime.backends.tensorrt.library import take_errors
from tests.exporter.engines.fake_cuda import FakeCuda
from tests.exporter.engines.made_bundle import HIDDEN
from tests.exporter.engines.runner_world import fails, world


def run_computes_on_one_stream_and_tensors_stay_on_the_device() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        device = session.run(w.feeds())["hidden_states"]
        w.cuda.copies.clear()
        again = session.run({"references": w.backend.to_device(np.zeros((1, 2, HIDDEN)), "float16"), "image_tokens": device})
        assert [kind for kind, *_ in w.cuda.copies] == ["cudaMemcpyHostToDevice"], "the test's own upload"
        assert np.all(w.backend.to_host(again["hidden_states"]) == 6.0)
        assert w.backend.to_host(again["hidden_states"]).dtype == np.float16
        assert w.cuda.streams == {FakeCuda.STREAM}
        assert set(w.engine.executed) == {FakeCuda.STREAM}


def keys_and_values_go_from_run_to_run_by_address() -> None:
    """No copy on the host or the device: the present of one run is bound as the past of the next; the old one stays whole."""
    with world(components=("language_model",)) as w:
        session = w.backend.open("language_model")
        prompt = {"past": np.zeros((1, 1, 0, 2)), "new": np.arange(6).reshape(1, 1, 3, 2)}
        present = session.run(prompt)["present"]
        for token in range(2):
            new = w.backend.to_device(np.full((1, 1, 1, 2), 10 + token), "float16")
            w.cuda.copies.clear()
            grown = session.run({"past": present, "new": new})["present"]
            assert w.cuda.copies == []
            context = w.engine.contexts[-1]
            assert context.addresses["past"] == present.address
            assert context.addresses["present"] == grown.address != present.address
            assert grown.shape == (1, 1, 4 + token, 2)
            before, present = present, grown
        assert w.backend.to_host(before).shape == (1, 1, 4, 2)
        assert w.backend.to_host(present)[0, 0, :, 0].tolist() == [0, 2, 4, 10, 11]
        assert len(w.engine.contexts) == 2, "a prompt's and a token's profile"


def run_picks_the_profile_that_fits() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        session.run(w.feeds(references=0))
        session.run(w.feeds(references=3))
        assert [context.profile for context in w.engine.contexts] == [0, 1]
        with fails("was not built for"):
            session.run(w.feeds(tokens=10))


def run_of_an_empty_tensor_has_an_address() -> None:
    with world() as w:
        w.backend.open("transformer").run(w.feeds(references=0))
        assert w.engine.contexts[0].addresses["references"]


def shapes_that_do_not_go_together_are_a_backend_error() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        session.run(w.feeds())
        w.engine.contexts[0].double.infer_shapes.side_effect = RuntimeError("infer_shapes error code: -1")
        with fails("don't go together"):
            session.run(w.feeds(tokens=5))


def scratch_is_shared_and_grows_for_the_larger_profile() -> None:
    with world(components=("transformer", "velocity_head")) as w:
        transformer, head = w.backend.open("transformer"), w.backend.open("velocity_head")
        transformer.run(w.feeds(references=0))
        assert w.engine.contexts[0].scratch[1] == 1000
        head.run(w.feeds(references=3))
        transformer.run(w.feeds(references=0, tokens=5))
        (context,) = w.engine.contexts
        assert context.scratch == w.engines["velocity_head"].contexts[0].scratch
        assert context.scratch[1] == 5000, "the small profile uses the large scratch"


def shape_that_comes_back_becomes_a_cuda_graph() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        assert [w.run(session, value=value) for value in (1.0, 2.0, 3.0, 4.0)] == [2.0, 4.0, 6.0, 8.0]
        assert w.cuda.calls.count("cudaGraphInstantiate") == 1, "at the second run of the shape"
        assert w.cuda.calls.count("cudaGraphLaunch") == 2
        assert len(w.engine.executed) == 3, "two plain runs and the capture"


def captured_graph_has_its_own_context_that_other_shapes_leave_alone() -> None:
    """The doubles assert that a captured context isn't touched: a graph holds its state."""
    with world() as w:
        session = w.backend.open("transformer")
        for tokens in (4, 4, 5, 5, 4, 5, 6, 4):
            assert w.run(session, tokens=tokens, value=tokens / 2) == tokens
        assert w.cuda.calls.count("cudaGraphInstantiate") == 2
        assert w.cuda.calls.count("cudaGraphLaunch") == 3
        assert len(w.engine.contexts) == 3, "one for plain runs, one for each captured shape"


def outputs_of_a_captured_graph_are_not_shared() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        kept = [session.run(w.feeds(value=value))["hidden_states"] for value in (1.0, 2.0, 3.0, 4.0)]
        assert [float(w.backend.to_host(tensor)[0, 0, 0]) for tensor in kept] == [2.0, 4.0, 6.0, 8.0]


def components_that_run_rarely_are_not_captured() -> None:
    with world(components=("velocity_head",)) as w:
        session = w.backend.open("velocity_head")
        for _ in range(3):
            session.run(w.feeds())
        assert "cudaStreamBeginCapture" not in w.cuda.calls


def more_shapes_than_are_kept_drop_the_captures() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        with mock.patch("omnigen2_rt.runtime.backends.tensorrt.captures.MOST_CAPTURES", 2):
            for tokens in (4, 5, 6):
                assert [w.run(session, tokens=tokens) for _ in range(2)] == [3.0, 3.0]
        assert w.cuda.calls.count("cudaGraphExecDestroy") == 2
        assert w.run(session, tokens=4) == 3.0


def grown_scratch_drops_the_captures() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        for references in (0, 0, 3):
            session.run(w.feeds(references=references))
        assert w.cuda.calls.count("cudaGraphExecDestroy") == 1
        assert w.run(session, references=0) == 3.0


def engine_that_can_not_be_captured_goes_on_without() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        w.engine.uncapturable = True
        assert [w.run(session, value=value) for value in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
        assert "the test says no" in session.capture_problem
        assert w.cuda.calls.count("cudaStreamBeginCapture") == 1
        assert not w.cuda.graphs


def memory_freed_while_capturing_is_freed_afterwards() -> None:
    """Python may free any tensor at any time; CUDA refuses to free it in a captured stream (the double asserts that)."""
    with world() as w:
        device, kept = w.backend.device, [DeviceTensor(w.backend.device, (4,), "float32")]
        address = kept[0].address
        executable = device.capture(kept.clear)
        assert address not in w.cuda.memory
        device.discard(executable)


def failed_run_tells_what_tensorrt_recorded() -> None:
    with world() as w:
        session = w.backend.open("transformer")
        w.engine.fails = True
        with fails("it did not run (the test says no)"):
            session.run(w.feeds())
        recorder = w.runtime.made.error_recorder
        assert take_errors(recorder) == "it gave no reason"
        assert w.engine.double.error_recorder is w.engine.contexts[0].double.error_recorder is recorder


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


def main() -> None:
    globals()[sys.argv[1]]()


if __name__ == "__main__":
    main()
