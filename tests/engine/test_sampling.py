"""Tokens are drawn from the distribution that Hugging Face's own processors make of the logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import BadRequest
from engine.steering.sampling import Sampling, Uniforms, draw


def _hugging_face(logits: Tensor, sampling: Sampling, text: list[int]) -> Tensor:
    """Probabilities [V] as `generate` makes them."""
    from transformers.generation.logits_process import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    scores, ids = logits[None].clone(), torch.tensor([text])
    if sampling.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    return scores.softmax(1)[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.6, top_k=3),
        Sampling(temperature=1.3, top_p=0.7),
        Sampling(temperature=0.9, top_k=5, top_p=0.8, repetition_penalty=1.5),
        Sampling(temperature=1.0, repetition_penalty=0.5),
    ],
)
def test_draws_follow_hugging_faces_distribution(sampling: Sampling) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 2
    text = [1, 4, 4, 7]
    expected = _hugging_face(logits, sampling, text)
    draws = 4000
    counts = torch.zeros(12)
    for n in range(draws):
        counts[draw(logits, (n + 0.5) / draws, sampling, text)] += 1
    torch.testing.assert_close(counts / draws, expected, atol=1e-3, rtol=0)


def test_greedy_takes_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([1.0, 3.0, 2.5, -1.0])
    assert draw(logits, 0.9, Sampling(temperature=0)) == 1
    assert draw(logits, 0.9, Sampling(temperature=0, repetition_penalty=1.5), [1]) == 2
    assert draw(-logits, 0.9, Sampling(temperature=0, repetition_penalty=9.0), [3]) == 3


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.05, 3),
    st.floats(1e-9, 1),
    st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_any_setting_draws_a_token(logits: list[float], uniform: float, t: float, p: float, k: int) -> None:
    token = draw(torch.tensor(logits), uniform, Sampling(temperature=t, top_p=p, top_k=k), [0])
    assert 0 <= token < len(logits)


def test_all_arms_read_the_same_numbers() -> None:
    once, again, other = Uniforms(5), Uniforms(5), Uniforms(6)
    late = again[3]
    assert [once[n] for n in range(4)][3] == late
    assert other[3] != late
    assert all(0 <= once[n] < 1 for n in range(50))


@pytest.mark.parametrize(
    "bad",
    [
        Sampling(temperature=-1),
        Sampling(temperature=math.nan),
        Sampling(temperature=math.inf),
        Sampling(top_p=0),
        Sampling(top_p=1.5),
        Sampling(top_k=-1),
        Sampling(repetition_penalty=0),
        Sampling(seed=-1),
    ],
)
def test_settings_without_meaning_are_refused(bad: Sampling) -> None:
    with pytest.raises(BadRequest):
        bad.check()
