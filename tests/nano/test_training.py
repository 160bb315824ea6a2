"""Nano's training encodes inputs like the runtime, saves, resumes and learns. The networks start from random weights here."""

import itertools
import json
import shutil
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from omnigen2_rt.nano.tasks import conversation_tasks
from omnigen2_rt.nano.tasks.chat_tasks import DRAW_TOKEN
from omnigen2_rt.nano.tasks.conversation_tasks import Talk, TalkTurn
from omnigen2_rt.nano.tasks.drawing_tasks import gather
from omnigen2_rt.nano.tasks.reflection_tasks import CRITIQUE_TEMPLATE, EDIT_TEMPLATE, GRADE_TEMPLATE, NO_MISTAKE
from omnigen2_rt.nano.training import checkpoint, corpus, loop, schedule
from omnigen2_rt.nano.training.corpus import Corpus, picture_patches, run_mllm
from omnigen2_rt.nano.training.episodes import Encoder, Episode, flawless, random_episode
from omnigen2_rt.nano.training.loop import Options, Schedule, Training
from omnigen2_rt.nano.training.mllm import MLLMWithProbes, losses
from omnigen2_rt.nano.training.pool import Group, Pool, encode_empty_requests, encode_shards, group_drawings
from omnigen2_rt.nano.training.shards import pack, read_by_size, read_shards, write_shard
from omnigen2_rt.nano.training.transformer import Batches, sample_times, velocity_error
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import SIZES_PX, SQUARE, PictureSize, Sampler
from omnigen2_rt.reference.transformer import initialize
from omnigen2_rt.reference.weights import load_mllm, load_vae
from omnigen2_rt.runtime.files.writing import PARTIAL
from omnigen2_rt.runtime.mllm.image_processor import vision_patches
from omnigen2_rt.runtime.mllm.vision_tables import vision_tables

CPU = torch.device("cpu")
EPISODES = 24
SLOW_PARTS = ("vision_encoder", "mllm", "transformer")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(checkpoint.CHECKPOINT)


@pytest.fixture(scope="module")
def folder(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two small shards."""
    work = tmp_path_factory.mktemp("work")
    for number in range(2):
        write_shard(number, work / "episodes", encoder, EPISODES)
    return work


def random_episodes(encoder: Encoder, seed: int, count: int, size_px: PictureSize = SQUARE) -> list[Episode]:
    sampler = Sampler(seed, size_px)
    return [random_episode(encoder, sampler) for _ in range(count)]


def corpus_of(episodes: list[Episode], encoder: Encoder, size_px: PictureSize = SQUARE) -> Corpus:
    shard = pack(episodes, encoder, size_px)
    return Corpus([(shard, shard.pictures)], encoder, CPU)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_patches_of_a_batch_are_the_runtimes_to_two_grey_levels(encoder: Encoder, size_px: PictureSize) -> None:
    pictures = [render(Sampler(seed, size_px).one_thing()) for seed in range(3)]
    together = picture_patches(torch.from_numpy(np.stack([np.asarray(p) for p in pictures])), encoder.image_processor)
    level = encoder.image_processor.rescale_factor / min(encoder.image_processor.image_std)
    for patches, picture in zip(together.numpy(), pictures, strict=True):
        expected = vision_patches(picture, encoder.image_processor)[0]
        np.testing.assert_allclose(patches, expected, atol=2.01 * level)
        assert np.abs(patches - expected).mean() < 0.05 * level


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_encode_images_of_a_batch_attends_to_each_image_alone(encoder: Encoder, size_px: PictureSize) -> None:
    torch.manual_seed(0)
    visual = checkpoint.build("mllm").visual
    pictures = np.stack([np.asarray(render(Sampler(seed, size_px).one_thing())) for seed in range(2)])
    patches = picture_patches(torch.from_numpy(pictures), encoder.image_processor)
    config, grid = visual.config, encoder.grids[size_px]
    tables = vision_tables(grid, merge=2, window_px=config.window_size, patch_px=14, head_width=config.head_width)
    with torch.no_grad():
        together = corpus.encode_images(visual, patches, grid)
        alone = [visual(one, *map(torch.from_numpy, tables)) for one in patches]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size_px", "tokens"), [((128, 128), 25), ((192, 128), 35), ((128, 192), 35)])
def test_question_holds_its_image_tokens_and_its_answer(encoder: Encoder, size_px: PictureSize, tokens: int) -> None:
    pictures = [flawless(Sampler(seed, size_px).one_thing()) for seed in range(2)]
    episode = encoder.question("what colour is the circle?", pictures, "red")
    assert episode.ids.count(encoder.image_token) == 2 * tokens
    ((start, end, _),) = episode.answers
    assert encoder.tokenizer.decode(episode.ids[start:end], skip_special=False) == "red<|im_end|>"
    assert encoder.positions(episode).max() < len(episode.ids)  # a picture takes fewer positions than tokens


def test_conversation_is_laid_out_as_by_the_runtime(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawn picture is shown in the next turn; an edit after a question starts from it too."""
    talk = Talk(Sampler(3))
    for step in (talk.greet, talk.draw, talk.ask, talk.edit):
        step()
    episode = encoder.talk(tuple(talk.turns), Sampler(1))
    first, second = episode.drawings
    assert first.references == () and second.references == tuple(episode.shown)
    assert len(episode.shown) == 1 and episode.pictures[episode.shown[0]].scene == episode.pictures[first.target].scene
    texts = [encoder.tokenizer.decode(episode.ids[d.start : d.end], skip_special=False) for d in episode.drawings]
    assert texts[0] == encoder.templates.next_turn.replace("{prompt}", talk.turns[1].prompt)
    assert texts[1] == encoder.templates.next_turn.replace("{prompt}", talk.turns[3].prompt)
    whole = encoder.tokenizer.decode(episode.ids, skip_special=False)
    assert whole.count("<img1>") == 1 and "<|img|><|im_end|>\n<|im_start|>user\n<img1>: " in whole


def test_states_of_a_drawing_after_a_drawing_begin_with_the_draw_token(encoder: Encoder) -> None:
    talk = Talk(Sampler(4))
    talk.draw()
    talk.edit()
    episode = encoder.talk(tuple(talk.turns), Sampler(1))
    start = episode.drawings[1].start
    assert encoder.tokenizer.decode(episode.ids[start : start + 2], skip_special=False) == "<|img|><|im_end|>"


def test_drawing_from_pictures_after_a_drawing_starts_from_those_alone(encoder: Encoder) -> None:
    talk, task = Talk(Sampler(4)), gather(Sampler(5))
    talk.draw()
    turn = TalkTurn(prompt=task.prompt, images=task.inputs, answer=DRAW_TOKEN, task=task)
    episode = encoder.talk((*talk.turns, turn), Sampler(1))
    assert tuple(episode.pictures[k].scene for k in episode.drawings[1].references) == task.inputs
    assert len(episode.shown) == 1 + len(task.inputs)


def test_random_conversations_have_every_turn(encoder: Encoder) -> None:
    sampler = Sampler(5)
    turns = [turn for _ in range(200) for turn in conversation_tasks.converse(sampler, 6)]
    assert len(turns) == 1200
    assert {turn.task.ability for turn in turns if turn.task} == {
        "one object",
        "two objects",
        "count",
        "landscape",
        "edit",
        "combine",
    }
    assert {len(turn.images) for turn in turns} == {0, 1, 2, 3}


def test_shard_is_read_back_and_written_only_once(encoder: Encoder, folder: Path) -> None:
    path = folder / "episodes" / "0000.npz"
    written = path.stat().st_mtime_ns
    assert write_shard(0, folder / "episodes", encoder, EPISODES) == path and path.stat().st_mtime_ns == written
    (shard, pictures), (other, wide) = read_shards(folder / "episodes", 2)
    assert len(shard.lengths) == EPISODES and pictures.shape[1:] == (128, 128, 3)
    assert wide.shape[1:] == (128, 192, 3)
    apart = [[shard.ids for shard, _ in of_size] for of_size in read_by_size(folder / "episodes", 2)]
    assert [len(of_size) for of_size in apart] == [1, 1] and np.array_equal(apart[1][0], other.ids)
    assert not np.array_equal(shard.ids, other.ids)


def test_batch_holds_its_episodes_and_their_pictures(encoder: Encoder) -> None:
    episodes = random_episodes(encoder, 6, 12)
    joined = corpus_of(episodes, encoder)
    for rows in joined.cut(np.arange(12), 400):
        batch = joined.batch(rows)
        assert batch.ids.numel() <= 400 or len(rows) == 1
        for ids, mask, row in zip(batch.ids, batch.attention_mask, rows, strict=True):
            assert ids[mask].tolist() == episodes[row].ids
        assert len(batch.patches) == sum(len(episodes[row].shown) for row in rows)
        answers = [answer for row in rows for answer in episodes[row].answers]
        assert int((batch.answers >= 0).sum()) == sum(answer.end - answer.start for answer in answers)


def test_every_word_of_the_world_is_one_token(encoder: Encoder) -> None:
    ids = encoder.tokenizer.encode("draw a large red circle to the left of a small purple triangle on blue")
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


def test_mllm_overfits_a_batch(encoder: Encoder) -> None:
    torch.manual_seed(0)
    model = MLLMWithProbes(checkpoint.build("mllm"))
    checkpoint.initialize_mllm(model)
    episodes = [each for each in random_episodes(encoder, 1, 40) if each.answers and len(each.ids) < 110]
    joined = corpus_of(episodes[:8], encoder)
    batch = joined.batch(np.arange(len(joined.lengths)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        loss, answers, right, _ = losses(model, batch, joined)
        loss.backward()
        optimizer.step()
        history.append((loss.item(), float(right.float().mean())))
    assert len(answers) == len(joined.answer_kinds)
    assert history[-1][0] < history[0][0] / 3
    assert history[-1][1] > 0.6


def test_pool_groups_drawings_by_references_and_tokens(encoder: Encoder) -> None:
    torch.manual_seed(0)
    mllm, vae = checkpoint.build("mllm").eval(), checkpoint.build("vae").eval()
    episodes = random_episodes(encoder, 2, 12)
    shard = pack(episodes, encoder)
    (pool,) = encode_shards([(shard, shard.pictures)] * 2, encoder, mllm, vae, CPU)
    drawings = [drawing for episode in episodes for drawing in episode.drawings]
    assert sum(len(group.tokens) for group in pool.groups.values()) == 2 * len(drawings)
    for (references, tokens), group in pool.groups.items():
        assert (group.tokens.shape[1:], group.pictures.shape[1:]) == ((tokens,), (1 + references,))
        assert not (shard.ids[group.tokens[0]] == encoder.image_token).any()
    assert pool.states.shape == (2 * len(shard.ids), 128)
    assert pool.latents.shape[1:] == (32, 8, 8) and len(pool.latents) == len(pool.labels) == 2 * len(shard.pictures)


def test_pictures_of_every_size_have_a_pool(encoder: Encoder) -> None:
    mllm, vae = checkpoint.build("mllm").eval(), checkpoint.build("vae").eval()
    shards = [pack(random_episodes(encoder, 2, 12, size_px), encoder, size_px) for size_px in SIZES_PX]
    pools = encode_shards([(shard, shard.pictures) for shard in shards], encoder, mllm, vae, CPU)
    assert [pool.latents.shape[1:] for pool in pools] == [(32, 8, 8), (32, 8, 12), (32, 12, 8)]
    assert [pool.offsets.shape[1:] for pool in pools] == [(16, 3), (24, 3), (24, 3)]
    assert [len(pool.latents) for pool in pools] == [len(shard.pictures) for shard in shards]


def test_states_of_the_pool_are_those_of_the_mllm(encoder: Encoder) -> None:
    mllm = load_mllm(checkpoint.CHECKPOINT)
    talk = Talk(Sampler(8))
    talk.draw()
    talk.edit()
    episode = encoder.talk(tuple(talk.turns), Sampler(1))
    shard = pack([episode], encoder)
    (pool,) = encode_shards([(shard, shard.pictures)], encoder, mllm, load_vae(checkpoint.CHECKPOINT), CPU)
    joined = corpus_of([episode], encoder)
    with torch.no_grad():
        hidden, _ = run_mllm(mllm, joined.batch(np.zeros(1, np.int64)), encoder)
    (key, group), = (item for item in group_drawings(shard, encoder.image_token).items() if item[0][0] == 1)
    assert key[1] == len(group.tokens[0])
    torch.testing.assert_close(pool.states[group.tokens[0]].float(), hidden[0, group.tokens[0]], atol=0.1, rtol=0.1)


def test_empty_requests_have_the_states_of_both_templates(encoder: Encoder) -> None:
    drawing, chat = encode_empty_requests(encoder, load_mllm(checkpoint.CHECKPOINT), CPU)
    lengths = [len(encoder.request("").ids), len(encoder.question("").ids)]
    assert [len(drawing), len(chat)] == lengths and lengths[0] < lengths[1]


def test_batches_drop_requests_and_references() -> None:
    pool = Pool()
    pool.add(
        states=torch.ones(15, 4, dtype=torch.float16),
        latents=torch.ones(6, 1, 2, 2, dtype=torch.float16),
        labels=torch.zeros(6, 1, 7, dtype=torch.int8),
        offsets=torch.zeros(6, 1, 3, dtype=torch.float16),
        groups={(1, 5): Group(np.arange(15).reshape(3, 5), np.arange(6).reshape(3, 2))},
    )
    empty = torch.zeros(2, 4), torch.zeros(3, 4)
    batches = Batches([pool], empty, CPU, 1, np.random.default_rng(0))
    tasks = [batches.take() for _ in range(400)]
    kinds = {(task.states.shape[1], task.references.shape[1]) for task in tasks}
    assert kinds == {(5, 1), (2, 1), (3, 1), (2, 0), (3, 0)}
    assert {len(task.latents) for task in tasks} == {64}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # bfloat16 on a CPU, where blocks aren't compiled
@pytest.mark.parametrize("part", ["vae", *(pytest.param(part, marks=pytest.mark.slow) for part in SLOW_PARTS)])
def test_part_trains_from_the_checkpoint_and_resumes(
    part: str, folder: Path, counting_clock: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "compile_blocks", lambda *_, **__: None)
    module = import_module(f"omnigen2_rt.nano.training.{part}")
    for name, value in {"compile_blocks": lambda *_, **__: None, "BATCH": 4, "TOKENS": 600, "MEASURED": 8}.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint.CHECKPOINT, copy, ignore=shutil.ignore_patterns("*.onnx", "compiled", "engines"))
    shutil.copytree(folder / "episodes", tmp_path / "episodes")
    stored = "mllm" if part == "vision_encoder" else part
    weights = copy / stored / f"{checkpoint.FILE_STEMS[stored]}.safetensors"
    shipped, steps = weights.read_bytes(), []
    for _ in range(2):
        module.train(Options(work=tmp_path, checkpoint=copy, seconds=5, device=CPU, shards=2))
        steps.append(torch.load(tmp_path / f"{part}.pt", weights_only=True)["step"])
    assert 0 < steps[0] < steps[1]
    assert len(weights.read_bytes()) == len(shipped) and weights.read_bytes() != shipped


def test_autoencoder_that_keeps_its_latents_trains_only_its_decoder(
    folder: Path, counting_clock: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = import_module("omnigen2_rt.nano.training.vae")
    for name, value in {"BATCH": 4, "MEASURED": 8}.items():
        monkeypatch.setattr(module, name, value)
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint.CHECKPOINT, copy, ignore=shutil.ignore_patterns("*.onnx", "compiled", "engines"))
    shutil.copytree(folder / "episodes", tmp_path / "episodes")
    before, config = load_vae(copy).state_dict(), (copy / "vae" / "config.json").read_bytes()
    assert not (tmp_path / "vae.pt").exists()
    (tmp_path / "vae.pt").write_bytes(b"the state of a session that changed the encoder")
    module.train(Options(work=tmp_path, checkpoint=copy, seconds=5, device=CPU, shards=2, keep_latents=True))
    changed = {name for name, value in load_vae(copy).state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert (copy / "vae" / "config.json").read_bytes() == config


class FakeProcess:
    """A process that ends at once; the second transformer's fails if `fails`."""

    fails = False
    commands: list[list[str]] = []
    killed = 0

    def __init__(self, command: list[str]) -> None:
        self.commands.append(command[3:])
        self.code = int(self.fails and len(self.commands) == 5)

    def poll(self) -> int:
        return self.code

    def kill(self) -> None:
        type(self).killed += 1


@pytest.mark.parametrize("fails", [False, True])
def test_schedule_runs_the_parts_in_order_and_names_one_that_fails(
    fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"fails": fails, "commands": [], "killed": 0}.items():
        monkeypatch.setattr(FakeProcess, name, value)
    monkeypatch.setattr(schedule.subprocess, "Popen", FakeProcess)
    options = Options(work=tmp_path, checkpoint=tmp_path, seconds=100, device=CPU, shards=12)
    with pytest.raises(RuntimeError, match="training failed in transformer") if fails else nullcontext():
        schedule.run(options, workers=3)
    calls = FakeProcess.commands
    assert [call[0] for call in calls] == ["episodes", "vae", "mllm", "transformer", "transformer"]
    seconds = [int(call[call.index("--seconds") + 1]) for call in calls]
    assert seconds[1:3] == [36, 36] and seconds[4] in (99, 100)
    assert calls[3][calls[3].index("--shards") + 1] == str(schedule.REHEARSAL_SHARDS)
    assert FakeProcess.killed == (2 if fails else 0)


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
