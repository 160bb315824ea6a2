"""A worker that runs our pipeline, or OpenVINO alone with our transformer's graph, for `against_original.py`.

    python benchmarks/our_worker.py '{"bundle": …, "backend": …, "precision": …, "threads": …, "bare": false}'
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from turns import Turns

import omnigen2_rt as og
from omnigen2_rt.commands.describe import installed_version
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import Pipeline

PACKAGES = ("omnigen2-rt", "onnxruntime", "openvino", "numpy")


class TransformerProbe:
    """Wraps a pipeline's sessions to time the transformer and record its latest inputs by their shapes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.seconds = 0.0
        self.feeds: dict[tuple[tuple[int, ...], ...], dict[str, np.ndarray]] = {}
        self.records_feeds = False
        self._pipeline = pipeline
        self._run = pipeline.components.sessions.run
        pipeline.components.sessions.run = self.run  # type: ignore[method-assign]

    def run(self, component: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces `Sessions.run`."""
        if component == "transformer" and self.records_feeds:
            arrays = {name: self._to_host(value) for name, value in feeds.items()}
            self.feeds[tuple(array.shape for array in arrays.values())] = arrays
        started = time.perf_counter()
        outputs = self._run(component, feeds)
        if component == "transformer":
            self.seconds += time.perf_counter() - started
        return outputs

    def _to_host(self, value: Any) -> np.ndarray:
        return value if isinstance(value, np.ndarray) else self._pipeline.backend.to_host(value)


def draw(pipeline: Pipeline, probe: TransformerProbe, job: dict[str, Any], turns: Turns) -> dict[str, Any]:
    """One drawing, one step per turn. job: see `against_original.Job.message`."""
    pipeline.prompt_encoder.forget()  # the original encodes its prompts every time
    probe.seconds = 0.0
    result = pipeline.generate(request(job), on_step=lambda step: turns.end_step())
    np.save(job["latents"], result.latents)
    return {"transformer_s": probe.seconds, "stages_s": result.timings}


def request(job: dict[str, Any]) -> og.Request:
    return og.Request(
        prompt=job["prompt"],
        images=tuple(job["images"]),
        height_px=job["size_px"],
        width_px=job["size_px"],
        steps=job["steps"],
        text_guidance=job["text_guidance"],
        image_guidance=job["image_guidance"],
        latents=np.load(job["noise"]),
        cache=og.TaylorSeer() if job["taylorseer"] else None,
    )


class BareOpenVINO:
    """The transformer's graph in OpenVINO with its own defaults, on the inputs of a drawing's first step."""

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        import openvino

        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision)}
        options = {**hints, "INFERENCE_NUM_THREADS": threads}
        file = bundle.graph("transformer", "fp32").inlined
        assert file is not None
        self.compiled = openvino.Core().compile_model(bundle.path / file, "CPU", options)

    def draw(self, pipeline: Pipeline, probe: TransformerProbe, job: dict[str, Any], turns: Turns) -> dict[str, Any]:
        """The job's steps, with one run for each guidance branch."""
        probe.feeds.clear()
        probe.records_feeds = True
        pipeline.generate(request({**job, "steps": 1}))
        probe.records_feeds = False
        turns.end_step()  # excludes the recording from the graph's time
        requests = []
        for feeds in probe.feeds.values():
            requests.append(self.compiled.create_infer_request())
            for name, array in feeds.items():
                requests[-1].set_tensor(name, _tensor(array))
        seconds = 0.0
        for _ in range(job["steps"]):
            started = time.perf_counter()
            for infer_request in requests:
                infer_request.infer()
            seconds += time.perf_counter() - started
            turns.end_step()
        return {"transformer_s": seconds}


def _tensor(array: np.ndarray) -> Any:
    import openvino

    return openvino.Tensor(np.ascontiguousarray(array))


def main() -> None:
    settings = json.loads(sys.argv[1])
    bundle, backend, precision, threads = (settings[key] for key in ("bundle", "backend", "precision", "threads"))
    turns = Turns()
    with og.load(bundle, backend=backend, precision=precision, threads=threads) as pipeline:
        probe = TransformerProbe(pipeline)
        run = BareOpenVINO(pipeline.bundle, precision, threads).draw if settings["bare"] else draw
        turns.introduce({"versions": {package: installed_version(package) for package in PACKAGES}})
        for job in turns.jobs():
            turns.end_job(run(pipeline, probe, job, turns))


if __name__ == "__main__":
    main()
