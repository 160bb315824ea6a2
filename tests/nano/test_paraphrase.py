"""Other words for requests: what WORLD.md lists, and nothing that changes the meaning."""

from __future__ import annotations

from omnigen2_rt.nano.tasks.drawing_tasks import draw
from omnigen2_rt.nano.tasks.edits import edit
from omnigen2_rt.nano.tasks.paraphrase import ARTICLES, SYNONYMS, paraphrase
from omnigen2_rt.nano.world.landscapes import SKIES, SUBJECTS
from omnigen2_rt.nano.world.scenes import COLOURS, SHAPES, STYLES, Sampler
from tests.nano.grammar import PAGE

SAMPLES = 600


def test_synonyms_are_in_the_page() -> None:
    (section,) = (part for part in PAGE.split("\n\n") if part.startswith("**Other words.**"))
    others = {other for words in SYNONYMS.values() for other in words} - {"draw", "paint", "make", "things", "shapes"}
    assert [other for other in sorted(others) if f'"{other}"' not in " ".join(section.split())] == []


def test_paraphrase_keeps_names_in_their_order() -> None:
    sampler = Sampler(1)
    changed = 0
    for _ in range(SAMPLES):
        prompt = (draw if sampler.chance(0.5) else edit)(sampler).prompt
        other = paraphrase(prompt, sampler, is_request=True)
        changed += other != prompt
        assert _kept_words(other) == _kept_words(prompt), (prompt, other)
    assert changed > SAMPLES / 2


def test_paraphrase_makes_each_of_its_changes() -> None:
    sampler = Sampler(2)
    texts = [
        paraphrase("draw a large red circle on a blue background", sampler, is_request=True) for _ in range(SAMPLES)
    ]
    for has_change in (
        lambda text: text.isupper(),
        lambda text: text[0].isupper() and not text.isupper(),
        lambda text: text.endswith("."),
        lambda text: "please" in text.lower(),
        lambda text: not ARTICLES.search(text.lower()),
        lambda text: "with a blue background" in text.lower(),
        lambda text: "huge" in text.lower(),
    ):
        assert any(map(has_change, texts))


def test_question_loses_its_question_mark_and_never_gets_a_full_stop() -> None:
    sampler = Sampler(3)
    texts = {paraphrase("what is above the star?", sampler, is_request=False).lower() for _ in range(SAMPLES)}
    assert {text.endswith("?") for text in texts} == {True, False} and not any(text.endswith(".") for text in texts)


def _kept_words(text: str) -> list[str]:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    names = {*COLOURS, *SHAPES, *STYLES[1:], *SUBJECTS, *SKIES}
    return [word.removesuffix("s") for word in words if word.removesuffix("s") in names]
