"""Training pairs from the frames of a video: scenes, sequences, words, and a report of everything that was dropped and why.

    OUT/pairs.jsonl       the pairs in the training's form: "edit" within a scene, "ic" across scenes
    OUT/sequences.jsonl   the sequences with their captions and instructions
    OUT/dropped.jsonl     every frame and pair that was left out, with the reason
    OUT/report.json       counts, settings, and how similar neighbours are
    OUT/work.jsonl        similarities and answers so far: a stopped run goes on from there, to the same bytes

Knows no engine and no endpoint: one function encodes a frame, another one answers.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.files.kept_results import KeptResults
from ..runtime.files.writing import write_whole
from ..runtime.progress import Progress, no_progress
from .frame_settings import FrameSettings
from .frames import Frame, frames_in
from .scenes import Dropped, Scene, across_scenes, split_scenes, within_scenes, without_duplicates
from .similarity import Encode, Similar, Similarities
from .training_rows import TrainingRow, json_line
from .words import LONGEST_TEXT, AskFrames, Questions, Text, Unanswered, Writer

EDIT, IN_CONTEXT = "edit", "ic"
WORK, RESULTS = "work.jsonl", ("pairs.jsonl", "sequences.jsonl", "dropped.jsonl", "report.json")
UNREADABLE = "no picture"
MOST_UNANSWERED = 5
"""Questions in a row without an answer that end the work."""


@dataclass(frozen=True, kw_only=True)
class FrameModel:
    """The model that looks at frames.

    encode: computes the features of a frame.
    encoder: the name of the encoder: kept results of another one aren't taken.
    ask: answers a question about frames.
    writer: the name of the model that answers.
    questions: the questions that it is asked.
    """

    encode: Encode
    encoder: str
    ask: AskFrames
    writer: str
    questions: Questions


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The sequences of a folder of frames, and everything that was dropped on the way."""

    scenes: list[Scene]
    within: list[Scene]
    across: list[Scene]
    dropped: list[Dropped]


def make_pairs(
    folder: Path, out: Path, model: FrameModel, settings: FrameSettings, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write the pairs of a folder of frames into the folder `out`, made where it is missing. Returns the report.

    Raises RequestError where frames can't be found or a file can't be written, OmniGen2Error where the model doesn't answer, and
    as `model`'s functions do.
    """
    frames = frames_in(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the folder {str(out)!r} can't be made: {error.strerror or error}") from error
    if not (out / WORK).exists():
        for name in RESULTS:
            if os.path.lexists(out / name):
                raise RequestError(f"{str(out / name)!r} is there and not from an earlier run: name another folder, or move it")
    kept = KeptResults(out / WORK)
    try:
        return _make_pairs(frames, out, model, settings, kept, progress)
    finally:
        kept.close()


def _make_pairs(
    frames: list[Frame], out: Path, model: FrameModel, settings: FrameSettings, kept: KeptResults, progress: Progress
) -> dict[str, Any]:
    similar = Similarities(model.encode, kept, model.encoder)
    readable, dropped = _readable(frames, kept)
    neighbours = []
    for number, (frame, after) in enumerate(zip(readable, readable[1:], strict=False), 1):
        neighbours.append(similar(frame, after))
        progress(number, len(readable) - 1, "comparing frames")
    sequences = find_sequences(readable, similar, settings)
    dropped += sequences.dropped

    writer = Writer(_KeptAnswers(model, kept).ask, model.questions)
    rows, written, unwritten = write_words(sequences, writer, progress)
    dropped += unwritten
    report = {
        "frames": len(frames),
        "scenes": len(sequences.scenes),
        "sequences": {"within a scene": len(sequences.within), "across scenes": len(sequences.across)},
        "pairs": dict(Counter(row.task_type for row in rows)),
        "dropped": dict(sorted(Counter(each.reason for each in dropped).items())),
        "similarity of neighbours": _quantiles(neighbours),
        "settings": asdict(settings),
        "encoder": model.encoder,
        "writer": model.writer,
    }
    try:
        write_whole(out / "pairs.jsonl", b"".join(row.line() for row in rows))
        write_whole(out / "sequences.jsonl", b"".join(map(json_line, written)))
        write_whole(out / "dropped.jsonl", b"".join(json_line(_dropped_facts(each)) for each in dropped))
        write_whole(out / "report.json", json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise RequestError(f"{str(out)!r} can't be written to: {error.strerror or error}") from error
    return report


class _KeptAnswers:
    """The model's answers, kept; a question that was not answered is asked again by the next run."""

    def __init__(self, model: FrameModel, kept: KeptResults) -> None:
        self._model = model
        self._kept = kept
        self._unanswered = 0

    def ask(self, question: str, about: Sequence[Frame]) -> str:
        """See `AskFrames`. Raises OmniGen2Error where MOST_UNANSWERED questions in a row were not answered."""

        def answered() -> str:
            answer = self._model.ask(question, about)
            self._unanswered = 0
            return answer

        try:
            return self._kept.get(["answer", self._model.writer, question, [frame.digest for frame in about]], answered)
        except Unanswered as error:
            self._unanswered += 1
            if self._unanswered < MOST_UNANSWERED:
                raise
            raise OmniGen2Error(
                f"the writer answered none of {MOST_UNANSWERED} questions in a row, the last one because {error}; earlier "
                "answers are kept: run the same command again when it answers"
            ) from error


def _readable(frames: list[Frame], kept: KeptResults) -> tuple[list[Frame], list[Dropped]]:
    problems = [kept.get(["problem", frame.digest], frame.problem) for frame in frames]
    pairs = list(zip(frames, problems, strict=True))
    dropped = [Dropped(reason=UNREADABLE, frames=(frame,), detail=problem) for frame, problem in pairs if problem]
    return [frame for frame, problem in pairs if not problem], dropped


def find_sequences(frames: Sequence[Frame], similar: Similar, settings: FrameSettings) -> Sequences:
    """The scenes without what repeats or jumps, and their sequences."""
    whole, dropped = split_scenes(frames, similar, settings)
    scenes = []
    for scene in whole:
        thinned, repeated = without_duplicates(scene, similar, settings)
        scenes.append(thinned)
        dropped += repeated
    within, alone = within_scenes(scenes, settings)
    across, apart = across_scenes(scenes, similar, settings)
    used = {frame.number for sequence in across for frame in sequence}
    unused = [each for each in alone if each.frames[0].number not in used]
    return Sequences(scenes=scenes, within=within, across=across, dropped=[*dropped, *unused, *apart])


def write_words(
    sequences: Sequences, writer: Writer, progress: Progress = no_progress
) -> tuple[list[TrainingRow], list[dict[str, Any]], list[Dropped]]:
    """The training rows of all sequences, the sequences with their words, and the frames and pairs that were dropped.

    Within a scene each frame and the next one are a pair, whose instruction is written. Across scenes all frames but the last are
    the context in which the last one is drawn; the instruction is its caption.
    """
    rows, written, dropped = list[TrainingRow](), list[dict[str, Any]](), list[Dropped]()
    every = [*((EDIT, each) for each in sequences.within), *((IN_CONTEXT, each) for each in sequences.across)]
    captions: dict[int, Text] = {}
    for number, (kind, sequence) in enumerate(every):
        progress(number, len(every), "writing instructions")
        for frame in sequence:
            if frame.number not in captions:
                captions[frame.number] = caption = writer.caption(frame)
                if caption.problem:
                    dropped.append(Dropped(reason=caption.problem, frames=(frame,), detail=caption.detail))
        good = [frame for frame in sequence if not captions[frame.number].problem]
        instructions = []
        for row, problem in _rows(kind, good, {frame.number: captions[frame.number].text for frame in good}, writer):
            rows += [row] if row else []
            dropped += [problem] if problem else []
            instructions.append(row.instruction if row else "")
        texts = [{"frame": frame.name, "caption": captions[frame.number].text} for frame in good]
        written.append({"task_type": kind, "frames": texts, "instructions": instructions})
    progress(len(every), len(every), "writing instructions")
    return rows, written, dropped


def _rows(
    kind: str, frames: Scene, captions: dict[int, str], writer: Writer
) -> Iterator[tuple[TrainingRow | None, Dropped | None]]:
    """The rows of a sequence, or why a pair is none."""
    if kind == IN_CONTEXT:
        if len(frames) > 1:
            yield _row(kind, captions[frames[-1].number], frames[:-1], frames[-1]), None
        return
    for before, after in zip(frames, frames[1:], strict=False):
        written = writer.instruction(before, after, (captions[before.number], captions[after.number]))
        if written.problem:
            yield None, Dropped(reason=written.problem, frames=(before, after), detail=written.detail or written.text)
        else:
            yield _row(kind, written.text, [before], after), None


def _row(kind: str, instruction: str, inputs: Scene, output: Frame) -> TrainingRow:
    paths = [frame.path for frame in inputs]
    return TrainingRow(task_type=kind, instruction=instruction, input_images=paths, output_image=output.path)


def _dropped_facts(each: Dropped) -> dict[str, Any]:
    return {"reason": each.reason, "frames": [frame.name for frame in each.frames], "detail": each.detail[:LONGEST_TEXT]}


def _quantiles(values: list[float]) -> dict[str, float]:
    shares = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    return {f"{share:g}": round(float(np.quantile(values, share)), 4) for share in shares} if values else {}
