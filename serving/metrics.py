"""The server's figures for Prometheus. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 600)


class Metrics:
    """Counters and histograms. Their names begin with omnigen2_."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self.requests = self._counter("omnigen2_requests", "HTTP requests by path and status.", "path", "status")
        self.jobs = self._counter("omnigen2_jobs", "Jobs by kind and how they ended.", "kind", "state")
        self.steps = self._counter("omnigen2_steps", "Steps of drawings.", "model")
        self.pieces = self._counter("omnigen2_answer_pieces", "Pieces of text.", "model")
        self.waited = self._seconds("omnigen2_wait_seconds", "From acceptance to the first turn at the engine.")
        self.took = self._seconds("omnigen2_job_seconds", "From acceptance to the end of a job that is done.")
        self.step_seconds = self._seconds("omnigen2_step_seconds", "A drawing's step at the engine.")

    def gauge(self, name: str, text: str, model: str, value: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, ["model"], registry=self.registry)
        self._gauges[name].labels(model).set_function(value)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self.registry)


class EngineMetrics:
    """Counts what a bundle's engine does."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._steps = metrics.steps.labels(model)
        self._pieces = metrics.pieces.labels(model)

    def on_first_turn(self, waited_s: float) -> None:
        """Count a job that begins."""
        self._metrics.waited.observe(waited_s)

    def on_step(self, seconds: float) -> None:
        """Count a step of a drawing."""
        self._steps.inc()
        self._metrics.step_seconds.observe(seconds)

    def on_piece(self) -> None:
        """Count a piece of an answer."""
        self._pieces.inc()
