"""The shipped model: complete, small, the default bundle, and as able as its card says on a few fixed samples.

`omnigen2 eval nano` measures the scores on many samples of each ability. The bounds here leave room for the rounding of other
engines and processors.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.nano.abilities import chosen_abilities
from omnigen2_rt.nano.demo import DEMO_REQUESTS, DEMO_TALK, demonstrate
from omnigen2_rt.nano.evaluation import Settings, evaluate
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO, Pipeline

SAMPLES = 12
MIN_RIGHT = {
    "one-object": 10,
    "two-objects": 9,
    "count": 9,
    "edit": 10,
    "combine-two": 10,
    "combine-three": 9,
    "held-out": 10,
    "two-reflected": 9,
    "look": 11,
    "conversation": 10,
    "other-words": 9,
    "styles": 7,
    "landscapes": 10,
    "other-sizes": 9,
    "decide": 11,
    "reflect-found": 9,
    "reflect-faulted": 11,
}
"""Required right answers. Chained edits are left to `eval`: a sample takes seconds, and conversations edit too."""
MAX_BYTES = 20 * 1000**2


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.mark.parametrize("ability", MIN_RIGHT)
def test_nano_answers_enough_samples_rightly(nano: Pipeline, ability: str) -> None:
    (score,) = evaluate(nano, Settings(samples=SAMPLES), chosen_abilities([ability]))
    assert score.right >= MIN_RIGHT[ability], score.failures


def test_nano_draws_in_its_own_size_where_none_is_asked_for(nano: Pipeline) -> None:
    result = nano.generate(Request(prompt="a red square on white", steps=1))
    assert result.images[0].size == (128, 128)
    wide = nano.generate(Request(prompt="a red square on white", steps=1, width_px=64))
    assert wide.images[0].size == (64, 128)


def test_nano_ships_whole_and_small() -> None:
    Bundle.open(NANO).verify()
    files = [path for path in NANO.rglob("*") if path.is_file() and not {"compiled", "engines"} & {*path.parts}]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_demonstration_is_one_sheet_of_everything(nano: Pipeline) -> None:
    calls: list[tuple[int, int, str]] = []
    sheet = demonstrate(nano, lambda done, total, what: calls.append((done, total, what)))
    assert sheet.width > 500 and sheet.height > 400
    prompts = [*(demo.prompt for demo in DEMO_REQUESTS), *DEMO_TALK]
    assert calls == [(number, len(prompts), what) for number, what in enumerate([*prompts, "done"])]
