"""The model that ships: whole, small, found without a name, and able to do what its card says, on a few fixed samples.

The scores themselves are measured by `omnigen2 eval nano` on 200 samples of each ability; here few are drawn with fixed
seeds, and fewer than they all need to be right, because engines and processors round differently.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.nano.demo import SHOWN, demonstrate
from omnigen2_rt.nano.evaluation import Settings, chosen_abilities, evaluate
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO, Pipeline

SAMPLES = 12
ENOUGH = {
    "one-object": 10,
    "two-objects": 9,
    "count": 9,
    "edit": 10,
    "combine-two": 10,
    "held-out": 10,
    "two-reflected": 9,
    "look": 11,
    "decide": 11,
    "reflect-found": 8,
    "reflect-faulted": 11,
}
"""Right answers of SAMPLES."""
MOST_BYTES = 30 * 1000**2


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.mark.parametrize("ability", ENOUGH)
def test_nano_answers_enough_samples_rightly(nano: Pipeline, ability: str) -> None:
    (score,) = evaluate(nano, Settings(samples=SAMPLES), chosen_abilities([ability]))
    assert score.right >= ENOUGH[ability], score.wrong


def test_nano_draws_in_its_own_size_where_none_is_asked_for(nano: Pipeline) -> None:
    result = nano.generate(Request(prompt="a red square on white", steps=1))
    assert result.images[0].size == (128, 128)
    wide = nano.generate(Request(prompt="a red square on white", steps=1, width_px=64))
    assert wide.images[0].size == (64, 128)


def test_nano_ships_whole_and_small() -> None:
    Bundle.open(NANO).verify()
    files = [path for path in NANO.rglob("*") if path.is_file() and not {"compiled", "engines"} & {*path.parts}]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_demonstration_is_one_sheet_of_everything(nano: Pipeline) -> None:
    told: list[tuple[int, int, str]] = []
    sheet = demonstrate(nano, lambda done, total, what: told.append((done, total, what)))
    assert sheet.width > 500 and sheet.height > 400
    assert [what for _, _, what in told] == [shown.prompt for shown in SHOWN]
