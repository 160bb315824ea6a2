"""Nano's training encodes inputs like the runtime, saves, resumes and learns. The networks start from random weights here."""

import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from omnigen2_rt.nano.chat_tasks import CRITIQUE_TEMPLATE, EDIT_TEMPLATE, GRADE_TEMPLATE, NO_MISTAKE
from omnigen2_rt.nano.render import render
from omnigen2_rt.nano.training import checkpoint, conversations, loop, pool
from omnigen2_rt.nano.training.conversations import Processor
from omnigen2_rt.nano.training.loop import Schedule, Training
from omnigen2_rt.nano.training.mllm import MLLMWithProbes, Questions, losses
from omnigen2_rt.nano.training.transformer import Batches, sample_times, velocity_error
from omnigen2_rt.nano.world import Sampler
from omnigen2_rt.reference.transformer import initialize
from omnigen2_rt.runtime.files.writing import PARTIAL
from omnigen2_rt.runtime.mllm.image_processor import vision_patches
from omnigen2_rt.runtime.mllm.vision_tables import vision_tables


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(checkpoint.CHECKPOINT)


def test_patches_of_a_batch_are_the_runtimes(processor: Processor) -> None:
    scenes = [Sampler(seed).one_thing() for seed in range(3)]
    together = processor.patches(np.stack([processor.render_pixels(scene) for scene in scenes])).numpy()
    for patches, scene in zip(together, scenes, strict=True):
        np.testing.assert_allclose(patches, vision_patches(render(scene), processor.image_processor)[0], atol=1e-6)


def test_encode_images_of_a_batch_attends_to_each_image_alone(processor: Processor) -> None:
    torch.manual_seed(0)
    visual = checkpoint.build("mllm").visual
    patches = processor.patches(np.stack([processor.render_pixels(Sampler(seed).one_thing()) for seed in range(2)]))
    config = visual.config
    tables = vision_tables(
        processor.grid, merge=2, window_px=config.window_size, patch_px=14, head_width=config.head_width
    )
    with torch.no_grad():
        together = conversations.encode_images(visual, patches, processor.grid)
        alone = [visual(one, *map(torch.from_numpy, tables)) for one in patches]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_turn_holds_its_image_tokens_and_its_answer(processor: Processor) -> None:
    turn = processor.encode_turn("what colour is the circle?", 2, "red")
    assert sum(turn.ids == processor.image_token) == 2 * processor.tokens_per_side**2
    assert processor.tokenizer.decode(turn.ids[turn.answer_start :].tolist(), skip_special=False) == "red<|im_end|>"
    assert turn.positions.max() < len(turn.ids)  # a picture takes fewer positions than tokens


def test_every_word_of_the_world_is_one_token(processor: Processor) -> None:
    ids = processor.tokenizer.encode("draw a large red circle to the left of a small purple triangle on blue")
    assert len(ids) == 15


@pytest.fixture
def counting_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second whenever training reads it, twice a step."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=partial(next, itertools.count(0.0))))


def test_training_resumes_from_its_state(counting_clock: None, tmp_path: Path) -> None:
    def session() -> Training:
        torch.manual_seed(0)
        training = Training(nn.Linear(4, 1), Schedule(learning_rate=1e-2, with_muon=True), tmp_path / "state.pt")
        inputs = torch.randn(64, 4)
        targets = inputs.sum(1, keepdim=True)
        training.run(lambda: (((training.network(inputs).float() - targets) ** 2).mean(), {}), 30)
        return training

    first = session()
    weights = {name: value.clone() for name, value in first.network.state_dict().items()}
    resumed = Training(nn.Linear(4, 1), first.schedule, tmp_path / "state.pt")
    assert resumed.step == first.step > 10
    assert all(torch.equal(weights[name], value) for name, value in resumed.network.state_dict().items())
    assert len(resumed.optimizers[0].state_dict()["state"]) == len(first.optimizers[0].state_dict()["state"]) > 0
    assert not list(tmp_path.glob(f"{PARTIAL}*"))


def test_training_skips_a_step_that_is_not_finite(counting_clock: None, tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    before = network.weight.detach().clone()
    training = Training(network, Schedule(learning_rate=1.0), tmp_path / "state.pt")
    training.run(lambda: (network(torch.ones(1, 2)).sum() * float("nan"), {}), 5)
    assert training.step == 0 and torch.equal(network.weight, before)


def test_mllm_overfits_a_batch(processor: Processor) -> None:
    torch.manual_seed(0)
    model = MLLMWithProbes(checkpoint.build("mllm"))
    checkpoint.initialize_mllm(model)
    questions = Questions(processor, np.random.SeedSequence(1), 8)
    _, batch, labels = questions.take(np.arange(8), processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(20):
        optimizer.zero_grad()
        loss, right, _ = losses(model, batch, labels, processor)
        loss.backward()
        optimizer.step()
        history.append((loss.item(), int(right.sum())))
    assert history[-1][0] < history[0][0] / 4
    assert history[-1][1] >= 7


def test_pool_groups_tasks_by_references_and_tokens(processor: Processor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mllm, vae = checkpoint.build("mllm").eval(), checkpoint.build("vae").eval()
    path = pool.write_shard(tmp_path, 0, processor, mllm, vae, tasks=12)
    written = path.stat().st_mtime_ns
    assert pool.write_shard(tmp_path, 0, processor, mllm, vae, tasks=12).stat().st_mtime_ns == written
    groups = pool.load(tmp_path)
    assert sum(len(group.states) for group in groups.values()) == 12
    for (references, tokens), group in groups.items():
        assert group.states.shape[1:] == (tokens, 128)
        assert group.latents.shape[1:] == (1 + references, 32, 8, 8)
        assert (group.labels.shape[1:], group.offsets.shape[1:]) == ((16, 6), (16, 3))


def test_pool_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no shards"):
        pool.load(tmp_path)


def test_batches_drop_requests_and_references() -> None:
    states, latents = np.ones((3, 5, 4), np.float16), np.ones((3, 2, 1, 2, 2), np.float16)
    empty = np.zeros((3, 1, 4))
    groups = {(1, 5): pool.Group(states, latents, empty.astype(np.int64), empty[..., :3].astype(np.float32))}
    batches = Batches(groups, torch.zeros(2, 4), np.random.default_rng(0))
    kinds = {(states.shape[1], latents.shape[1]) for _, _, states, latents in (batches.take() for _ in range(200))}
    assert kinds == {(5, 2), (2, 2), (2, 1)}


def test_sample_times_cover_the_whole_range() -> None:
    torch.manual_seed(0)
    t = sample_times(512)
    assert 0 < t.min() < 0.1 and 0.9 < t.max() < 1


def test_transformer_overfits_a_batch() -> None:
    torch.manual_seed(0)
    network = checkpoint.build("transformer")
    initialize(network)
    latents, references, states = torch.randn(4, 32, 8, 8), [torch.randn(4, 32, 8, 8)], torch.randn(4, 5, 128)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    history = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = velocity_error(network, latents, references, states, torch.full((4,), 0.5))
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_saved_part_is_read_back_by_the_reference(tmp_path: Path) -> None:
    from omnigen2_rt.reference.weights import load_mllm

    (tmp_path / "mllm").mkdir()
    config = (checkpoint.CHECKPOINT / "mllm" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "mllm" / "config.json").write_text(config, encoding="utf-8")
    network = checkpoint.build("mllm")
    checkpoint.save("mllm", network, tmp_path)
    loaded = load_mllm(tmp_path)
    resumed = checkpoint.load_or_build("mllm", pytest.fail, tmp_path)
    assert resumed.training and all(parameter.requires_grad for parameter in resumed.parameters())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.bfloat16().float(), atol=0, rtol=0)
    checkpoint.update_config("mllm", {"rope_theta": 5.0}, tmp_path)
    assert json.loads((tmp_path / "mllm" / "config.json").read_text(encoding="utf-8"))["rope_theta"] == 5.0


def test_checkpoint_has_the_reflection_prompts_of_the_training() -> None:
    prompts = json.loads((checkpoint.CHECKPOINT / "reflection.json").read_text(encoding="utf-8"))
    assert prompts == {
        "critique": CRITIQUE_TEMPLATE,
        "edit": EDIT_TEMPLATE,
        "judge": GRADE_TEMPLATE,
        "content": NO_MISTAKE,
    }
