"""The impact of an intervention equals what hooks of our own and SAELens' dictionaries say of two plain runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, Cancelled
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Event, Progress
from engine.requests import MeasureImpact
from engine.results import FeatureRef
from engine.steering import impact
from engine.steering.impact import measure_impact
from engine.steering.values import random_direction
from engine.steering_results import FeatureChange, ImpactArm, ImpactResult, Intervention, SiteImpact, parse_positions
from tests.circuit_scene import Scene, made_scene
from tests.circuit_truth import PLACES

PROMPT = "in the end of the bag"
LOUD = "b"
"""Its embedding is so large that it is an attention sink."""
SITES: Any = (
    ("0-att", "topk", {}),
    ("0-res", "jumprelu", {}),
    ("1-mlp", "transcoder", {"read": "1-mid"}),
    ("1-res", "standard", {"normalize_activations": "layer_norm"}),
    ("1-res", "topk", {}),
    ("2-mlp", "gated", {}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True}),
    ("3-res", "standard", {}),
)
STEERED, BEFORE, AFTER = "1-res-topk", ("0-att-topk", "0-res-jumprelu", "1-mlp-transcoder"), ("2-res-topk",)
FEATURE = FeatureRef(STEERED, 7)
ADD = Intervention(FEATURE, 3.0)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return _made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return _made("llama", tmp_path_factory.mktemp("one"))


def _made(family: str, folder: Path) -> Scene:
    scene = made_scene(family, folder, SITES)
    (loud,) = scene.model.tokenizer.encode(LOUD, bos=False)
    with torch.no_grad():
        scene.model.hf.get_input_embeddings().weight[loud] *= 60
    return scene


def _asked(scene: Scene, *interventions: Intervention, job: Job | None = None, **settings: Any) -> ImpactResult:
    opened = OpenSet(scene.model, {b.source: b.dictionary for b in scene.bases}, False, "")
    request = MeasureImpact(id=1, interventions=interventions, **{"prompt": PROMPT, **settings})
    return measure_impact(opened, request, job or Job())


# --- the obvious computation ------------------------------------------------------------------------------------------

Change = Callable[[Tensor], Tensor]


def _run(scene: Scene, changes: dict[str, Change]) -> tuple[dict[str, Tensor], Tensor]:
    """What every dictionary reads [T, d], and the next token's log-probabilities, with `changes` at places."""
    seen: dict[str, Tensor] = {}
    handles = []

    def visited(place: str, x: Tensor) -> Tensor:
        x = changes[place](x[0])[None] if place in changes else x
        seen[place] = x[0]
        return x

    for place in {part.read for part in scene.parts}:
        layer, kind = place.split("-")
        module = scene.model.hf.get_submodule(PLACES[scene.family][kind].format(layer))

        def before(_: Any, args: Any, place: str = place) -> None:
            visited(place, args[0])

        def after(_: Any, __: Any, output: Any, place: str = place) -> Any:
            if isinstance(output, tuple):
                return (visited(place, output[0]), *output[1:])
            return visited(place, output)

        register = module.register_forward_pre_hook if kind == "mid" else module.register_forward_hook
        handles.append(register(before if kind == "mid" else after))
    with torch.no_grad():
        logits = scene.model.hf(torch.tensor([scene.model.tokenizer.encode(PROMPT, bos=False)])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return {part.source: seen[part.read] for part in scene.parts}, logits.double().log_softmax(0)


def _expected(scene: Scene, changes: dict[str, Change], skip: set[FeatureRef]) -> ImpactArm:
    """Feature by feature, from dense activations of both runs."""
    plain, p = _run(scene, {})
    other, q = _run(scene, changes)
    sites, listed = [], []
    for part in scene.parts:
        norms = plain[part.source].norm(dim=1)
        counted = [t for t in range(1, len(norms)) if norms[t] <= 4 * norms.median()]
        a, x = (part.sae.encode(run[part.source]) for run in (plain, other))
        a_hat, x_hat = part.sae(plain[part.source])[counted], part.sae(other[part.source])[counted]
        a, x = a[counted], x[counted]
        tolerance = 0.001 * float(a.max())
        changed = small = active = silenced = woken = 0
        for index in range(a.shape[1]):
            ref, old, new = FeatureRef(part.source, index), a[:, index], x[:, index]
            if ref in skip:
                continue
            difference = (new - old).abs()
            active += bool(old.any() or new.any())
            silenced += bool(old.any() and not new.any())
            woken += bool(new.any() and not old.any())
            if float(difference.max()) > tolerance:
                changed += 1
                small += float(difference.max()) < 1
                row = int(difference.argmax())
                listed.append(FeatureChange(ref, counted[row], float(old[row]), float(new[row])))
        cosine = float(torch.cosine_similarity(a_hat, x_hat).mean())
        mse = float((a_hat - x_hat).square().mean())
        hook = next(b for b in scene.bases if b.source == part.source).read_site.hook
        sites.append(SiteImpact(part.source, hook, active, changed, silenced, woken, small, cosine, mse))
    listed.sort(key=lambda change: abs(change.after - change.before), reverse=True)
    return ImpactArm(tuple(sites), tuple(listed), float((p.exp() * (p - q)).sum()))


def _same(ours: ImpactArm, theirs: ImpactArm, top: int) -> None:
    assert [(s.source, s.hook) for s in ours.sites] == [(s.source, s.hook) for s in theirs.sites]
    for one, other in zip(ours.sites, theirs.sites, strict=True):
        counts = [(s.active, s.changed, s.silenced, s.woken, s.small) for s in (one, other)]
        assert counts[0] == counts[1], one.source
        assert one.cosine == pytest.approx(other.cosine, rel=1e-5)
        assert one.mse == pytest.approx(other.mse, rel=1e-4, abs=1e-12)
    assert ours.kl == pytest.approx(theirs.kl, rel=1e-4)
    assert [(c.feature, c.position) for c in ours.changes] == [(c.feature, c.position) for c in theirs.changes[:top]]
    for mine, other in zip(ours.changes, theirs.changes, strict=False):
        assert (mine.before, mine.after) == pytest.approx((other.before, other.after), rel=1e-4, abs=1e-6)


def _direction(scene: Scene, seed: int | None = None) -> Tensor:
    part = next(part for part in scene.parts if part.source == STEERED)
    row: Tensor = part.sae.W_dec[FEATURE.index]
    return row if seed is None else random_direction(row, seed, str(FEATURE))


def test_every_figure_is_that_of_two_plain_runs(scene: Scene) -> None:
    result = _asked(scene, ADD, seed=5, top=30)
    assert len(result.steered.changes) == 30
    for arm, seed in ((result.steered, None), (result.control, 5)):
        direction = _direction(scene, seed)
        theirs = _expected(scene, {"1-res": lambda x, d=direction: x + 3.0 * d}, {FEATURE})
        _same(arm, theirs, 30)
    assert result.steered.kl > 1e-3
    assert result.steered != result.control
    assert [t.sink for t in result.tokens].count(True) == 1, "the loud token is a sink"
    assert {c.position for c in result.steered.changes}.isdisjoint({0, [t.sink for t in result.tokens].index(True)})


@pytest.mark.parametrize("keep_error", [True, False])
def test_a_clamped_feature_alone_is_left_out(llama: Scene, keep_error: bool) -> None:
    """(v − f)·d along the feature's direction and along the random one; the reconstruction in place where asked."""
    result = _asked(llama, Intervention(FEATURE, 9.0, "clamp"), keep_error=keep_error, top=500)
    part = next(part for part in llama.parts if part.source == STEERED)

    def clamp(direction: Tensor) -> Change:
        def change(x: Tensor) -> Tensor:
            f = part.sae.encode(x)
            return (x if keep_error else part.sae(x)) + (9.0 - f[:, FEATURE.index, None]) * direction

        return change

    for arm, seed in ((result.steered, None), (result.control, 0)):
        _same(arm, _expected(llama, {"1-res": clamp(_direction(llama, seed))}, {FEATURE}), 500)
        assert FEATURE not in {change.feature for change in arm.changes}
    with_it = _expected(llama, {"1-res": clamp(_direction(llama))}, set())
    assert FEATURE in {change.feature for change in with_it.changes}, "it would have been listed"


def test_interventions_in_two_dictionaries(llama: Scene) -> None:
    other = FeatureRef("2-mlp-gated", 4)
    result = _asked(llama, ADD, Intervention(other, -2.0), top=40)
    row = next(part for part in llama.parts if part.source == other.source).sae.W_dec[4]
    changes: dict[str, Change] = {"1-res": lambda x: x + 3.0 * _direction(llama), "2-mlp": lambda x: x - 2.0 * row}
    _same(result.steered, _expected(llama, changes, {FEATURE, other}), 40)


# --- what must be so --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neutral", [Intervention(FEATURE), Intervention(FEATURE, 1.0, "scale")])
def test_what_changes_nothing_changes_nothing(llama: Scene, neutral: Intervention) -> None:
    result = _asked(llama, neutral)
    for arm in (result.steered, result.control):
        assert (arm.changes, arm.kl) == ((), 0.0)
        for site in arm.sites:
            assert (site.changed, site.silenced, site.woken, site.small) == (0, 0, 0, 0)
            assert (site.cosine, site.mse) == (1.0, 0.0)
            assert site.active > 0
    assert any("changes nothing" in warning for warning in result.warnings)


def test_before_the_intervention_everything_is_the_same_to_the_bit(llama: Scene) -> None:
    result = _asked(llama, Intervention(FEATURE, 50.0), top=1000)
    for arm in (result.steered, result.control):
        sites = {site.source: site for site in arm.sites}
        for source in BEFORE:
            assert (sites[source].changed, sites[source].cosine, sites[source].mse) == (0, 1.0, 0.0)
        for source in AFTER:
            assert sites[source].share > 0.5
            assert sites[source].cosine < 0.9
        assert not {change.feature.source for change in arm.changes} & set(BEFORE)


def test_only_the_tokens_from_there_on_change(llama: Scene) -> None:
    late = Intervention(FEATURE, 20.0, positions=parse_positions("5:"))
    assert min(change.position for change in _asked(llama, late, top=1000).steered.changes) >= 5


def test_the_seed_is_that_of_the_control_alone(llama: Scene) -> None:
    first, again, other = (_asked(llama, ADD, seed=seed) for seed in (1, 1, 2))
    assert (first.steered, first.control) == (again.steered, again.control)
    assert first.steered == other.steered
    assert first.control != other.control


def test_a_long_prompt_is_compared_block_by_block(llama: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _asked(llama, ADD)
    monkeypatch.setattr(impact, "_BLOCK_ELEMENTS", 64 * 3)
    pieces = _asked(llama, ADD)
    for one, other in ((whole.steered, pieces.steered), (whole.control, pieces.control)):
        _same(other, one, 20)


def test_one_token_is_no_sink(llama: Scene) -> None:
    result = _asked(llama, ADD, prompt="a")
    assert {change.position for change in result.steered.changes} == {0}


def test_progress_is_told_and_the_work_can_be_stopped(llama: Scene) -> None:
    seen: list[Progress] = []

    def emit(event: Event) -> None:
        assert isinstance(event, Progress)
        seen.append(event)
        if event.done == 2:
            job.cancel()

    job = Job(1, emit)
    with pytest.raises(Cancelled):
        _asked(llama, ADD, job=job)
    assert [(event.done, event.total) for event in seen] == [(0, 3), (1, 3), (2, 3)]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.model.hf.modules())


@pytest.mark.parametrize(
    ("interventions", "asked", "message"),
    [
        ((), {}, "No intervention"),
        ((ADD,), {"prompt": ""}, "prompt is empty"),
        ((ADD,), {"top": 0}, "0 is not a number of changes"),
        ((Intervention(FeatureRef("9-res", 1), 1.0),), {}, "No dictionary called 9-res"),
        ((Intervention(FeatureRef(STEERED, 10**6), 1.0),), {}, "has no feature 1000000"),
    ],
)
def test_what_cannot_be_asked(
    llama: Scene, interventions: tuple[Intervention, ...], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        _asked(llama, *interventions, **asked)
