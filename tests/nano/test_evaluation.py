"""The evaluation: right answers score 100 %, wrong ones 0 %, and the results name every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

import omnigen2_rt as og
from omnigen2_rt.commands.bench import pipeline_facts
from omnigen2_rt.nano.abilities import ABILITIES, chosen_abilities, sample
from omnigen2_rt.nano.evaluation import (
    QUICK_ABILITIES,
    QUICK_SAMPLES,
    Settings,
    drawing_accuracy,
    evaluate,
    scoring_for,
    to_json,
)
from omnigen2_rt.nano.world.landscapes import Landscape
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.pipeline import bundle_path
from tests.nano.fake_pipelines import FailingPipeline, OraclePipeline

SETTINGS = Settings(samples=12, steps=3)


def test_evaluation_of_a_pipeline_that_knows_everything_is_100_percent() -> None:
    scores = evaluate(OraclePipeline(ABILITIES, SETTINGS), SETTINGS)
    assert [score.name for score in scores if score.right != score.samples] == []
    assert all(score.is_reached and score.failures == () for score in scores)


def test_evaluation_of_a_pipeline_that_knows_nothing_is_0_percent() -> None:
    scores = evaluate(FailingPipeline(ABILITIES, SETTINGS), SETTINGS)
    assert [score.name for score in scores if score.right != 0] == []
    assert [score.name for score in scores if score.is_reached] == ["two-reflected"], "which alone has no requirement"
    mistakes = {score.name: score.failures[0][1][0] for score in scores}
    assert mistakes["one-object"].startswith("the background is ")
    assert mistakes["look"].startswith("'nonsense', not ")


def test_evaluation_passes_its_settings_to_the_pipeline() -> None:
    settings = Settings(samples=2, steps=5, text_guidance=3.0, image_guidance=1.5, cache=og.TeaCache())
    pipeline = OraclePipeline(chosen_abilities(["edit"]), settings)
    evaluate(pipeline, settings, chosen_abilities(["edit"]))
    first, second = pipeline.requests
    assert (first.steps, first.text_guidance, first.image_guidance, first.cache) == (5, 3.0, 1.5, settings.cache)
    assert (first.height_px, first.width_px) == (128, 128)
    assert (first.seed, second.seed) == (0, 1)


def test_evaluation_of_answers_never_draws_more_than_one_step() -> None:
    pipeline = OraclePipeline(chosen_abilities(["decide", "reflect"]), SETTINGS)
    evaluate(pipeline, SETTINGS, chosen_abilities(["decide", "reflect"]))
    for settings in pipeline.chat_settings:
        request = settings["request"]
        assert (request.steps, request.height_px, request.width_px) == (1, 128, 128)
        assert settings["on_step"](None) is False
    assert [settings["may_draw"] for settings in pipeline.chat_settings] == [True, False, False]


def test_evaluation_reports_its_progress_up_to_the_last_sample() -> None:
    calls: list[tuple[int, int]] = []
    chosen = chosen_abilities(["count", "look"])
    evaluate(OraclePipeline(chosen, SETTINGS), SETTINGS, chosen, lambda done, total, what: calls.append((done, total)))
    assert calls == [(done, 24) for done in range(1, 25)]


def test_sample_of_a_number_is_always_the_same_and_another_for_each_number() -> None:
    for ability in ABILITIES:
        assert sample(ability, 3) == sample(ability, 3)
        assert sample(ability, 3) != sample(ability, 4)


def test_samples_are_of_the_ability_they_stand_for() -> None:
    named = {ability.name: [sample(ability, number) for number in range(40)] for ability in ABILITIES}
    assert {len(task.inputs) for task in named["combine-two"]} == {2}
    assert {len(task.inputs) for task in named["combine-three"]} == {3}
    assert {task.kind for task in named["reflect-found"]} == {"critique planted"}
    assert {task.kind for task in named["reflect-faulted"]} == {"critique right"}
    assert {task.kind for task in named["decide"]} == {"picture", "text"}
    scene_edits = {"recolour", "remove", "add", "replace", "background", "resize", "move", "style"}
    assert {task.kind for task in named["edit"]} >= {"time", "repaint"}
    assert {task.kind for task in named["edit"]} <= scene_edits | {"time", "repaint", "exchange"}
    assert {task.kind for task in named["other-sizes"]} == {"wide", "tall"}
    assert all(isinstance(task.target, Landscape) for task in named["landscapes"])
    assert all({*task.expected.styles} <= {"outlined", "striped"} for task in named["styles"])


def test_reflection_uses_the_same_samples_as_drawing() -> None:
    direct, reflected = (chosen_abilities([name])[0] for name in ("two-objects", "two-reflected"))
    assert [sample(direct, number) for number in range(5)] == [sample(reflected, number) for number in range(5)]


def test_chosen_abilities_stand_in_the_tables_order_and_a_family_by_its_name() -> None:
    assert chosen_abilities([]) == ABILITIES
    assert [a.name for a in chosen_abilities(["reflect", "count"])] == ["count", "reflect-found", "reflect-faulted"]


@pytest.mark.parametrize("name", ["flying", "held", "one", ""])
def test_chosen_abilities_of_an_unknown_name_say_which_there_are(name: str) -> None:
    with pytest.raises(RequestError, match=f"there is no ability '{name}'; choose among one-object, two-objects"):
        chosen_abilities([name])


def test_settings_refuse_no_samples_and_what_a_request_refuses() -> None:
    with pytest.raises(RequestError, match="samples=0 is below the fewest, 1"):
        Settings(samples=0)
    with pytest.raises(RequestError, match="steps=0"):
        Settings(steps=0)


def test_json_of_scores_holds_settings_kinds_and_mistakes() -> None:
    settings = Settings(samples=3, cache=og.TaylorSeer())
    chosen = chosen_abilities(["edit", "reflect"])
    figures = to_json(evaluate(FailingPipeline(chosen, settings), settings, chosen), settings, {"backend": "none"})
    assert figures["backend"] == "none"
    assert figures["settings"]["samples"] == 3 and figures["settings"]["cache"].startswith("TaylorSeer(")
    edit, _, faulted = figures["scores"]
    assert sum(kind["samples"] for kind in edit["kinds"].values()) == 3
    assert len(edit["wrong"]) == 3 and edit["wrong"][0]["mistakes"]
    assert (edit["rate"], edit["at least"], edit["reached"]) == (0.0, 0.97, False)
    assert (faulted["rate"], faulted["at most"], faulted["reached"]) == (1.0, 0.05, False)


def test_evaluation_of_random_weights_runs_through_and_finds_nothing_right(bundles: dict[str, Path]) -> None:
    settings = Settings(samples=1, steps=1)
    with og.load(bundles["A"], precision="fp32", threads=1) as pipeline:
        scores = evaluate(pipeline, settings, chosen_abilities(["one-object", "edit", "look", "decide"]))
        facts = pipeline_facts(pipeline)
    assert [score.right for score in scores[:3]] == [0, 0, 0]
    assert all(score.seconds > 0 for score in scores)
    assert facts["precision"] == "fp32" and facts["versions"]["omnigen2-rt"] == og.__version__


def test_drawing_accuracy_is_the_share_of_right_drawings() -> None:
    abilities = chosen_abilities(QUICK_ABILITIES)
    settings = Settings(samples=QUICK_SAMPLES, cache=og.TeaCache())
    assert drawing_accuracy(OraclePipeline(abilities, settings), settings.cache) == 1
    assert drawing_accuracy(FailingPipeline(abilities, settings), settings.cache) == 0


def test_bundle_with_nanos_tokenizer_is_scored_and_another_is_not(bundles: dict[str, Path]) -> None:
    assert scoring_for(Bundle.open(bundle_path("nano"))) is drawing_accuracy
    assert scoring_for(Bundle.open(bundles["A"])) is None
