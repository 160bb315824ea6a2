"""WORLD.md and the code agree in both directions: every sentence of nano follows its rules, and every rule is used."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from omnigen2_rt.nano.judging import judge, landscape_reader, picture_reader
from omnigen2_rt.nano.tasks import drawing_tasks, edits, landscape_tasks, reflection_tasks
from omnigen2_rt.nano.tasks.chat_tasks import QUESTIONS, SMALL_TALK
from omnigen2_rt.nano.tasks.reflection_tasks import CRITIQUE_TEMPLATE, EDIT_TEMPLATE, GRADE_TEMPLATE, GRADES
from omnigen2_rt.nano.world import landscapes
from omnigen2_rt.nano.world.landscapes import PAINTS, SKIES, SUBJECTS, Element, Landscape, elements
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import (
    BAND_PX,
    BAR_PX,
    BETWEEN_SIZES_PX,
    COLOURS,
    DENTS,
    DENTS_SPREAD,
    GROUP_CENTRES,
    HELD_OUT,
    INRADII,
    JITTER_PX,
    MIN_DENTS_SPREAD,
    PAIR_CENTRES,
    RADII_PX,
    SHAPES,
    SIZES_PX,
    STYLES,
    PictureSize,
    Point,
    Sampler,
    Scene,
    Thing,
)
from tests.nano.grammar import PAGE, blocks, pattern, rules, sentence_pattern, without

RULES = rules()
TEXT = " ".join(PAGE.split())
SAMPLES = 3000
EDITS = ("recolour", "remove", "add", "replace", "background", "resize", "move", "restyle")
LANDSCAPE_EDITS = ("change-time", "repaint", "exchange")
PROMPTS = ("draw", *EDITS, *LANDSCAPE_EDITS, "gather", "transplant")
RULE_OF_KIND = {"style": "restyle", "time": "change-time"}
"""Rules of the kinds of tasks that have another name."""
QUESTION_KINDS = ("colour", "shape", "size", "background", "count", "presence", "relation", "time", "describe")
DRAWING = (drawing_tasks.draw_one, drawing_tasks.draw_two, drawing_tasks.draw_count, landscape_tasks.draw_landscape)
ALTERNATIVES = [(name, alternative) for name, alternatives in RULES.items() for alternative in alternatives]


def sentences() -> dict[str, set[str]]:
    """Sentences of random tasks, by the rule that they should follow."""
    sampler, sentences_of = Sampler(11), {name: set[str]() for name in RULES}
    for _ in range(SAMPLES):
        for make in DRAWING:
            sentences_of["draw"].add(make(sampler).prompt)
        for task in (edits.edit(sampler), drawing_tasks.combine(sampler)):
            kind = task.kind.split()[0]
            sentences_of[RULE_OF_KIND.get(kind, kind)].add(task.prompt)
        about_landscape = landscape_tasks.answer_landscape_question(sampler)
        kind = about_landscape.kind.removeprefix("landscape: ")
        sentences_of[f"ask-{kind}"].add(about_landscape.question)
        sentences_of[f"answer-{kind}"].add(about_landscape.answer)
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


def test_sizes_of_pictures_are_in_the_page() -> None:
    *most, last = (f"{width} x {height}" for width, height in SIZES_PX)
    assert f"A picture has {', '.join(most)} or {last} pixels (width x height)" in TEXT


def test_sizes_are_in_the_page_with_their_radii() -> None:
    for size, (least, most) in RADII_PX.items():
        assert f"| {size} | {least:g} to {most:g} |" in PAGE


def test_centres_are_in_the_page() -> None:
    for relation, row in (("left", "side by side"), ("above", "one above the other")):
        assert f"| two unlike things, {row} | {centres_text(PAIR_CENTRES[relation])} |" in PAGE
    for count, row in ((1, "one thing"), (2, "two alike things"), (3, "three alike things")):
        assert f"| {row} | {centres_text(GROUP_CENTRES[count])} |" in PAGE
    assert f"two at {centres_text(GROUP_CENTRES[2])}, three at {centres_text(GROUP_CENTRES[3])}" in TEXT
    assert f"off by up to {JITTER_PX:g} pixels" in PAGE


def centres_text(centres: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"({x:g}, {y:g})" for x, y in centres)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_nominal_centres_scale_with_the_picture(size_px: PictureSize) -> None:
    sampler = Sampler(12, size_px)
    for count, centres in GROUP_CENTRES.items():
        for thing, (x, y) in zip(sampler.alike_things(count).things, centres, strict=True):
            assert abs(thing.x - x * size_px[0] / 128) <= JITTER_PX and abs(thing.y - y * size_px[1] / 128) <= JITTER_PX
            low, high = RADII_PX[thing.size]
            assert low <= thing.radius <= high
    assert "their x is multiplied by width / 128 and their y by height / 128" in TEXT


def test_styles_are_in_the_page() -> None:
    assert RULES["style"] == list(STYLES[1:])
    shares = [f"{inradius:g} for the {shape}" for shape, inradius in INRADII.items()]
    for stated in (
        f"| outlined | a band of {BAND_PX:g} pixels along the outline",
        f"r - {BAND_PX:g} / i, where i is {', '.join(shares[:-1])} and {shares[-1]}",
        f"two gaps of {BAR_PX:g} pixels, from {BAR_PX / 2:g} to {1.5 * BAR_PX:g} pixels above and below its centre",
    ):
        assert stated in TEXT, stated


@pytest.mark.parametrize("style", STYLES[1:])
@pytest.mark.parametrize("shape", SHAPES)
def test_styled_thing_is_hollow_where_the_page_says(shape: str, style: str) -> None:
    """Compares renderings with the page's geometry: the smaller shape is hollow, and bars lie across it."""
    thing = Thing(shape=shape, colour="red", size="large", x=64.0, y=64.0, radius=21.0, style=style)
    radius = thing.radius - 4 / INRADII[shape]
    inner = Thing(
        shape=shape,
        colour="white",
        size="large",
        x=64.0,
        y=64 + (0.2 * (thing.radius - radius) if shape == "triangle" else 0),
        radius=radius,
    )
    pixels, plain, hollow = (
        np.asarray(render(Scene(background="blue", things=(each,)))).astype(int)
        for each in (thing, Thing(**{**vars(thing), "style": ""}), inner)
    )
    is_hollow = (hollow == COLOURS["white"]).all(-1)
    band = (plain == COLOURS["red"]).all(-1) & (hollow == COLOURS["blue"]).all(-1)
    assert band.any() and (pixels[band] == COLOURS["red"]).all()
    distance_px = np.abs(np.arange(128) + 0.5 - thing.y)
    is_bar = (distance_px < 3) | (distance_px > 9) if style == "striped" else np.zeros(128, np.bool_)
    expected = np.where(is_bar[:, None, None], COLOURS["red"], COLOURS["blue"])
    assert is_hollow.any() and (pixels == expected)[is_hollow].all()


def test_words_of_landscapes_are_in_the_page() -> None:
    assert RULES["subject"] == list(SUBJECTS) and RULES["paint"] == list(PAINTS) and RULES["time"] == list(SKIES)
    assert "blue by day, black at night." in TEXT and SKIES == {"day": "blue", "night": "black"}
    assert f"G = {landscapes.GROUND_SHARE:g} H" in TEXT
    assert f"from -{landscapes.MOST_SHIFT_PX:g} to {landscapes.MOST_SHIFT_PX:g} pixels" in TEXT


@pytest.mark.parametrize("size_px", SIZES_PX)
@pytest.mark.parametrize("is_night", [False, True], ids=["day", "night"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_geometry_of_landscapes_is_that_of_the_page(subject: str, is_night: bool, size_px: PictureSize) -> None:
    landscape = Landscape(subject=subject, colour="purple", is_night=is_night, shift_px=5.25, size_px=size_px)
    stated, drawn = list(stated_elements(landscape)), list(elements(landscape))
    assert [(each.colour, each.is_ellipse) for each in stated] == [(each.colour, each.is_ellipse) for each in drawn]
    for element, other in zip(stated, drawn, strict=True):
        assert np.allclose(element.points, other.points), (element, other)


def stated_elements(landscape: Landscape) -> Iterator[Element]:
    """The parts of a landscape by the page's table."""
    where = "|".join(("any", *SKIES, *SUBJECTS))
    rows = re.findall(rf"^\| ({where}) \| [a-z ]+ \| ([a-z ]+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert {row[0] for row in rows} == {"any", *SKIES, *SUBJECTS}
    for part_of, colour, geometry in rows:
        if part_of in ("any", landscape.time, landscape.subject):
            yield from stated_shapes(landscape.colour if colour == "its own" else colour, geometry, landscape)


def stated_shapes(colour: str, geometry: str, landscape: Landscape) -> Iterator[Element]:
    """The shapes of a row of the table; several circles for one part with several centres."""
    points = [stated_point(x, y, landscape) for x, y in re.findall(r"\(([^,()]+), ([^,()]+)\)", geometry)]
    if circle := re.match(r"circles? of radius (\d+) around ", geometry):
        radius = float(circle[1])
        for x, y in points:
            yield Element(colour, ((x - radius, y - radius), (x + radius, y + radius)), is_ellipse=True)
    elif geometry.startswith("box from "):
        (left, top), (right, bottom) = points
        yield Element(colour, ((left, top), (right, top), (right, bottom), (left, bottom)))
    else:
        assert geometry.startswith("triangle ") and len(points) == 3
        yield Element(colour, tuple(points))


def stated_point(x: str, y: str, landscape: Landscape) -> Point:
    """A point of the table, such as ("X - 20", "G + 10"), in pixels."""
    width, height = landscape.size_px
    values = {"W": width, "H": height, "G": 0.75 * height, "X": width / 2 + landscape.shift_px}
    left, top = (sum(stated_terms(text, values)) for text in (x, y))
    return left, top


def stated_terms(text: str, values: dict[str, float]) -> Iterator[float]:
    for sign, term in re.findall(r"(^|\+ |- )(\w[\w.]*)", text):
        yield (-1 if sign == "- " else 1) * (values[term] if term in values else float(term))


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
        r"^\| (?:background|colour|size|shape|drawing|missing|time|paint|subject) \| `(no, [^`]*)` \| `([^`]*)` \|$",
        PAGE,
        re.MULTILINE,
    )
    critique_patterns, edit_patterns = ([sentence_pattern(row[k], RULES) for row in mistakes] for k in (0, 1))
    assert len(critique_patterns) == 9
    sampler = Sampler(13)
    tasks = [reflection_tasks.reflect(sampler) for _ in range(SAMPLES)]
    critiques = {task.answer for task in tasks if task.kind == "critique planted"}
    corrections = {task.answer for task in tasks if task.kind == "mend planted"}
    for sentences_of_kind, patterns in ((critiques, critique_patterns), (corrections, edit_patterns)):
        used = [[one.fullmatch(sentence) is not None for one in patterns] for sentence in sentences_of_kind]
        assert all(map(any, used)), sentences_of_kind
        assert all(map(any, zip(*used, strict=True)))
    assert {task.answer for task in tasks if task.kind == "critique right"} == {"yes"}
    assert f"its radius between {BETWEEN_SIZES_PX[0]:g} and {BETWEEN_SIZES_PX[1]:g}" in TEXT
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
        f"inside the coloured parts of outlined and striped things, {judge.MARGIN_PX - 2} pixel.",
        f"between -{landscape_reader.MOST_READ_SHIFT_PX} and {landscape_reader.MOST_READ_SHIFT_PX} pixels",
        f"by more than {landscape_reader.MAX_COLOUR_DISTANCE:g} in RGB",
        f"within {landscape_reader.TOLERANCE_PX} pixel of it",
        f"No {landscape_reader.MIN_WRONG_PX} x {landscape_reader.MIN_WRONG_PX} square of pixels is wrong",
        f"the shift is within {judge.MOST_MOVED_PX:g} pixels of that of the picture before",
    ):
        assert stated in TEXT, stated
    assert landscape_reader.SHIFT_STEP_PX == 0.5 and "steps of half a pixel" in TEXT
