"""Every scheme's graphs are built by the real TensorRT for RTX, in bf16."""

from __future__ import annotations

import pytest

from omnigen2_rt.exporter.engines.build import build_engines
from omnigen2_rt.exporter.engines.options import BuildOptions, Limits
from omnigen2_rt.exporter.quantize.schemes import SCHEMES
from tests.exporter.quantize.conftest import QuantizedBundles
from tests.rtx_library import needs_rtx

pytestmark = [needs_rtx, pytest.mark.slow]

SMALL = Limits(max_size_px=64, typical_size_px=64, max_references=1, max_prompt_tokens=64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_graph_of_a_scheme_is_read_and_built(quantized: QuantizedBundles, scheme: str) -> None:
    """Codes that were transposed, split or without a sign were refused."""
    components = tuple(SCHEMES[scheme].components)
    options = BuildOptions(
        library="tensorrt-rtx", precision="bf16", components=components, limits=SMALL, dry_run=True, measure=True
    )
    plan = build_engines(quantized[scheme, "A"], options).plan
    assert plan.refusals == []
    assert {engine.graph.component for engine in plan.engines if engine.measured is not None} == {*components}
