"""Steering does to the model exactly what it says, cached or not, at every position and on every new token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import BadRequest, Cancelled, PromptTooLong
from engine.generation import Sampling, Step, draw, generate
from engine.headless import Headless
from engine.job import Job
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import FeatureRef, Generated, Intervention, Open, Steer, Steered, SteerResult
from engine.sites import Site
from engine.steering import added_directions, steer_row

PROMPT = "in the end of the"
GREEDY = Sampling(temperature=0)


@pytest.fixture
def headless(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders))))
    return engine


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


def _steer(headless: Headless, *interventions: Intervention, **settings: object) -> SteerResult:
    request = Steer(id=2, prompt=PROMPT, interventions=interventions, **{"tokens": 12, **settings})  # type: ignore[arg-type]
    return next(e.result for e in headless.ask(request) if isinstance(e, Steered))


def _add(index: int, strength: float, source: str = "1-res-tiny") -> Intervention:
    return Intervention(FeatureRef(source, index), strength)


def _plain_greedy(model: LanguageModel, ids: list[int], tokens: int) -> list[int]:
    """The obvious loop over the unmodified model, no cache."""
    text = list(ids)
    for _ in range(tokens):
        with torch.no_grad():
            text.append(int(model.hf(torch.tensor([text])).logits[0, -1].argmax()))
        if text[-1] in model.end_ids:
            break
    return text[len(ids) :]


def test_the_plain_arm_is_the_model_itself(headless: Headless, opened: OpenSet) -> None:
    result = _steer(headless, _add(3, 5.0), temperature=0)
    assert list(result.plain.ids) == _plain_greedy(opened.model, list(result.prompt_ids), 12)


def test_the_steered_arm_is_the_model_with_the_vector_added(headless: Headless, opened: OpenSet) -> None:
    """Independent truth: a hook of our own that adds strength · W_dec at every position, cache off."""
    result = _steer(headless, _add(3, 5.0), temperature=0)
    vector = 5.0 * opened.dictionaries["1-res-tiny"].decoder[3]
    handle = opened.model.hf.model.layers[1].register_forward_hook(lambda _m, _a, out: out + vector)
    try:
        expected = _plain_greedy(opened.model, list(result.prompt_ids), 12)
    finally:
        handle.remove()
    assert list(result.steered.ids) == expected
    assert expected != list(result.plain.ids)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, top_p=0.8, seed=5)])
def test_cached_equals_uncached(opened: OpenSet, sampling: Sampling) -> None:
    ids = opened.ids(PROMPT, chat=False)
    directions = added_directions(opened, [_add(3, 4.0), _add(5, -3.0, "2-res-tiny")])
    runs = [list(generate(opened.model, ids, directions, 16, sampling, Job(), cached=c)) for c in (True, False)]
    assert [(s.plain, s.steered) for s in runs[0]] == [(s.plain, s.steered) for s in runs[1]]
    for a, b in zip(*runs, strict=True):
        assert (a.kl is None) == (b.kl is None)
        assert a.kl is None or a.kl == pytest.approx(b.kl, abs=1e-4)


def test_the_change_at_the_hook_is_strength_times_the_decoder_row(opened: OpenSet) -> None:
    ids = torch.tensor([opened.ids(PROMPT, chat=False)] * 2)
    site = Site("resid_post", 1)
    before = opened.model.capture(ids, [Site("resid_pre", 2)])[Site("resid_pre", 2)]
    after: list[torch.Tensor] = []
    visitors = steer_row(added_directions(opened, [_add(7, 2.5)]), 1)
    opened.model.read(ids, {**visitors, Site("resid_pre", 2): after.append})  # type: ignore[dict-item]
    assert site in visitors
    torch.testing.assert_close(after[0][0], before[0])
    expected = 2.5 * opened.dictionaries["1-res-tiny"].decoder[7]
    torch.testing.assert_close(after[0][1] - before[1], expected.expand_as(before[1]), rtol=1e-4, atol=1e-5)


def test_two_interventions_in_one_dictionary_both_act(opened: OpenSet) -> None:
    one, other = _add(3, 2.0), _add(4, -1.5)
    both = added_directions(opened, [one, other])[Site("resid_post", 1)]
    alone = [added_directions(opened, [i])[Site("resid_post", 1)] for i in (one, other)]
    torch.testing.assert_close(both, alone[0] + alone[1])


def test_features_of_the_last_layer_act_on_the_next_token(tmp_path: Path, llama_folder: Path) -> None:
    """The thesis' code skipped the last position, so its last-layer features could change nothing."""
    from tests import tiny

    last = tiny.save_dictionary(tmp_path / "3-res-tiny", "topk", layer=3)
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(llama_folder), dictionaries=(str(last),)))
    result = _steer(engine, _add(0, 60.0, "3-res-tiny"), tokens=1, temperature=0)
    assert result.kl[0] > 0.01
    assert result.first_divergence == 0


def test_zero_strength_changes_nothing(headless: Headless) -> None:
    result = _steer(headless, _add(3, 0.0), temperature=0.9, seed=3)
    assert result.plain == result.steered
    assert result.first_divergence is None
    assert max(result.kl) == pytest.approx(0, abs=1e-6)


def test_seeds_decide(headless: Headless) -> None:
    texts = [_steer(headless, _add(3, 3.0), temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0].plain == texts[1].plain
    assert texts[0].steered == texts[1].steered
    assert texts[0].plain != texts[2].plain


def test_kl_is_that_of_the_next_token_distributions(headless: Headless, opened: OpenSet) -> None:
    result = _steer(headless, _add(3, 5.0), temperature=0)
    ids = torch.tensor([list(result.prompt_ids)])
    with torch.no_grad():
        plain = opened.model.hf(ids).logits[0, -1].log_softmax(0)
        vector = 5.0 * opened.dictionaries["1-res-tiny"].decoder[3]
        handle = opened.model.hf.model.layers[1].register_forward_hook(lambda _m, _a, out: out + vector)
        steered = opened.model.hf(ids).logits[0, -1].log_softmax(0)
        handle.remove()
    assert result.kl[0] == pytest.approx(float((plain.exp() * (plain - steered)).sum()), rel=1e-4)


def test_text_streams_token_by_token(headless: Headless) -> None:
    events = headless.ask(Steer(id=2, prompt=PROMPT, interventions=(_add(3, 5.0),), tokens=6, temperature=0))
    steps = [e for e in events if isinstance(e, Generated)]
    result = next(e.result for e in events if isinstance(e, Steered))
    assert [s.step for s in steps] == list(range(len(result.plain.ids)))
    assert steps[-1].plain == result.plain.text
    assert steps[-1].steered == result.steered.text


def test_the_chat_template_is_used(headless: Headless, opened: OpenSet) -> None:
    result = next(
        e.result
        for e in headless.ask(Steer(id=2, prompt="a", interventions=(), tokens=2, chat=True, temperature=0))
        if isinstance(e, Steered)
    )
    assert opened.model.tokenizer.text(list(result.prompt_ids)) == "<bos>user: a\nassistant:"


def test_generation_stops_at_once(opened: OpenSet) -> None:
    job = Job()
    steps: list[Step] = []

    def stop_after_three() -> None:
        for step in generate(opened.model, opened.ids(PROMPT, chat=False), {}, 50, GREEDY, job):
            steps.append(step)
            if len(steps) == 3:
                job.cancel()

    with pytest.raises(Cancelled):
        stop_after_three()
    assert len(steps) == 3


def test_bad_requests_are_named(headless: Headless) -> None:
    with pytest.raises(BadRequest, match="0 to 63"):
        _steer(headless, _add(64, 1.0))
    with pytest.raises(BadRequest, match="at least one"):
        _steer(headless, _add(1, 1.0), tokens=0)
    with pytest.raises(BadRequest, match="top-p"):
        _steer(headless, _add(1, 1.0), top_p=0)
    with pytest.raises(PromptTooLong, match="and 500 to generate"):
        _steer(headless, _add(1, 1.0), tokens=500)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.55, 0.999999])
def test_drawing_inverts_the_distribution(uniform: float) -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.25, 0.15])
    order, edge = [1, 2, 3, 0], 0.0
    for token in order:
        edge += float(probabilities[token])
        if uniform < edge:
            break
    assert draw(probabilities.log(), uniform, Sampling(temperature=1.0)) == token


def test_top_p_cuts_the_tail() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1]).log()
    drawn = {draw(probabilities, u / 1000, Sampling(temperature=1.0, top_p=0.8)) for u in range(1000)}
    assert drawn == {0, 1}
    assert {draw(probabilities, u / 100, Sampling(temperature=1.0, top_p=1e-9)) for u in range(100)} == {0}


def test_drawing_matches_the_probabilities() -> None:
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    counts = torch.zeros(3)
    for n in range(3000):
        counts[draw(probabilities.log(), (n + 0.5) / 3000, Sampling(temperature=1.0))] += 1
    torch.testing.assert_close(counts / 3000, probabilities, atol=2e-3, rtol=0)
