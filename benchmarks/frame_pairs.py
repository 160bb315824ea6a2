"""Measures the filters of `omnigen2 pairs frames` on films of nano's shapes: precision and recall.

Nano's picture reader says what each frame shows; cuts and foreign frames are planted. A share of captions and of instructions is
falsified on purpose, so that their checks have something to find. Prints JSON.

    python benchmarks/frame_pairs.py --films 20 --json benchmarks/results/frame_pairs.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from frame_films import FilmFrame, are_same, film, kinds, right_instructions, write_film

import omnigen2_rt as og
from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.nano.judging.picture_reader import Reading, read_picture
from omnigen2_rt.nano.tasks.wording import caption
from omnigen2_rt.nano.world.scenes import COLOURS, SIDE_PX, Scene
from omnigen2_rt.pairs.bundle_model import bundle_model
from omnigen2_rt.pairs.frame_pairs import find_sequences, write_words
from omnigen2_rt.pairs.frame_settings import FrameSettings
from omnigen2_rt.pairs.frames import Frame, frames_in
from omnigen2_rt.pairs.scenes import DUPLICATE, JUMP, SAME_SHOT, UNRELATED
from omnigen2_rt.pairs.similarity import Similarities
from omnigen2_rt.pairs.words import DENIED, DOUBTED, NO_CHANGE, NO_INSTRUCTION, UNFOUNDED, Text, Writer
from omnigen2_rt.runtime.files.kept_results import KeptResults

FALSIFIED = 0.3
"""The share of captions, and of instructions, in which a colour is replaced by another one."""
FILTERS = ("cuts", "jumps", "near-duplicates", "unrelated scenes", "captions", "instructions")


@dataclass
class Count:
    """Decisions of a filter: right and wrong alarms, and what it missed."""

    hits: int = 0
    false_alarms: int = 0
    missed: int = 0

    def add(self, is_alarm: bool, is_true: bool) -> None:
        self.hits += is_alarm and is_true
        self.false_alarms += is_alarm and not is_true
        self.missed += is_true and not is_alarm

    def facts(self) -> dict[str, Any]:
        alarms, true = self.hits + self.false_alarms, self.hits + self.missed
        return {
            "precision": self.hits / alarms if alarms else None,
            "recall": self.hits / true if true else None,
            "alarms": alarms,
            "true": true,
        }


class Falsifier:
    """Answers as the model does, but for a share of captions and instructions, in which a colour is wrong."""

    def __init__(self, ask: Callable[[str, Sequence[Frame]], str], is_writing: Callable[[str], bool], seed: int) -> None:
        self._ask, self._is_writing = ask, is_writing
        self._rng = np.random.default_rng(seed)

    def __call__(self, question: str, frames: Sequence[Frame]) -> str:
        answer = self._ask(question, frames)
        named = [colour for colour in COLOURS if colour in answer.split()]
        if not self._is_writing(question) or not named or self._rng.random() >= FALSIFIED:
            return answer
        others = [colour for colour in COLOURS if colour not in answer.split()]
        return answer.replace(str(self._rng.choice(named)), str(self._rng.choice(others)), 1)


class RecordingWriter(Writer):
    """Remembers what was written about which frames."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.captions: list[tuple[Frame, Text]] = []
        self.instructions: list[tuple[Frame, Frame, Text]] = []

    def caption(self, frame: Frame) -> Text:
        self.captions.append((frame, super().caption(frame)))
        return self.captions[-1][1]

    def instruction(self, before: Frame, after: Frame, captions: tuple[str, str]) -> Text:
        self.instructions.append((before, after, super().instruction(before, after, captions)))
        return self.instructions[-1][2]


def measure_film(pipeline: og.Pipeline, made: list[FilmFrame], folder: Path, seed: int, counts: dict[str, Count]) -> int:
    """Count the filters' decisions on one film. Returns the number of frames that the reader couldn't read cleanly."""
    write_film(made, folder / "frames")
    frames = frames_in(folder / "frames")
    readings = [read_picture(frame.load()) for frame in frames]
    model = bundle_model(pipeline)
    kept = KeptResults(folder / "work.jsonl")
    similar = Similarities(model.encode, kept, model.encoder)
    found = find_sequences(frames, similar, FrameSettings())
    by_reason = {
        reason: {tuple(frame.number for frame in each.frames) for each in found.dropped if each.reason == reason}
        for reason in (JUMP, DUPLICATE, UNRELATED, SAME_SHOT)
    }
    _count_cuts(made, found.scenes, by_reason, counts["cuts"])
    for number, frame in enumerate(made):
        counts["jumps"].add((number,) in by_reason[JUMP], frame.event == "foreign")
    _count_duplicates(found.scenes, by_reason[DUPLICATE], readings, made, counts["near-duplicates"])
    middles = [scene[len(scene) // 2].number for scene in found.scenes]
    compared = by_reason[UNRELATED] | by_reason[SAME_SHOT] | {
        (sequence[0].number, other.number) for sequence in found.across for other in sequence[1:]
    }
    for first, second in compared:
        assert {first, second} <= {*middles}
        counts["unrelated scenes"].add((first, second) in by_reason[UNRELATED], kinds(readings[first]) != kinds(readings[second]))
    edit_begin = model.questions.reflection.edit.partition("{critique}")[2][-12:]
    ask = Falsifier(model.ask, lambda text: text == model.questions.caption or text.endswith(edit_begin), seed)
    writer = RecordingWriter(ask, model.questions)
    write_words(found, writer)
    for frame, text in writer.captions:
        counts["captions"].add(text.problem == DOUBTED, text.text != _caption(readings[frame.number]))
    for before, after, text in writer.instructions:
        right = right_instructions(readings[before.number], readings[after.number])
        is_alarm = text.problem in (NO_CHANGE, NO_INSTRUCTION, UNFOUNDED, DENIED)
        # A pair without one right instruction, or an instruction that is another one, must be dropped.
        counts["instructions"].add(is_alarm, not right or (bool(text.text) and text.text not in right))
    kept.close()
    return sum(bool(reading.faults) for reading in readings)


def _count_cuts(
    made: list[FilmFrame], scenes: list[list[Frame]], by_reason: dict[str, set[tuple[int, ...]]], count: Count
) -> None:
    """A cut lies before the first frame of a shot that was not dropped as a jump."""
    begins = {scene[0].number for scene in scenes}
    last_shot = made[0].shot
    for number, frame in enumerate(made):
        if (number,) in by_reason[JUMP] or number == 0:
            continue
        count.add(number in begins, frame.shot != last_shot or frame.event == "foreign")
        last_shot = frame.shot


def _count_duplicates(
    scenes: list[list[Frame]], dropped: set[tuple[int, ...]], readings: list[Reading], made: list[FilmFrame], count: Count
) -> None:
    """A frame is a near-duplicate if the reader sees what it saw in the last frame that was kept."""
    begins = {scene[0].number for scene in scenes}
    kept = {frame.number for scene in scenes for frame in scene}
    last: int | None = None
    for number in range(len(made)):
        if number in kept or (number,) in dropped:
            if last is not None and number not in begins:
                count.add((number,) in dropped, are_same(readings[last], readings[number]))
            last = number if number in kept else last


def _caption(reading: Reading) -> str:
    """The caption of what the reader saw; three things are listed from the top left, as nano does."""
    things = tuple(sorted(reading.things, key=lambda thing: (thing.y > SIDE_PX / 2, thing.x)))
    return caption(Scene(background=reading.background, things=things))


def measure(films: int, shots: int, frames: int, seed: int = 0, threads: int | None = None) -> dict[str, Any]:
    """Precision and recall of every filter on so many films."""
    counts = {name: Count() for name in FILTERS}
    unclean = 0
    with og.load(threads=threads) as pipeline, tempfile.TemporaryDirectory() as folder:
        for number in range(seed, seed + films):
            made = film(number, shots, frames)
            unclean += measure_film(pipeline, made, Path(folder) / str(number), number, counts)
    size = {"films": films, "shots": shots, "frames": films * shots * frames, "not cleanly read": unclean}
    return {**machine_facts(), **size, "filters": {name: count.facts() for name, count in counts.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--frames", type=int, default=10, help="of a shot")
    parser.add_argument("--seed", type=int, default=0, help="of the first film")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.films, arguments.shots, arguments.frames, arguments.seed), indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
