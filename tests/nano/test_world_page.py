"""WORLD.md and the code agree in both directions: every sentence of nano follows its rules, and every rule is used."""

from __future__ import annotations

import re

import pytest

from omnigen2_rt.nano import chat_tasks, drawing_tasks, judge, picture_reader
from omnigen2_rt.nano.chat_tasks import CRITIQUE_TEMPLATE, EDIT_TEMPLATE, GRADE_TEMPLATE, GRADES, QUESTIONS, SMALL_TALK
from omnigen2_rt.nano.world import (
    BETWEEN_SIZES_PX,
    COLOURS,
    DENTS,
    DENTS_SPREAD,
    GROUP_CENTRES,
    HELD_OUT,
    JITTER_PX,
    MIN_DENTS_SPREAD,
    PAIR_CENTRES,
    RADII_PX,
    SHAPES,
    Sampler,
)
from tests.nano.grammar import PAGE, blocks, pattern, rules, sentence_pattern, without

RULES = rules()
SAMPLES = 3000
PROMPTS = ("draw", "recolour", "remove", "add", "replace", "background", "resize", "move", "gather", "transplant")
QUESTION_KINDS = ("colour", "shape", "size", "background", "count", "presence", "relation", "describe")
ALTERNATIVES = [(name, alternative) for name, alternatives in RULES.items() for alternative in alternatives]


def sentences() -> dict[str, set[str]]:
    """Sentences of random tasks, by the rule that they should follow."""
    sampler, sentences_of = Sampler(11), {name: set[str]() for name in RULES}
    for _ in range(SAMPLES):
        for make in (drawing_tasks.draw_one, drawing_tasks.draw_two, drawing_tasks.draw_count):
            sentences_of["draw"].add(make(sampler).prompt)
        for task in (drawing_tasks.edit(sampler), drawing_tasks.combine(sampler)):
            sentences_of[task.kind.split()[0]].add(task.prompt)
        for kind, make_question in QUESTIONS:
            if (question := make_question(sampler, sampler.any_scene())) is not None:
                sentences_of[f"ask-{kind}"].add(question[0])
                sentences_of[f"answer-{kind}"].add(question[1])
    return sentences_of


SENTENCES = sentences()


@pytest.mark.parametrize(
    "rule", [*PROMPTS, *(f"{part}-{kind}" for kind in QUESTION_KINDS for part in ("ask", "answer"))]
)
def test_sentences_of_nano_follow_the_rule(rule: str) -> None:
    matches = pattern(rule, RULES).fullmatch
    assert SENTENCES[rule]
    assert [sentence for sentence in SENTENCES[rule] if not matches(sentence)] == []


@pytest.mark.parametrize(("rule", "alternative"), ALTERNATIVES, ids=[f"{rule}-{words}" for rule, words in ALTERNATIVES])
def test_alternative_of_a_rule_is_used(rule: str, alternative: str) -> None:
    """Without it, some sentence doesn't follow the rules."""
    fewer = without(RULES, rule, alternative)
    changed = [
        name for name in SENTENCES if SENTENCES[name] and pattern(name, fewer).pattern != pattern(name, RULES).pattern
    ]
    assert any(not pattern(name, fewer).fullmatch(sentence) for name in changed for sentence in SENTENCES[name])


def test_examples_follow_their_rules() -> None:
    (lines,) = blocks("examples")
    for rule, _, sentence in (line.partition(": ") for line in lines):
        assert pattern(rule, RULES).fullmatch(sentence), (rule, sentence)
    assert {*PROMPTS} <= {line.partition(": ")[0] for line in lines}


def test_colours_are_in_the_page_with_their_numbers() -> None:
    rows = [f"| {name} | {red}, {green}, {blue} |" for name, (red, green, blue) in COLOURS.items()]
    assert "\n".join(rows) in PAGE
    assert RULES["colour"] == list(COLOURS) and RULES["shape"] == list(SHAPES) and RULES["size"] == list(RADII_PX)


def test_sizes_are_in_the_page_with_their_radii() -> None:
    for size, (least, most) in RADII_PX.items():
        assert f"| {size} | {least:g} to {most:g} |" in PAGE


def test_centres_are_in_the_page() -> None:
    for relation, row in (("left", "side by side"), ("above", "one above the other")):
        assert f"| two unlike things, {row} | {centres_text(PAIR_CENTRES[relation])} |" in PAGE
    for count, row in ((1, "one thing"), (2, "two alike things"), (3, "three alike things")):
        assert f"| {row} | {centres_text(GROUP_CENTRES[count])} |" in PAGE
    assert f"two at {centres_text(GROUP_CENTRES[2])}, three at {centres_text(GROUP_CENTRES[3])}" in " ".join(
        PAGE.split()
    )
    assert f"off by up to {JITTER_PX:g} pixels" in PAGE


def centres_text(centres: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"({x:g}, {y:g})" for x, y in centres)


def test_held_out_combinations_are_in_the_page_and_no_others() -> None:
    rows = re.findall(rf"^\| ({'|'.join(SHAPES)}) \| (\w+ on .*) \|$", PAGE, re.MULTILINE)
    stated = {(*words.split(" on "), shape) for shape, listed in rows for words in listed.split(", ")}
    assert stated == {(colour, background, shape) for colour, shape, background in HELD_OUT}


def test_small_talk_is_in_the_page() -> None:
    rows = "\n".join(f"| {said} | {answer} |" for said, answer in SMALL_TALK)
    assert f"{rows}\n\n" in PAGE


def test_reflection_is_in_the_page_and_follows_it() -> None:
    assert all(f"| `{template}` |" in PAGE for template in (CRITIQUE_TEMPLATE, EDIT_TEMPLATE, GRADE_TEMPLATE))
    assert all(f"`{grade}` for a" in PAGE for grade in GRADES)
    mistakes = re.findall(
        r"^\| (?:background|colour|size|shape|drawing|missing) \| `(no, [^`]*)` \| `([^`]*)` \|$", PAGE, re.MULTILINE
    )
    critique_patterns, edit_patterns = ([sentence_pattern(row[k], RULES) for row in mistakes] for k in (0, 1))
    assert len(critique_patterns) == 6
    sampler = Sampler(13)
    tasks = [chat_tasks.reflect(sampler) for _ in range(SAMPLES)]
    critiques = {task.answer for task in tasks if task.kind == "critique planted"}
    edits = {task.answer for task in tasks if task.kind == "mend planted"}
    for sentences_of_kind, patterns in ((critiques, critique_patterns), (edits, edit_patterns)):
        used = [[one.fullmatch(sentence) is not None for one in patterns] for sentence in sentences_of_kind]
        assert all(map(any, used)), sentences_of_kind
        assert all(map(any, zip(*used, strict=True)))
    assert {task.answer for task in tasks if task.kind == "critique right"} == {"yes"}
    assert f"its radius between\n{BETWEEN_SIZES_PX[0]:g} and {BETWEEN_SIZES_PX[1]:g}" in PAGE
    assert f"these {DENTS} spread by at least {MIN_DENTS_SPREAD:g}" in PAGE and f"0 +- {DENTS_SPREAD:g}" in PAGE


def test_rules_of_judgement_are_in_the_page() -> None:
    small, large = picture_reader.ACCEPTED_RADII_PX["small"], picture_reader.ACCEPTED_RADII_PX["large"]
    for stated in (
        f"within a distance of {picture_reader.MAX_COLOUR_DISTANCE:g} in RGB",
        f"small from {small[0]} to {small[1]} pixels of radius and large from {large[0]} to {large[1]}",
        f"at most {picture_reader.MAX_MEAN_DEVIATION[0]} pixels and {picture_reader.MAX_MEAN_DEVIATION[1]} r off",
        f"no square of {picture_reader.MAX_THICKNESS_PX} pixels fits",
        f"PSNR of at least {judge.MIN_PSNR_DB:g} dB",
        f"what changed and {judge.MARGIN_PX} pixels around it",
        f"inside the things, {judge.MARGIN_PX - 1} pixels from their outlines",
    ):
        assert stated in PAGE, stated
