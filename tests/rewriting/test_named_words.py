"""Numbers, colours and quoted texts that a rewrite must keep."""

from __future__ import annotations

import pytest

from omnigen2_rt.rewriting.named_words import lost_words, named_meanings, quoted_texts


@pytest.mark.parametrize(
    ("prompt", "rewrite", "lost"),
    [
        ("three cats", "3 fluffy cats on a sofa", []),
        ("3 cats", "three fluffy cats", []),
        ("three cats", "some fluffy cats", ["three"]),
        ("Three cats", "two fluffy cats", ["Three"]),
        ("twenty-one candles", "a cake with 21 candles", []),
        ("twenty-one candles", "a cake with twenty candles", ["twenty-one"]),
        ("1,000 lanterns", "1000 lanterns over a river", []),
        ("a 35mm photo", "a photo on film", ["35"]),
        ("a grey cat", "a Gray cat", []),
        ("a golden ring", "a ring of gold", []),
        ("a red cube and a blue ball", "a red cube beside a ball", ["blue"]),
        ("a red cube and a red ball", "a red cube and a ball", ["red"]),
        ("a red cube", "reddish light on a cube", ["red"]),
        ("a blue-green bird", "a bird, blue and green", []),
        ("put the second image beside the first", "the 1st picture and the 2nd, side by side", []),
        ("the object from image 2", "the object from the picture", ["2"]),
        ('a sign that says "OPEN 24h"', "a sign reading OPEN 24h in neon", []),
        ('a sign that says "Open"', "a sign that says OPEN", ["Open"]),
        ("a sign that says 'Bob’s'", "a sign of Bob’s", []),
        ("a shop called “Zur Post”", "a shop", ["Zur Post"]),
        ("the dogs' bowl and the cats' toy", "a bowl and a toy", []),
        ("a fox in the snow", "a fox", []),
        ("Twenty-one candles", "a cake with twenty‑one candles", []),
        ("Twenty-one candles", "a cake with 21 candles", []),
        ("Twenty-one candles", "a cake with Twenty candles", ["Twenty-one"]),
        ("Twenty-one candles", "a cake with twenty candles, one of them lit", ["Twenty-one"]),
        ("200 doves", "two hundred doves", []),
        ("a hundred and five doves", "105 doves", []),
        ("2 thousand doves", "two thousand doves", []),
        ("two thousand three hundred and four doves", "2,304 doves", []),
        ("two hundred doves", "a hundred doves", ["two hundred"]),
        ("two dozen eggs", "24 eggs", []),
        ("three one-eyed cats", "3 cats, each with 1 eye", []),
        ("the eleventh house", "the 11th house", []),
        ("the eleventh house", "the house", ["eleventh"]),
        ("her hundredth birthday", "her 100th birthday", []),
        ("the twenty-first of May", "the 21st of May", []),
        ("the twenty-first of May", "the twentieth of May", ["twenty-first"]),
        ("2,5 metres", "25 metres", ["2,5"]),
        ("2,5 metres", "2.5 metres", []),
        ("pages 1,2,3", "pages 1, 2, 3", []),
        ("pages 1,2,3", "pages 12 and 3", ["1", "2"]),
        ("a sign 'ART'", "a sign with START on it", ["ART"]),
        ("a sign 'ART'", "a sign with ART on it", []),
        ("a sign 'Don't walk'", "a sign with Walk on it", ["Don't walk"]),
        ("a sign 'Don't walk'", "a sign with Don't walk on it", []),
        ('a sign "MIND\nTHE GAP"', "a sign with MIND THE GAP on it", []),
        ('a sign "MIND\nTHE GAP"', "a sign with MIND on it", ["MIND THE GAP"]),
        ('a 5" nail and a 7" screw', "a nail of 5 inches and a screw of 7", []),
    ],
)
def test_rewrite_that_lacks_a_word_names_it(prompt: str, rewrite: str, lost: list[str]) -> None:
    assert lost_words(prompt, rewrite) == lost


def test_quoted_texts_of_every_kind_are_found() -> None:
    text = "\"a\" “b” „c“ «d» 「e」 ‘f’ 'g' don't won't »h« ‚i‘ 『j』 ”k” ‹l› ›m‹"
    assert quoted_texts(text) == list("abcdefghijklm")


def test_named_meanings_have_one_spelling() -> None:
    assert named_meanings("Two grey cats, 2 gray dogs") == {"2", "gray"}
