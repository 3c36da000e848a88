"""Runs with features ablated equal slow loops of plain hooks and what was planted; features act together."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.circuits.examples import Example
from engine.circuits.faithfulness import Replacement
from engine.job import Job
from engine.protocol import FeatureRef
from engine.studies.ablation import runs as ablation_runs
from engine.studies.ablation.runs import Runs, To
from tests import planted
from tests.circuit_scene import IDS, PATCH, Scene, made_scene
from tests.circuit_truth import Change, Part, Plain

Seen = dict[str, tuple[Tensor, Tensor]]
"""What every site read and wrote."""
TARGET, AGAINST = (7, 19), (40, 3)
EXAMPLES = [
    Example(tuple(IDS[n].tolist()), tuple(PATCH[n].tolist()), (TARGET[n],), (AGAINST[n],)) for n in range(len(IDS))
]
SITES: Any = (
    ("0-att", "topk", {}),
    ("0-res", "jumprelu", {}),
    ("1-mlp", "standard", {}),
    ("1-res", "standard", {"normalize_activations": "layer_norm"}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True, "k": 5}),
)
TRANSCODING: Any = (
    ("0-res", "topk", {}),
    ("1-mlp", "skip_transcoder", {"read": "1-mid"}),
    ("1-res", "jumprelu", {}),
)
SCENES = {"gpt2": ("gpt2", SITES), "transcoders": ("llama", TRANSCODING)}


# --- runs against a slow loop -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(SCENES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    family, sites = SCENES[request.param]
    return made_scene(family, tmp_path_factory.mktemp(request.param), sites)


@pytest.mark.parametrize("errors", ["keep", "remove"])
@pytest.mark.parametrize("to", ["zero", "resample"])
def test_every_run_is_that_of_a_slow_loop(scene: Scene, to: To, errors: Any) -> None:
    """One prompt after the other, SAELens' dictionaries in hooks of our own, every feature masked by hand."""
    runs = Runs(scene.model, scene.bases, EXAMPLES, to, errors, Job())
    plains = _plains(scene, to)
    groups = _groups(plains)
    assert runs.whole == pytest.approx(_slow(plains, lambda plain: {}), abs=scene.tolerance)
    empty = _slow(plains, lambda plain: _changes(plain, to, errors, keep=lambda source, index: False))
    assert runs.empty() == pytest.approx(empty, abs=scene.tolerance)
    told = set()
    for group in groups:
        chosen = set(group)

        def inside(source: str, index: int, chosen: set[FeatureRef] = chosen) -> bool:
            return FeatureRef(source, index) in chosen

        def outside(source: str, index: int, chosen: set[FeatureRef] = chosen) -> bool:
            return FeatureRef(source, index) not in chosen

        kept = _slow(plains, partial(_changes, to=to, errors=errors, keep=inside))
        rest = _slow(plains, partial(_changes, to=to, errors=errors, keep=outside))
        assert runs.kept(group) == pytest.approx(kept, abs=scene.tolerance), group
        assert runs.without(group) == pytest.approx(rest, abs=scene.tolerance), group
        told |= {round(kept, 6), round(rest, 6)}
    assert len(told) > len(groups), "the groups do different things"


def _plains(scene: Scene, to: To) -> list[Plain]:
    def metric(n: int) -> Any:
        return lambda logits: logits[TARGET[n]] - logits[AGAINST[n]]

    return [
        Plain(scene.model.hf, scene.family, scene.parts, IDS[n], PATCH[n] if to == "resample" else None, metric(n))
        for n in range(len(IDS))
    ]


def _groups(plains: Sequence[Plain]) -> list[list[FeatureRef]]:
    """Features that fire: one, two of one dictionary, all of a site's strongest, and some of every site."""
    strongest = {
        source: [FeatureRef(source, i) for i in state.c[1:].abs().sum(0).topk(4).indices.tolist()]
        for source, state in plains[0].states.items()
    }
    sources = list(strongest)
    return [
        strongest[sources[0]][:1],
        strongest[sources[1]][:2],
        strongest[sources[-1]],
        [strongest[sources[-1]][0], strongest[sources[0]][1]],
        [ref for refs in strongest.values() for ref in refs],
    ]


def _changes(plain: Plain, to: To, errors: str, *, keep: Callable[[str, int], bool]) -> dict[str, Change]:
    number = next(n for n in range(len(IDS)) if torch.equal(IDS[n], plain.ids))
    patched = plain._looked(PATCH[number])
    return {source: _change(plain, patched, source, to, errors, keep) for source in plain.order}


def _change(plain: Plain, patched: Seen, source: str, to: To, errors: str, keep: Callable[[str, int], bool]) -> Change:
    part: Part = plain.parts[source]
    state = plain.states[source]
    kept = torch.tensor([keep(source, i) for i in range(state.c.shape[1])])
    norms = state.x.norm(dim=1)
    held = norms > 4 * norms.median()
    held[0] = True
    baseline = state.c + state.delta
    other_error = torch.zeros_like(state.x)
    if to == "resample":
        other_error = part.apart(*patched[source])[2]

    def change(read: Tensor, x: Tensor) -> Tensor:
        c, constant, error = part.apart(read, x)
        new = torch.where(kept, c, baseline) @ part.sae.W_dec + constant
        new = new + (error if errors == "keep" else other_error)
        return torch.where(held[:, None], x, new) if to == "zero" else new

    return change


def _slow(plains: Sequence[Plain], changes: Callable[[Plain], dict[str, Change]]) -> float:
    values = []
    for plain in plains:
        with torch.no_grad():
            values.append(float(plain.run(changes(plain))))
    return sum(values) / len(values)


# --- what was planted -------------------------------------------------------------------------------------------------


def _planted(clean: list[int], patch: list[int], to: To) -> Runs:
    """m = c + 0.5·e + 4·d: with As before and at the end, c = 30 and e = 14."""
    example = Example(tuple(clean), tuple(patch), (planted.YES,), ())
    return Runs(planted.model(), planted.bases(), [example], to, "keep", Job())


def test_planted_features_are_found_in_closed_form() -> None:
    a, b, d = planted.A, planted.B, planted.D
    runs = _planted([a, a, a], [b, b, b], "resample")
    assert runs.whole == pytest.approx(37)
    assert runs.empty() == pytest.approx(0)
    carried = FeatureRef("0-res", planted.B_FEATURE)
    assert runs.without([carried]) == pytest.approx(7)
    path = [FeatureRef("embed", planted.A_FEATURE), FeatureRef("0-res", planted.A_FEATURE)]
    assert runs.kept([*path, FeatureRef("1-res", planted.E_FEATURE)]) == pytest.approx(7)
    assert runs.kept(path) == pytest.approx(0), "what nothing after it keeps is gone"
    with_error = _planted([a, a, d], [b, b, b], "resample")
    assert with_error.empty() == pytest.approx(4), "no dictionary knows d: it stays"


def test_two_features_of_one_dictionary_act_together() -> None:
    """The thesis' code kept the last one only: its score of {c, e} was that of {e}."""
    runs = _planted([planted.A] * 3, [planted.B] * 3, "resample")
    c, e = (FeatureRef("1-res", index) for index in (planted.C_FEATURE, planted.E_FEATURE))
    assert runs.without([c]) == pytest.approx(7)
    assert runs.without([e]) == pytest.approx(30)
    assert runs.without([c, e]) == runs.without([e, c]) == pytest.approx(0)
    downstream = FeatureRef("0-res", planted.B_FEATURE)
    assert runs.without([downstream, c, e]) == pytest.approx(0), "together at two sites too"


def test_zero_is_zero_and_resampling_is_the_patch_prompt() -> None:
    """The thesis' zero combinations ran with patch prompts. Here both differ, and zero does not read the patch."""
    a, b = planted.A, planted.B
    c = [FeatureRef("1-res", planted.C_FEATURE)]
    # of A B A the first A is held; at the last token c = 5 · mean(6, 3, 4), of the patch B A A 5 · mean(0, 3, 4)
    zero, resampled = (_planted([a, b, a], [b, a, a], to) for to in ("zero", "resample"))
    whole = 65 / 3 + 7
    assert zero.whole == resampled.whole == pytest.approx(whole)
    assert zero.without(c) == pytest.approx(7)
    assert resampled.without(c) == pytest.approx(35 / 3 + 7)
    assert _planted([a, b, a], [a, a, a], "zero").without(c) == zero.without(c)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_patch_values_are_dense_for_one_batch_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches there are, what is there at once are the patch values of one."""
    whole = Runs(scene.model, scene.bases, EXAMPLES, "resample", "keep", Job())
    alive: list[weakref.ref[Replacement]] = []
    most = 0

    def made(*given: Tensor) -> Replacement:
        nonlocal most
        found = Replacement(*given)
        alive.append(weakref.ref(found))
        most = max(most, sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(ablation_runs, "Replacement", made)
    monkeypatch.setattr(ablation_runs, "available_bytes", lambda device: 1)
    runs = Runs(scene.model, scene.bases, EXAMPLES, "resample", "keep", Job())
    assert len(runs._batches) == len(EXAMPLES) > 1
    assert not any(one() for one in alive)
    assert runs.empty() == pytest.approx(whole.empty(), abs=scene.tolerance)
    group = [FeatureRef(basis.source, n) for basis in scene.bases for n in range(20)]
    assert runs.kept(group) == pytest.approx(whole.kept(group), abs=scene.tolerance)
    assert runs.without(group) == pytest.approx(whole.without(group), abs=scene.tolerance)
    assert 0 < most <= len(scene.bases)
