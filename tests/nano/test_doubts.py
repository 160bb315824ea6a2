"""Every word and size of nano's world raises no doubt, and others do."""

from __future__ import annotations

import pytest

from omnigen2_rt.nano.abilities import ABILITIES, Ability, Task, sample
from omnigen2_rt.nano.doubts import doubts, is_nano
from omnigen2_rt.nano.tasks.conversation_tasks import TalkTask
from omnigen2_rt.nano.tasks.task_types import ChatTask
from omnigen2_rt.nano.world.scenes import SIZES_PX
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import bundle_path

SAMPLES = 200


def prompts(task: Task) -> list[str]:
    if isinstance(task, TalkTask):
        return [turn.prompt for turn in task.turns]
    return [task.question if isinstance(task, ChatTask) else task.prompt]


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.name)
def test_no_word_of_the_world_is_doubted(ability: Ability) -> None:
    for number in range(SAMPLES):
        for prompt in prompts(sample(ability, number)):
            assert list(doubts(prompt, SIZES_PX)) == [], prompt


def test_unknown_words_are_named_once_and_in_order() -> None:
    (doubt,) = doubts("Draw a CAT, a red circle and a cat's hat")
    assert doubt.startswith("""nano doesn't know 'cat', "cat's", 'hat' and may draw anything: it knows circles, squares""")


def test_size_that_nano_was_not_trained_for_is_named_once() -> None:
    (doubt,) = doubts("a red circle on blue", [(256, 96), (256, 96), (128, 128)])
    assert "128 x 128, 192 x 128, 128 x 192 px" in doubt and "256 x 96" in doubt


def test_nano_is_known_by_its_tokenizer() -> None:
    assert is_nano(Bundle.open(bundle_path("nano")))
