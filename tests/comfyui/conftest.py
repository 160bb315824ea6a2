"""One ComfyUI for all tests, with an empty cache for each, and the pipeline whose pictures its nodes should give.

With OMNIGEN2_COMFYUI=path they run on that checkout, in an environment that has what it needs:
`python -m pytest tests/comfyui --confcutdir tests/comfyui`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omnigen2_rt import Pipeline, load
from tests.comfyui.running import Comfy, comfyui


@pytest.fixture(scope="session")
def running_comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    with comfyui(tmp_path_factory.mktemp("output"), tmp_path_factory.mktemp("models")) as comfy:
        yield comfy


@pytest.fixture
def comfy(running_comfy: Comfy) -> Iterator[Comfy]:
    yield running_comfy
    running_comfy.forget()
    for file in running_comfy.output.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.fixture
def saved(comfy: Comfy) -> Path:
    """The folder of saved pictures."""
    return comfy.output
