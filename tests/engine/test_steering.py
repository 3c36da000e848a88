"""Both arms are what they say: the model itself, and the model with the change, cached or not, changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled
from engine.headless import Headless
from engine.job import Job
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import (
    Adjusted,
    Event,
    Generated,
    Intervention,
    Open,
    Prepare,
    Steer,
    Steered,
    parse_positions,
)
from engine.sites import Site
from engine.steering.continuing import Continuation, Rules
from engine.steering.interventions import compile_program
from engine.steering.prefix import Prefix
from engine.steering.sampling import Sampling
from tests import tiny
from tests.engine.steering_scene import PROMPT, add, open_engine, steer

FAMILIES = ("llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "bloom")


@pytest.fixture
def headless(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


def _greedy(model: LanguageModel, ids: Sequence[int], tokens: int) -> list[int]:
    """The obvious loop over the module, no cache."""
    text = list(ids)
    for _ in range(tokens):
        with torch.no_grad():
            text.append(int(model.hf(torch.tensor([text])).logits[0, -1].argmax()))
        if text[-1] in model.end_ids:
            break
    return text[len(ids) :]


def _with_hook(model: LanguageModel, layer: int, change: Callable[[Tensor], Tensor], ids: Sequence[int]) -> list[int]:
    """As `_greedy`, with a plain torch hook on a block's output."""
    handle = model.hf.model.layers[layer].register_forward_hook(lambda _m, _a, out: change(out))
    try:
        return _greedy(model, ids, 12)
    finally:
        handle.remove()


def _continue(
    opened: OpenSet,
    interventions: Sequence[Intervention],
    sampling: Sampling,
    *,
    cached: bool,
    changes: dict[int, Sequence[Intervention]] | None = None,
    tokens: int = 14,
    fixed: bool = False,
    **settings: Any,
) -> tuple[list[int], list[int], list[Tensor]]:
    """Ids of both arms and the steered distributions; `changes` by the step after which they come."""
    ids = opened.ids(PROMPT, chat=False)
    sites = {s for d in opened.dictionaries.values() for s in (d.site, d.write_site)}
    prefix = Prefix(opened.model, ids, sites, Job())
    program = compile_program(opened, interventions, ids, tokens=tokens, **settings)
    going = Continuation(prefix, program, Rules(tokens, sampling), Job(), cached=cached, fixed=fixed)
    for step, _ in enumerate(going.steps()):
        if changes and step in changes:
            assert going.change(compile_program(opened, changes[step], ids, tokens=tokens)) == step + 1
    return going.arms[0].ids, going.arms[1].ids, going.arms[1].log_probabilities


# --- the arms -----------------------------------------------------------------------------------------------------


def test_the_plain_arm_is_the_model_itself(headless: Headless, opened: OpenSet) -> None:
    result = steer(headless, add(3, 5.0), temperature=0)
    assert list(result.plain.ids) == _greedy(opened.model, result.prompt_ids, 12)


def test_the_steered_arm_is_the_model_with_the_vector_added(headless: Headless, opened: OpenSet) -> None:
    result = steer(headless, add(3, 5.0), temperature=0)
    vector = 5.0 * opened.dictionaries["1-res-tiny"].decoder[3]
    assert list(result.steered.ids) == _with_hook(opened.model, 1, lambda x: x + vector, result.prompt_ids)
    assert result.steered.ids != result.plain.ids


def test_clamping_holds_on_generated_tokens_too(headless: Headless, opened: OpenSet) -> None:
    dictionary = opened.dictionaries["1-res-tiny"]

    def clamp(x: Tensor) -> Tensor:
        f = dictionary.encode(x[0])[:, 3]
        return x + ((4.0 - f)[:, None] * dictionary.decoder[3])[None]

    result = steer(headless, add(3, 4.0, kind="clamp"), temperature=0)
    assert list(result.steered.ids) == _with_hook(opened.model, 1, clamp, result.prompt_ids)
    assert result.acted[0] >= len(result.prompt_ids) + len(result.steered.ids) - 1 - 3


def test_positions_in_generation(headless: Headless, opened: OpenSet) -> None:
    vector = 6.0 * opened.dictionaries["1-res-tiny"].decoder[3]
    length = len(opened.ids(PROMPT, False))
    for text, first, last in (("prompt", 0, length), ("generated", length - 1, 99), (f"2:{length + 3}", 2, length + 3)):

        def change(x: Tensor, first: int = first, last: int = last) -> Tensor:
            on = torch.tensor([first <= n < last for n in range(x.shape[1])])
            return x + on[None, :, None] * vector

        result = steer(headless, add(3, 6.0, positions=parse_positions(text)), temperature=0)
        assert list(result.steered.ids) == _with_hook(opened.model, 1, change, result.prompt_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached(tmp_path: Path, family: str) -> None:
    """Token for token, in every family, for every way the prompt may be read again."""
    folder = tiny.save_model(tiny.model(family), tmp_path / family)
    engine = open_engine(folder, *(tiny.save_dictionary(tmp_path / f"{n}-res-tiny", "topk", layer=n) for n in (1, 3)))
    opened = engine.engine.opened
    cases: list[tuple[list[Intervention], dict[str, Any]]] = [
        ([add(3, 4.0), add(5, -3.0, "3-res-tiny")], {}),
        ([add(5, 30.0, "3-res-tiny")], {}),
        ([add(3, 3.0, kind="clamp"), add(4, 2.0, kind="scale"), add(6, kind="ablate")], {}),
        ([add(3, 6.0, positions=parse_positions("generated"))], {}),
        ([add(3, 6.0, positions=parse_positions("5:11"))], {}),
        ([add(3, 2.0)], {"keep_error": False}),
    ]
    for interventions, settings in cases:
        for sampling in (Sampling(temperature=0), Sampling(temperature=0.9, top_p=0.9, seed=5)):
            fast, slow = (
                _continue(opened, interventions, sampling, cached=cached, **settings) for cached in (True, False)
            )
            assert fast[:2] == slow[:2]
            torch.testing.assert_close(torch.stack(fast[2]), torch.stack(slow[2]), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES[:5])
def test_steps_at_fixed_addresses_are_the_same(tmp_path: Path, family: str) -> None:
    """What a CUDA graph records, run as it is: every kind, and changes that keep the recording and that break it."""
    folder = tiny.save_model(tiny.model(family), tmp_path / family)
    engine = open_engine(folder, *(tiny.save_dictionary(tmp_path / f"{n}-res-tiny", "topk", layer=n) for n in (1, 3)))
    kinds = [add(3, 4.0), add(4, 2.0, kind="scale"), add(6, kind="ablate"), add(5, 3.0, "3-res-tiny", kind="clamp")]
    louder = [add(3, -7.0), *kinds[1:]]
    changes = {
        2: louder,
        5: [*louder[:1], add(5, 9.0, "3-res-tiny")],
        8: [add(3, 1.0, positions=parse_positions("0:2"))],
    }
    greedy = Sampling(temperature=0)
    fast, slow = (
        _continue(engine.engine.opened, kinds, greedy, cached=True, changes=changes, fixed=fixed)
        for fixed in (True, False)
    )
    assert fast[:2] == slow[:2]
    torch.testing.assert_close(torch.stack(fast[2]), torch.stack(slow[2]), atol=2e-4, rtol=1e-3)


@pytest.mark.gpu
def test_a_recorded_step_is_the_same_on_a_gpu(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders)), device="cuda"))
    kinds = [add(3, 4.0), add(4, 2.0, kind="scale"), add(6, 3.0, "2-res-tiny", kind="clamp")]
    changes = {2: [add(3, -7.0), *kinds[1:]], 6: kinds[:1]}
    fast, slow = (
        _continue(engine.engine.opened, kinds, Sampling(temperature=0), cached=cached, changes=changes)
        for cached in (True, False)
    )
    assert fast[:2] == slow[:2]


def test_a_sliding_window_shorter_than_the_text(tmp_path: Path) -> None:
    import transformers as hf

    torch.manual_seed(0)
    built = hf.Gemma2ForCausalLM(
        hf.Gemma2Config(
            vocab_size=tiny.VOCABULARY, hidden_size=tiny.D_MODEL, intermediate_size=64, num_hidden_layers=tiny.LAYERS,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
            max_position_embeddings=128, bos_token_id=256, eos_token_id=257,
        )
    ).eval()  # fmt: skip
    folder = tiny.save_model(built, tmp_path / "gemma2")
    engine = open_engine(folder, tiny.save_dictionary(tmp_path / "1-res-tiny", "topk", layer=1))
    fast, slow = (
        _continue(engine.engine.opened, [add(3, 4.0)], Sampling(temperature=0), cached=cached)
        for cached in (True, False)
    )
    assert fast[:2] == slow[:2]


def test_features_of_the_last_layer_act_on_the_next_token(tmp_path: Path, llama_folder: Path) -> None:
    """The thesis' code skipped the last position, so its last-layer features could change nothing."""
    engine = open_engine(llama_folder, tiny.save_dictionary(tmp_path / "3-res-tiny", "topk", layer=3))
    result = steer(engine, add(0, 60.0, "3-res-tiny"), tokens=1, temperature=0)
    assert result.kl[0] > 0.01
    assert result.first_divergence == 0


def test_zero_strength_changes_nothing(headless: Headless) -> None:
    result = steer(headless, add(3, 0.0), temperature=0.9, seed=3)
    assert result.plain == result.steered
    assert result.first_divergence is None
    assert max(result.kl) == pytest.approx(0, abs=1e-6)
    assert result.warnings == ("1-res-tiny:3: add 0 changes nothing.",)


def test_an_ablation_that_meets_nothing_says_so(headless: Headless, opened: OpenSet) -> None:
    ids = torch.tensor([opened.ids(PROMPT, False)])
    x = opened.model.capture(ids, [Site("resid_post", 1)])[Site("resid_post", 1)]
    quiet = int((opened.dictionaries["1-res-tiny"].encode(x[0]).amax(0) == 0).nonzero()[0])
    result = steer(headless, add(quiet, kind="ablate"), temperature=0, tokens=1)
    assert result.acted == (0,)
    assert "fires at none of these tokens" in result.warnings[0]


# --- strengths that change while the text streams -----------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_a_change_acts_from_the_next_token_on(opened: OpenSet, cached: bool) -> None:
    """Truth: plain torch, the vector of each token's position by hand, the whole text read again at every step."""
    row = opened.dictionaries["1-res-tiny"].decoder[3]
    length = len(opened.ids(PROMPT, False))
    changes = {2: [add(3, -8.0)], 7: [add(3, 3.0)]}
    _, steered, _ = _continue(opened, [add(3, 5.0)], Sampling(temperature=0), cached=cached, changes=changes)

    def change(x: Tensor) -> Tensor:
        strengths = [5.0 if n < length + 2 else -8.0 if n < length + 7 else 3.0 for n in range(x.shape[1])]
        return x + torch.tensor(strengths)[None, :, None] * row

    expected = _with_hook(opened.model, 1, change, opened.ids(PROMPT, False))
    assert steered[: len(expected)] == expected
    assert steered != _continue(opened, [add(3, 5.0)], Sampling(temperature=0), cached=cached)[1]


def test_a_change_may_bring_other_features_and_sites(opened: OpenSet) -> None:
    changes = {3: [add(3, 5.0), add(9, 6.0, "2-res-tiny")], 6: [add(9, 2.0, "2-res-tiny", kind="clamp")]}
    fast, slow = (
        _continue(opened, [add(3, 5.0)], Sampling(temperature=0), cached=cached, changes=changes)
        for cached in (True, False)
    )
    assert fast[:2] == slow[:2]


def test_changes_are_recorded_with_their_position(headless: Headless) -> None:
    """As the screen does it: from another thread, while text streams."""
    events: list[Event] = []
    louder = (add(3, 9.0),)

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Generated) and event.step == 3:
            job.adjust((add(3, 1.0),))
            job.adjust(louder)  # only the newest counts

    job = Job(2, emit)
    headless.engine.handle(Steer(id=2, prompt=PROMPT, interventions=(add(3, 5.0),), tokens=10, temperature=0), job)
    result = next(e.result for e in events if isinstance(e, Steered))
    assert [(c.step, c.interventions) for c in result.changes] == [(4, louder)]
    assert [e.change for e in events if isinstance(e, Adjusted)] == list(result.changes)
    plain = steer(headless, add(3, 5.0), temperature=0, tokens=10)
    assert result.steered.ids[:4] == plain.steered.ids[:4]
    assert result.plain == plain.plain


# --- the plain arm is said once -----------------------------------------------------------------------------------


def test_moving_a_control_does_not_run_the_plain_arm_again(headless: Headless, opened: OpenSet) -> None:
    first = steer(headless, add(3, 5.0), seed=4)
    rows: list[int] = []
    handle = opened.model.hf.get_output_embeddings().register_forward_hook(lambda _m, a, _o: rows.append(len(a[0])))
    second = steer(headless, add(3, 2.0), seed=4)
    handle.remove()
    assert second.plain == first.plain
    assert rows[0] == 1  # the first steered token needs no plain row and no second reading of the prompt
    assert steer(headless, add(3, 2.0), seed=4, tokens=5).plain.ids == first.plain.ids[:5]
    fresh = steer(headless, add(3, 2.0), seed=9)
    headless.ask(Prepare(id=5, prompt="another"))
    assert steer(headless, add(3, 2.0), seed=9).plain == fresh.plain


def test_a_run_cut_off_leaves_the_next_one_right(headless: Headless) -> None:
    whole = steer(headless, add(3, 5.0), seed=7)
    headless.ask(Prepare(id=5, prompt="another"))

    def emit(event: Event) -> None:
        if isinstance(event, Generated) and event.step == 2:
            job.cancel()

    job = Job(2, emit)
    with pytest.raises(Cancelled):
        headless.engine.handle(Steer(id=2, prompt=PROMPT, interventions=(add(3, 5.0),), tokens=12, seed=7), job)
    again = steer(headless, add(3, 5.0), seed=7)
    assert (again.plain, again.steered) == (whole.plain, whole.steered)


def test_no_hook_is_left_behind(headless: Headless, opened: OpenSet) -> None:
    steer(headless, add(3, 5.0, kind="clamp"), tokens=4)
    for module in opened.model.hf.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
