"""Cuts, jumps, near-duplicates and sequences, from similarities that the tests choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnigen2_rt.pairs.frame_settings import FrameSettings
from omnigen2_rt.pairs.frames import Frame
from omnigen2_rt.pairs.scenes import (
    ALONE,
    DUPLICATE,
    JUMP,
    SAME_SHOT,
    UNRELATED,
    Dropped,
    across_scenes,
    split_scenes,
    within_scenes,
    without_duplicates,
)
from omnigen2_rt.runtime.errors import RequestError

SETTINGS = FrameSettings(cut_below=0.8, duplicate_above=0.95, related_above=0.6)


def frames_at(*places: float) -> tuple[list[Frame], dict[int, float]]:
    """Frames whose similarity is 1 less the distance of their places."""
    frames = [Frame(number=number, path=Path(f"{number}.png"), digest=str(number)) for number in range(len(places))]
    return frames, dict(enumerate(places))


class Places:
    """A similarity: 1 less the distance of two frames' places."""

    def __init__(self, places: dict[int, float]) -> None:
        self._places = places

    def __call__(self, first: Frame, second: Frame) -> float:
        return 1 - abs(self._places[first.number] - self._places[second.number])


def numbers(scenes: list[list[Frame]]) -> list[list[int]]:
    return [[frame.number for frame in scene] for scene in scenes]


def reasons(dropped: list[Dropped]) -> list[tuple[str, tuple[int, ...]]]:
    return [(each.reason, tuple(frame.number for frame in each.frames)) for each in dropped]


@pytest.mark.parametrize(
    ("places", "scenes", "dropped"),
    [
        ((0.0,), [[0]], []),
        ((0.0, 0.1, 0.2), [[0, 1, 2]], []),
        ((0.0, 0.1, 0.9, 1.0), [[0, 1], [2, 3]], []),
        ((0.0, 0.9, 0.1), [[0, 2]], [(JUMP, (1,))]),
        ((0.0, 0.9, 0.95, 0.1), [[0], [1, 2], [3]], []),
        ((0.0, 0.9), [[0], [1]], []),
        ((0.0, 0.9, 0.05, 0.9, 0.1), [[0, 2, 4]], [(JUMP, (1,)), (JUMP, (3,))]),
    ],
)
def test_frames_split_at_cuts_and_lose_what_jumps(
    places: tuple[float, ...], scenes: list[list[int]], dropped: list[tuple[str, tuple[int, ...]]]
) -> None:
    frames, where = frames_at(*places)
    found, left_out = split_scenes(frames, Places(where), SETTINGS)
    assert (numbers(found), reasons(left_out)) == (scenes, dropped)


def test_near_duplicates_are_compared_with_the_last_frame_that_was_kept() -> None:
    """Slow motion, of which each two neighbours are alike, leaves frames too."""
    frames, where = frames_at(0.0, 0.03, 0.06, 0.09, 0.12)
    kept, dropped = without_duplicates(frames, Places(where), SETTINGS)
    assert numbers([kept]) == [[0, 2, 4]]
    assert reasons(dropped) == [(DUPLICATE, (1,)), (DUPLICATE, (3,))]


@pytest.mark.parametrize(("count", "lengths"), [(2, [2]), (5, [5]), (6, [3, 3]), (11, [3, 4, 4])])
def test_scene_is_divided_into_sequences_of_about_equal_length(count: int, lengths: list[int]) -> None:
    frames, _ = frames_at(*[0.0] * count)
    sequences, dropped = within_scenes([frames], SETTINGS)
    assert sorted(map(len, sequences)) == lengths and not dropped
    assert [frame for sequence in sequences for frame in sequence] == frames


def test_scene_of_one_frame_is_dropped() -> None:
    frames, _ = frames_at(0.0)
    assert within_scenes([frames], SETTINGS)[0] == []
    assert reasons(within_scenes([frames], SETTINGS)[1]) == [(ALONE, (0,))]


def test_scenes_that_are_alike_form_a_sequence_and_pairs_of_others_are_dropped() -> None:
    frames, where = frames_at(0.0, 0.9, 0.3, 0.01)
    sequences, dropped = across_scenes([[frame] for frame in frames], Places(where), SETTINGS)
    assert numbers(sequences) == [[0, 2]]
    expected = [(UNRELATED, (0, 1)), (SAME_SHOT, (0, 3)), (UNRELATED, (1, 3))]
    assert reasons(dropped) == expected


def test_sequence_across_scenes_has_at_most_five_frames_within_reach() -> None:
    frames, where = frames_at(*(0.06 * number for number in range(7)))
    sequences, _ = across_scenes([[frame] for frame in frames], Places(where), SETTINGS)
    assert numbers(sequences) == [[0, 1, 2, 3, 4], [5, 6]]
    near = FrameSettings(cut_below=0.8, duplicate_above=0.95, related_above=0.6, reach=2)
    assert numbers(across_scenes([[frame] for frame in frames], Places(where), near)[0])[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cut_below": 1.5}, "cut_below=1.5 is out of range"),
        ({"duplicate_above": 0.5}, "every frame would be dropped"),
        ({"length": 1}, "length=1 is below the shortest sequence, 2"),
        ({"length": 6}, "length=6 is above"),
        ({"reach": 0}, "reach=0 is below the nearest, 1"),
    ],
)
def test_frame_settings_out_of_range_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        FrameSettings(**values)  # type: ignore[arg-type]
