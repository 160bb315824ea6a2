"""All rewrites of OpenVINO's models, in their order, and their reports on a bundle's graphs.

Knows no session: a model is read and rewritten here, and compiled elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...bundle import Bundle
from ...errors import BackendError
from ...manifest import GraphSpec
from .library import last_line, openvino_core
from .linked_weights import has_links, read_linked
from .rewrite_joined import take_products_apart
from .rewrite_products import align_products, split_feed_forward
from .rewrite_reports import RewriteReport
from .rewrite_rope import rotate_by_products
from .rewrite_weights import keep_stored_weights


class RewrittenModel(NamedTuple):
    """A graph as OpenVINO's model, rewritten and not yet compiled.

    model: its weights are mapped from their files.
    shared: constants and mapped files whose memory the model reads; they must outlive it and what is compiled from it.
    reports: a report of each rewrite that was applied.
    """

    model: Any
    shared: list[Any]
    reports: tuple[RewriteReport, ...]


def changes_products(spec: GraphSpec, precision: str) -> bool:
    """Whether a graph's products get other shapes. Products of a few rows gain nothing from it."""
    return precision == "bf16" and spec.picture_rows


def read_rewritten(bundle: Bundle, spec: GraphSpec, precision: str, pads: bool) -> RewrittenModel:
    """Read a graph and rewrite it for a precision. Raises BackendError where OpenVINO can't read it.

    pads: whether the model may hold padded copies of weights.
    """
    path = bundle.path / (spec.inlined or spec.file)
    shared: list[Any] = []
    try:
        model, mapped = read_linked(path) if has_links(bundle) else (openvino_core().read_model(path), [])
        reports = [rotate_by_products(model), take_products_apart(model)]
        if changes_products(spec, precision):
            if pads:
                reports.append(align_products(model))
            report, shared = split_feed_forward(model)
            reports.append(report)
        reports.append(keep_stored_weights(model))
    except Exception as error:  # OpenVINO raises RuntimeError and its children of many modules
        raise BackendError(f"OpenVINO can't open {path.name}: {last_line(error)}") from error
    return RewrittenModel(model, mapped + shared, tuple(reports))


def rewrite_reports(bundle: Bundle, precision: str, graphs: str, pads: bool) -> dict[str, tuple[RewriteReport, ...]]:
    """The reports of every component's rewrites, without compiling any. Raises BackendError as `read_rewritten` does.

    graphs: the precision of the graphs that run in `precision`.
    """
    specs = [spec for spec in bundle.manifest.graphs if spec.precision == graphs]
    return {spec.component: read_rewritten(bundle, spec, precision, pads).reports for spec in specs}
