"""GenEval's rules on detections, and what becomes of pictures that can't be judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.evaluation.geneval import (
    Picture,
    prompt_differences,
    read_detections,
    relations,
    score_pictures,
    verdict,
)
from omnigen2_rt.runtime.errors import RequestError


def thing(name: str, score: float = 0.99, box: tuple[float, ...] = (0, 0, 10, 10), **facts: Any) -> dict[str, Any]:
    return {"class": name, "score": score, "box": [*box], **facts}


def picture(tmp_path: Path, tag: str, include: list[Any], detections: list[Any] | None, **facts: Any) -> Picture:
    path = tmp_path / "detections.jsonl"
    line = {"tag": tag, "prompt": "a photo", "include": include, "detections": detections, "filename": "0.png", **facts}
    path.write_text(json.dumps(line) + "\n")
    (read,) = read_detections(path)
    return read


RED_CUP = [{"class": "cup", "count": 1, "color": "red"}]


@pytest.mark.parametrize(
    ("tag", "include", "detections", "is_right"),
    [
        ("single_object", [{"class": "cup", "count": 1}], [thing("cup")], True),
        ("single_object", [{"class": "cup", "count": 1}], [thing("bowl")], False),
        ("single_object", [{"class": "cup", "count": 1}], [thing("cup", 0.31)], True),
        ("single_object", [{"class": "cup", "count": 1}], [thing("cup", 0.3)], False),
        ("single_object", [{"class": "cup", "count": 1}], [thing("cup"), thing("cup"), thing("bowl")], True),
        ("two_object", [{"class": "cup", "count": 1}, {"class": "dog", "count": 1}], [thing("cup")], False),
        ("two_object", [{"class": "cup", "count": 1}, {"class": "dog", "count": 1}], [thing("dog"), thing("cup")], True),
        ("counting", [{"class": "cup", "count": 2}], [thing("cup", 0.91), thing("cup", 0.95)], True),
        ("counting", [{"class": "cup", "count": 2}], [thing("cup", 0.9), thing("cup", 0.95)], False),
        ("colors", RED_CUP, [thing("cup", color="red")], True),
        ("colors", RED_CUP, [thing("cup", color="blue")], False),
        ("colors", RED_CUP, [thing("cup", 0.9, color="red"), thing("cup", color="blue")], False),
        ("colors", RED_CUP, [thing("cup")], None),
        ("colors", RED_CUP, [], False),
        ("colors", RED_CUP, None, None),
    ],
)
def test_verdict_follows_the_rules(
    tag: str, include: list[Any], detections: list[Any] | None, is_right: bool | None, tmp_path: Path
) -> None:
    assert verdict(picture(tmp_path, tag, include, detections)) is is_right


def test_verdict_of_counting_excludes_one_more(tmp_path: Path) -> None:
    include, exclude = [{"class": "cup", "count": 2}], [{"class": "cup", "count": 3}]
    three = [thing("cup", 0.99), thing("cup", 0.98), thing("cup", 0.97)]
    assert verdict(picture(tmp_path, "counting", include, three, exclude=exclude)) is False
    assert verdict(picture(tmp_path, "counting", include, [*three[:2], thing("cup", 0.5)], exclude=exclude)) is True


def test_verdict_counts_no_more_than_sixteen_of_a_class(tmp_path: Path) -> None:
    many = [thing("cup", 0.99)] * 20
    assert verdict(picture(tmp_path, "counting", [{"class": "cup", "count": 16}], many)) is True
    assert verdict(picture(tmp_path, "counting", [{"class": "cup", "count": 17}], many)) is False


def test_verdict_of_a_position_compares_the_most_confident_of_each(tmp_path: Path) -> None:
    include = [{"class": "dog", "count": 1}, {"class": "cup", "count": 1, "position": ["left of", 0]}]
    dog, left, right = thing("dog", box=(50, 0, 60, 10)), thing("cup", 0.9, (0, 0, 10, 10)), thing("cup", 0.8, (90, 0, 100, 10))
    assert verdict(picture(tmp_path, "position", include, [dog, left, right])) is True
    assert verdict(picture(tmp_path, "position", include, [dog, {**left, "score": 0.7}, right])) is False
    assert verdict(picture(tmp_path, "position", include, [left])) is False


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((20, 0, 30, 10), {"right of"}),
        ((-20, 0, -10, 10), {"left of"}),
        ((0, 20, 10, 30), {"below"}),
        ((0, -20, 10, -10), {"above"}),
        ((20, 20, 30, 30), {"right of", "below"}),
        ((20, 8, 30, 18), {"right of"}),
        ((2, 0, 12, 10), set()),
        ((1.9, 1.9, 11.9, 11.9), set()),
        ((0, 0, 10, 10), set()),
        ((30, 20, 20, 30), {"right of", "below"}),
    ],
)
def test_relation_needs_a_distance_of_a_tenth_of_both_sizes(box: tuple[float, ...], expected: set[str]) -> None:
    assert relations(box, (0, 0, 10, 10)) == expected


def test_average_is_given_for_an_incomplete_set_only_if_asked(tmp_path: Path) -> None:
    pictures = [picture(tmp_path, "counting", [{"class": "cup", "count": 1}], each) for each in ([thing("cup")], [], None)]
    scores = score_pictures(pictures, allow_incomplete=False)
    assert (scores.average.tasks, scores.average.all) == ({"counting": 0.5}, None)
    assert (scores.pictures, scores.unjudged, scores.is_whole, scores.is_complete) == (3, 1, False, False)
    allowed = score_pictures(pictures, allow_incomplete=True).average.all
    assert allowed is not None and allowed.value == 0.5


def test_difference_pairs_prompts(tmp_path: Path) -> None:
    def scores(*rights: bool) -> Any:
        cup = [{"class": "cup", "count": 1}]
        pictures = [
            picture(tmp_path, "counting", cup, [thing("cup")] if right else [], prompt=f"prompt {k}")
            for k, right in enumerate(rights)
        ]
        return score_pictures(pictures, allow_incomplete=True)

    difference = prompt_differences(scores(True, True, False, True), scores(True, False, False, True), has_total=True)
    assert difference.tasks == {"counting": 0.25} and difference.all is not None and difference.all.value == 0.25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tag": "poetry"}, "line 1 of 'detections.jsonl': the picture.tag is 'poetry'; allowed is single_object, two_object"),
        ({"include": None}, "missing ['include']"),
        ({"include": "cup"}, "include is 'cup', not a list"),
        ({"include": [{"class": "cup", "position": ["left of", 0]}]}, "include[0].position names the entry 0; only an earl"),
        ({"include": [{"class": "cup", "position": ["near", 0]}]}, "allowed is left of, right of, above, below"),
        ({"detections": [{"class": "cup", "score": 2, "box": [0, 0, 1, 1]}]}, "score is 2"),
        ({"detections": [{"class": "cup", "score": 0.5, "box": [0, 0, 1]}]}, "box has 3 entries; allowed is 4"),
        ({"detections": [{"score": 0.5}]}, "an entry is {'score': 0.5}, not an object with a class"),
        ({"detections": 3}, "detections is 3, not a list"),
    ],
)
def test_broken_detections_say_what_is_wrong(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    line = {"tag": "counting", "prompt": "two cups", "include": [{"class": "cup", "count": 2}], "detections": []}
    path = tmp_path / "detections.jsonl"
    path.write_text(json.dumps({**line, **changes}))
    with pytest.raises(RequestError) as raised:
        read_detections(path)
    assert said in str(raised.value)
