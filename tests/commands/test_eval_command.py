"""`omnigen2 eval nano`: a table, figures, an exit code; on random weights, which do nothing right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.command import Command


def test_eval_prints_the_table_writes_the_figures_and_fails_below_what_is_needed(
    command: Command, bundles: dict[str, Path], tmp_path: Path
) -> None:
    few = ("--samples", 1, "--steps", 2, "--cache", "taylorseer", "--backend", "ort-cpu", "--precision", "fp32")
    chosen = ("--abilities", "one-object, look", "--json", tmp_path / "scores.json")
    finished = command("eval", "nano", "--bundle", bundles["A"], *chosen, *few)
    assert finished.code == 1
    header, *rows = finished.out.splitlines()
    assert header.split() == ["ability", "score", "95", "%", "confidence", "needed", "aim", "samples"]
    assert [row.split(":")[0] for row in rows if not row.startswith("  ")] == ["one object", "look"]
    assert all(row.endswith("not reached") for row in rows if not row.startswith("  "))
    assert "2/2 look: right answers" in finished.err and "error: below what is needed: one object: " in finished.err
    figures = json.loads((tmp_path / "scores.json").read_text())
    assert [score["name"] for score in figures["scores"]] == ["one-object", "look"]
    assert (figures["backend"], figures["precision"], figures["settings"]["steps"]) == ("ort-cpu", "fp32", 2)
    assert figures["settings"]["text_guidance"] == 2.5 and figures["settings"]["cache"].startswith("TaylorSeer(")


def test_eval_of_an_ability_without_a_target_succeeds(command: Command, bundles: dict[str, Path]) -> None:
    few = ("--samples", 1, "--steps", 1, "--precision", "fp32", "--text-guidance", 1)
    finished = command("eval", "nano", "--bundle", bundles["A"], "--abilities", "two-reflected", *few)
    assert (finished.code, finished.out.splitlines()[1].split()[:3]) == (0, ["two", "objects,", "the"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nano", "--abilities", "flying"), "there is no ability 'flying'; choose among one-object"),
        (("nano", "--samples", 0), "samples=0 is below the fewest, 1"),
        (("nano", "--samples", 10**9), "samples=1000000000 is above the most, 100000"),
        (("nano", "--json", "nowhere/scores.json"), "can't write 'nowhere/scores.json': No such file or directory"),
        (("nano", "--steps", 0), "steps=0"),
        (("nano", "--cache", "magic"), "--cache 'magic' is unknown"),
        (("nano", "--bundle", "nowhere"), "'nowhere' is not a bundle"),
    ],
)
def test_eval_with_a_bad_value_says_so(command: Command, words: tuple[object, ...], said: str) -> None:
    assert said in command.fails("eval", *words)
