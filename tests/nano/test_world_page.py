"""WORLD.md says what the code does, in both directions: every sentence of nano's follows its rules, and every rule is used."""

from __future__ import annotations

import re

import pytest

from omnigen2_rt.nano import drawing_tasks, reader, scorer, talking_tasks
from omnigen2_rt.nano.talking_tasks import CRITIQUE, GRADES, JUDGE, LOOKS, MEND, SMALL_TALK
from omnigen2_rt.nano.world import (
    COLOURS,
    DENTS,
    DENTS_SPREAD,
    GROUPS,
    HELD_OUT,
    JITTER_PX,
    LEAST_DENTS_SPREAD,
    NO_SIZE_PX,
    RADII_PX,
    SHAPES,
    Sampler,
    places,
)
from tests.nano.grammar import PAGE, blocks, pattern, rules, sentence_pattern, without

RULES = rules()
MANY = 1500
PROMPTS = ("draw", "recolour", "remove", "add", "replace", "background", "gather", "transplant")
ASKED = ("colour", "shape", "background", "count", "relation", "describe")
USED = [(name, alternative) for name, alternatives in RULES.items() for alternative in alternatives]


def sentences() -> dict[str, set[str]]:
    """What nano's tasks say, by the rule that it should follow."""
    sampler, said = Sampler(11), {name: set[str]() for name in RULES}
    for _ in range(MANY):
        for make in (drawing_tasks.draw_one, drawing_tasks.draw_two, drawing_tasks.draw_count):
            said["draw"].add(make(sampler).prompt)
        for task in (drawing_tasks.edit(sampler), drawing_tasks.combine(sampler)):
            said[task.kind.split()[0]].add(task.prompt)
        for kind, ask in LOOKS:
            _, question, answer = ask(sampler)
            said[f"ask-{kind}"].add(question)
            said[f"answer-{kind}"].add(answer)
    return said


SAID = sentences()


@pytest.mark.parametrize("rule", [*PROMPTS, *(f"{part}-{kind}" for kind in ASKED for part in ("ask", "answer"))])
def test_sentences_of_nano_follow_the_rule(rule: str) -> None:
    matches = pattern(rule, RULES).fullmatch
    assert SAID[rule]
    assert [sentence for sentence in SAID[rule] if not matches(sentence)] == []


@pytest.mark.parametrize(("rule", "alternative"), USED, ids=[f"{rule}-{words}" for rule, words in USED])
def test_rules_alternative_is_one_that_nano_says(rule: str, alternative: str) -> None:
    """Without it, some sentence would follow the rules no more."""
    fewer = without(RULES, rule, alternative)
    changed = [name for name in SAID if SAID[name] and pattern(name, fewer).pattern != pattern(name, RULES).pattern]
    assert any(not pattern(name, fewer).fullmatch(sentence) for name in changed for sentence in SAID[name])


def test_examples_follow_their_rules() -> None:
    (lines,) = blocks("examples")
    for rule, _, sentence in (line.partition(": ") for line in lines):
        assert pattern(rule, RULES).fullmatch(sentence), (rule, sentence)
    assert {*PROMPTS} <= {line.partition(": ")[0] for line in lines}


def test_colours_stand_in_the_page_with_their_numbers() -> None:
    rows = [f"| {name} | {red}, {green}, {blue} |" for name, (red, green, blue) in COLOURS.items()]
    assert "\n".join(rows) in PAGE
    assert RULES["colour"] == list(COLOURS) and RULES["shape"] == list(SHAPES) and RULES["size"] == list(RADII_PX)


def test_sizes_stand_in_the_page_with_their_radii() -> None:
    for size, (least, most) in RADII_PX.items():
        assert f"| {size} | {least:g} to {most:g} |" in PAGE


def test_places_stand_in_the_page() -> None:
    for relation, row in (("left", "side by side"), ("above", "one above the other")):
        assert f"| two unlike things, {row} | {told(places(relation))} |" in PAGE
    for count, row in ((1, "one thing"), (2, "two alike things"), (3, "three alike things")):
        assert f"| {row} | {told(GROUPS[count])} |" in PAGE
    assert f"two at {told(GROUPS[2])}, three at {told(GROUPS[3])}" in " ".join(PAGE.split())
    assert f"off by up to {JITTER_PX:g} pixels" in PAGE


def told(centres: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"({x:g}, {y:g})" for x, y in centres)


def test_held_out_combinations_stand_in_the_page_and_no_others() -> None:
    rows = re.findall(rf"^\| ({'|'.join(SHAPES)}) \| (\w+ on .*) \|$", PAGE, re.MULTILINE)
    stated = {(*words.split(" on "), shape) for shape, listed in rows for words in listed.split(", ")}
    assert stated == {(colour, background, shape) for colour, shape, background in HELD_OUT}


def test_small_talk_stands_in_the_page() -> None:
    rows = "\n".join(f"| {said} | {answer} |" for said, answer in SMALL_TALK)
    assert f"{rows}\n\n" in PAGE


def test_reflection_stands_in_the_page_and_follows_it() -> None:
    assert all(f"| `{template}` |" in PAGE for template in (CRITIQUE, MEND, JUDGE))
    assert all(f"`{grade}` for a" in PAGE for grade in GRADES)
    mistakes = re.findall(
        r"^\| (?:background|colour|shape|drawing|missing) \| `(no, [^`]*)` \| `([^`]*)` \|$", PAGE, re.MULTILINE
    )
    wrong, mending = ([sentence_pattern(row[k], RULES) for row in mistakes] for k in (0, 1))
    assert len(wrong) == 5
    sampler = Sampler(13)
    tasks = [talking_tasks.reflect(sampler) for _ in range(MANY)]
    critiques = {task.answer for task in tasks if task.kind == "critique planted"}
    edits = {task.answer for task in tasks if task.kind == "mend planted"}
    for said, patterns in ((critiques, wrong), (edits, mending)):
        used = [[one.fullmatch(sentence) is not None for one in patterns] for sentence in said]
        assert all(map(any, used)), said
        assert all(map(any, zip(*used, strict=True)))
    assert {task.answer for task in tasks if task.kind == "critique right"} == {"yes"}
    assert f"its radius between\n{NO_SIZE_PX[0]:g} and {NO_SIZE_PX[1]:g}" in PAGE
    assert f"these {DENTS} spread by at least {LEAST_DENTS_SPREAD:g}" in PAGE and f"0 +- {DENTS_SPREAD:g}" in PAGE


def test_rules_of_judgement_stand_in_the_page() -> None:
    small, large = reader.SIZES_PX["small"], reader.SIZES_PX["large"]
    for stated in (
        f"within a distance of {reader.FAR:g} in RGB",
        f"small from {small[0]} to {small[1]} pixels of radius and large from {large[0]} to {large[1]}",
        f"at most {reader.MEAN_DEVIATION[0]} pixels and {reader.MEAN_DEVIATION[1]} r off",
        f"no square of {reader.THICKEST_PX} pixels fits",
        f"PSNR of at least {scorer.LEAST_PSNR_DB:g} dB",
        f"what changed and {scorer.MARGIN_PX} pixels around it",
        f"inside the things, {scorer.MARGIN_PX - 1} pixels from their outlines",
    ):
        assert stated in PAGE, stated
