"""What a run of steering tells beside its texts, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, PromptTooLong
from engine.headless import Headless
from engine.opening import OpenSet
from engine.protocol import Generated, Steer, Steered
from tests.engine.steering_scene import PROMPT, add, open_engine, steer


@pytest.fixture
def headless(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


# --- what is told -------------------------------------------------------------------------------------------------


def test_kl_and_choices_are_those_of_the_distributions(headless: Headless, opened: OpenSet) -> None:
    result = steer(headless, add(3, 5.0), temperature=0, watch=(" the", "z"), top=3)
    ids = torch.tensor([list(result.prompt_ids)])
    vector = 5.0 * opened.dictionaries["1-res-tiny"].decoder[3]
    with torch.no_grad():
        plain = opened.model.hf(ids).logits[0, -1].log_softmax(0)
        handle = opened.model.hf.model.layers[1].register_forward_hook(lambda _m, _a, out: out + vector)
        steered = opened.model.hf(ids).logits[0, -1].log_softmax(0)
        handle.remove()
    assert result.kl[0] == pytest.approx(float((plain.exp() * (plain - steered)).sum()), rel=1e-4)
    for choice, row in ((result.steps[0].plain, plain), (result.steps[0].steered, steered)):
        assert choice is not None
        best = row.exp().topk(3)
        assert [n.id for n in choice.next] == best.indices.tolist()
        assert [n.probability for n in choice.next] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert choice.watched == pytest.approx([float(row[t.id].exp()) for t in result.watched], rel=1e-4)
        assert choice.probability == pytest.approx(float(row[choice.token.id].exp()), rel=1e-4)
    assert [t.text for t in result.watched] == [" the", "z"]


def test_scores_are_those_of_the_plain_model(headless: Headless, opened: OpenSet) -> None:
    result = steer(headless, add(3, 5.0), temperature=0.8, seed=2)
    assert result.scores is not None

    def log_probabilities(ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            logits = opened.model.hf(torch.tensor([[*result.prompt_ids, *ids]])).logits[0]
        rows = logits.log_softmax(1)[len(result.prompt_ids) - 1 : -1]
        return rows[torch.arange(len(ids)), torch.tensor(ids)]

    for found, arm in (
        (result.scores.plain_perplexity, result.plain),
        (result.scores.steered_perplexity, result.steered),
    ):
        assert found == pytest.approx(float((-log_probabilities(arm.ids).mean()).exp()), rel=1e-3)
    expected = log_probabilities(result.steered.ids).exp().tolist()
    assert result.scores.steered_probabilities == pytest.approx(expected, rel=1e-3)
    assert result.scores.kl[0] == pytest.approx(result.kl[0], rel=1e-4)
    assert len(result.scores.kl) == len(result.steered.ids)


def test_text_streams_token_by_token(headless: Headless) -> None:
    request = Steer(id=2, prompt=PROMPT, interventions=(add(3, 5.0),), tokens=6, temperature=0)
    events = headless.ask(request)
    steps = [e for e in events if isinstance(e, Generated)]
    result = next(e.result for e in events if isinstance(e, Steered))
    assert [s.step for s in steps] == list(range(len(result.plain.ids)))
    assert steps[-1].plain == result.plain.text
    assert steps[-1].steered == result.steered.text
    assert tuple(s.choices for s in steps) == result.steps


def test_stop_strings_end_a_text_and_are_left_out(headless: Headless) -> None:
    whole = steer(headless, add(3, 5.0), temperature=0).plain
    assert whole.ended in {"length", "end"}
    stop = whole.text[4:6]
    result = steer(headless, add(3, 5.0), temperature=0, stop=(stop, "never"))
    assert result.plain.ended == "stop"
    assert result.plain.text == whole.text[: whole.text.find(stop)]
    assert result.plain.ids == whole.ids[: len(result.plain.ids)]


def test_seeds_decide(headless: Headless) -> None:
    texts = [steer(headless, add(3, 3.0), temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0].plain == texts[1].plain
    assert texts[0].steered == texts[1].steered
    assert texts[0].plain != texts[2].plain


# --- bad requests -------------------------------------------------------------------------------------------------


def test_the_chat_template_is_used(headless: Headless, opened: OpenSet) -> None:
    result = steer(headless, prompt="a", tokens=2, chat=True, temperature=0)
    assert opened.model.tokenizer.text(list(result.prompt_ids)) == "<bos>user: a\nassistant:"


def test_bad_requests_are_named(headless: Headless) -> None:
    for settings, said in (
        ({"tokens": 0}, "at least one"),
        ({"top_p": 0}, "top-p"),
        ({"top_k": -1}, "top-k"),
        ({"repetition_penalty": -2.0}, "repetition penalty"),
        ({"stop": ("",)}, "stop string"),
        ({"watch": ("in the end",)}, "tokens, not one"),
        ({"prompt": ""}, "empty"),
    ):
        with pytest.raises(BadRequest, match=said):
            steer(headless, add(1, 1.0), **settings)
    with pytest.raises(PromptTooLong, match="and 500 to generate"):
        steer(headless, add(1, 1.0), tokens=500)
