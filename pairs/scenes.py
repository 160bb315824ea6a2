"""Splits frames into scenes, drops what repeats or jumps, and forms sequences of up to five frames.

A sequence lies within a scene, or takes a frame each of several scenes that are alike. Knows nothing of pictures: how similar two
frames are, a function says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .frame_settings import FrameSettings
from .frames import Frame
from .similarity import Similar

Scene = list[Frame]


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A frame that was left out, or a pair of frames.

    reason: one of a few, to be counted.
    frames: the frame, or both frames of a pair.
    detail: the particulars of this case.
    """

    reason: str
    frames: tuple[Frame, ...]
    detail: str = ""


JUMP = "jump: unlike both neighbours, which are alike"
DUPLICATE = "near-duplicate of the last frame that was kept"
ALONE = "alone in its scene"
UNRELATED = "pair of scenes that show different things"
SAME_SHOT = "pair of scenes that show the same picture"


def split_scenes(frames: Sequence[Frame], similar: Similar, settings: FrameSettings) -> tuple[list[Scene], list[Dropped]]:
    """The scenes. Drops a single frame that interrupts one, such as a flash or a damaged frame."""
    scenes, dropped = [[frame] for frame in frames[:1]], list[Dropped]()
    for frame, after in zip(frames[1:], [*frames[2:], None], strict=False):
        before = scenes[-1][-1]
        if similar(before, frame) >= settings.cut_below:
            scenes[-1].append(frame)
        elif after is not None and similar(before, after) >= settings.cut_below:
            dropped.append(Dropped(reason=JUMP, frames=(frame,), detail=f"similarity {similar(before, frame):.3f}"))
        else:
            scenes.append([frame])
    return scenes, dropped


def without_duplicates(scene: Scene, similar: Similar, settings: FrameSettings) -> tuple[Scene, list[Dropped]]:
    """The frames of a scene that differ from the one that was kept before."""
    kept, dropped = scene[:1], []
    for frame in scene[1:]:
        alike = similar(kept[-1], frame)
        if alike > settings.duplicate_above:
            dropped.append(Dropped(reason=DUPLICATE, frames=(frame,), detail=f"similarity {alike:.3f} to {kept[-1].name}"))
        else:
            kept.append(frame)
    return kept, dropped


def within_scenes(scenes: Iterable[Scene], settings: FrameSettings) -> tuple[list[Scene], list[Dropped]]:
    """Each scene's frames in sequences of about equal length; scenes of a single frame are dropped."""
    sequences, dropped = list[Scene](), list[Dropped]()
    for scene in scenes:
        if len(scene) < 2:
            dropped.append(Dropped(reason=ALONE, frames=tuple(scene)))
            continue
        parts = -(-len(scene) // settings.length)
        bounds = [len(scene) * part // parts for part in range(parts + 1)]
        sequences += [scene[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
    return sequences, dropped


def across_scenes(scenes: Sequence[Scene], similar: Similar, settings: FrameSettings) -> tuple[list[Scene], list[Dropped]]:
    """Sequences of the middle frames of scenes that are alike, each scene in one of them; and the pairs that are not alike."""
    middles = [scene[len(scene) // 2] for scene in scenes]
    sequences, dropped, taken = list[Scene](), list[Dropped](), set[int]()
    for first, frame in enumerate(middles):
        if first in taken:
            continue
        sequence = [frame]
        for number in range(first + 1, min(first + 1 + settings.reach, len(middles))):
            if number in taken or len(sequence) == settings.length:
                continue
            reason, detail = _objection(sequence, middles[number], similar, settings)
            if reason:
                dropped.append(Dropped(reason=reason, frames=(frame, middles[number]), detail=detail))
            else:
                sequence.append(middles[number])
                taken.add(number)
        if len(sequence) > 1:
            sequences.append(sequence)
    return sequences, dropped


def _objection(sequence: Scene, frame: Frame, similar: Similar, settings: FrameSettings) -> tuple[str, str]:
    """The reason why a frame doesn't fit into a sequence, or "", and how similar they are."""
    alike = [similar(other, frame) for other in sequence]
    if min(alike) < settings.related_above:
        return UNRELATED, f"similarity {min(alike):.3f}"
    return (SAME_SHOT, f"similarity {max(alike):.3f}") if max(alike) > settings.duplicate_above else ("", "")
