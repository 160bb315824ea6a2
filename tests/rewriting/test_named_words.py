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
    ],
)
def test_rewrite_that_lacks_a_word_names_it(prompt: str, rewrite: str, lost: list[str]) -> None:
    assert lost_words(prompt, rewrite) == lost


def test_quoted_texts_of_every_kind_are_found() -> None:
    assert quoted_texts("\"a\" “b” „c“ «d» 「e」 ‘f’ 'g' don't won't") == list("abcdefg")


def test_named_meanings_have_one_spelling() -> None:
    assert named_meanings("Two grey cats, 2 gray dogs") == {"2", "gray"}
