"""Finds in a request what nano wasn't trained for, unknown words and other sizes: it draws something all the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError
from ..runtime.manifest import Manifest
from ..runtime.pipeline import bundle_path
from .tasks.chat_tasks import SMALL_TALK
from .tasks.paraphrase import GROUNDS, POLITE, SYNONYMS
from .tasks.wording import BETWEEN, NUMBERS, ORDINALS, PLAIN, TIMES
from .world.landscapes import SUBJECTS
from .world.scenes import COLOURS, PLACES, RADII_PX, SHAPES, SIZES_PX, STYLES

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+")
SENTENCES = (
    "draw put place change the background to make it paint turn into delete remove take away add replace with swap for move",
    "smaller bigger object objects and from image images picture of a an on in 1 2 3",
    "what which colour has have shape is there are small or large how many count describe do you see",
    "asked grade right wrong mends edit missing badly drawn 0 10 yes day or night",
)
"""The other words of WORLD.md's rules."""


def is_nano(bundle: Bundle) -> bool:
    """Whether the bundle is nano or derived from it: whether it has nano's tokenizer."""
    try:
        shipped = Bundle.open(bundle_path("nano"))
    except BundleError:  # a release without a model
        return False
    return _tokenizer_hash(bundle.manifest) == _tokenizer_hash(shipped.manifest)


def _tokenizer_hash(manifest: Manifest) -> str:
    return next(spec.sha256 for spec in manifest.files if spec.file == manifest.tokenizer)


def doubts(prompt: str, sizes_px: Iterable[tuple[int, int]] = ()) -> Iterator[str]:
    """Sentences about the prompt's unknown words, and about sizes (width, height) of pictures that nano wasn't trained for."""
    unknown = [word for word in dict.fromkeys(WORD.findall(prompt.lower())) if word not in KNOWN_WORDS]
    if unknown:
        yield (
            f"nano doesn't know {', '.join(map(repr, unknown))} and may draw anything: it knows "
            f"{', '.join(f'{thing}s' for thing in (*SHAPES, *SUBJECTS))} in {', '.join(COLOURS)}, {' and '.join(RADII_PX)}"
        )
    for width, height in dict.fromkeys(sizes_px):
        if (width, height) not in SIZES_PX:
            known = ", ".join(f"{known_width} x {known_height}" for known_width, known_height in SIZES_PX)
            yield f"nano was trained for pictures of {known} px and often fails at {width} x {height}"


def _known_words() -> frozenset[str]:
    between = (wording for wordings in BETWEEN.values() for wording in wordings)
    synonyms = (word for words in SYNONYMS.values() for word in words)
    talk = (text for exchange in SMALL_TALK for text in exchange)
    texts = (*SENTENCES, *COLOURS, *SHAPES, *RADII_PX, *PLACES, *NUMBERS, *ORDINALS, *SYNONYMS, *POLITE, *GROUNDS)
    texts += (*SUBJECTS, *STYLES, PLAIN, *TIMES.values())
    plurals = (f"{shape}s" for shape in SHAPES)
    return frozenset(WORD.findall(" ".join((*texts, *plurals, *between, *synonyms, *talk)).lower()))


KNOWN_WORDS = _known_words()
"""Every word of the requests and questions that nano was trained on."""
