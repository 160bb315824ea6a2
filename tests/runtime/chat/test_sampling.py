"""Sampling against transformers' own logits processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omnigen2_rt.runtime.chat.sampling import Sampler, Sampling, penalize_repetition, probabilities


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.9), (1, 0.5)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_probabilities_equal_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 40).astype(np.float32)
    ids = [3, 7, 7, 30]
    warpers = [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    scores = LogitsProcessorList(warpers)(torch.tensor([ids]), torch.from_numpy(logits[None].copy()))
    wanted = torch.softmax(scores, -1)[0].numpy()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_allclose(probabilities(penalize_repetition(logits, ids, 1.3), sampling), wanted, rtol=0, atol=1e-6)


def test_sampling_with_the_same_seed_gives_the_same_tokens() -> None:
    logits = np.random.default_rng(1).normal(0, 1, 50).astype(np.float32)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.sample(logits, []) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)


def test_sampling_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    sampler = Sampler(Sampling(temperature=1.0))
    counts = np.bincount([sampler.sample(logits, []) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_banned_token_is_never_sampled() -> None:
    assert Sampler(Sampling(), [1]).sample(np.array([0.0, 5.0, 1.0], np.float32), []) == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-308, 1e-250])
def test_tiniest_temperatures_take_the_likeliest_token(temperature: float) -> None:
    """Dividing by them overflowed: a numpy warning, and probabilities of NaN."""
    logits = np.array([-3e38, 1.0, np.nextafter(np.float32(1), np.float32(2)), 3e-39], np.float32)
    assert probabilities(logits, Sampling(temperature=temperature)).tolist() == [0, 0, 1, 0]
    assert probabilities(np.array([3e38, -3e38, 3e38], np.float32), Sampling(temperature=temperature)).tolist() == [0.5, 0, 0.5]


def test_largest_temperature_takes_all_tokens_alike() -> None:
    logits = np.array([-5.0, 0.0, 5.0], np.float32)
    np.testing.assert_allclose(probabilities(logits, Sampling(temperature=1.7e308)), [1 / 3] * 3)


@pytest.mark.parametrize("penalty", [0.01, 100.0])
@pytest.mark.parametrize("logit", [3e38, -3e38, 1e-45, 0.0])
def test_scores_stay_finite_with_every_penalty_that_is_allowed(penalty: float, logit: float) -> None:
    scores = penalize_repetition(np.array([logit, 1.0], np.float32), [0], penalty)
    assert np.isfinite(scores).all()
    chances = probabilities(scores, Sampling(temperature=1.0))
    np.testing.assert_allclose(chances.sum(), 1)


@pytest.mark.parametrize("top_k", [1, 3, 4, 2**63 - 1])
def test_top_k_beyond_the_vocabulary_keeps_all(top_k: int) -> None:
    chances = probabilities(np.zeros(3, np.float32), Sampling(temperature=1.0, top_k=top_k))
    np.testing.assert_allclose(chances, [1 / 3] * 3)  # those of equal chance stay together
