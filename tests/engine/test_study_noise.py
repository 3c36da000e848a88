"""Ablation and noise equal a slow loop of plain hooks and SAELens' dictionaries, feature by feature, token by token."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from engine.dictionary import Dictionary
from engine.errors import BadRequest, PromptTooLong
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Event, StudyGrown
from engine.requests import RankAblations
from engine.results import FeatureRef
from engine.steering.ranking import rank_ablations
from engine.steering.values import random_direction
from engine.studies.measure import Growing
from engine.studies.noise.changes import Read, changes_of
from engine.studies.noise.others import Comparison
from engine.studies.noise.study import _Study, measure
from engine.study_results import StudyResult
from engine.study_settings.noise import Noise
from tests.circuit_scene import Scene, made_scene
from tests.circuit_truth import PLACES, Part

PROMPT = "in the end of the bag"
SITES: Any = (
    ("0-res", "jumprelu", {}),
    ("1-mlp", "transcoder", {"read": "1-mid"}),
    ("1-res", "standard", {"normalize_activations": "layer_norm"}),
    ("1-res", "topk", {}),
    ("2-mlp", "gated", {}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True}),
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene("llama", tmp_path_factory.mktemp("noise"), SITES)


@pytest.fixture(scope="module")
def opened(scene: Scene) -> OpenSet:
    return OpenSet(scene.model, {b.source: b.dictionary for b in scene.bases}, False, "")


def _asked(opened: OpenSet, **settings: Any) -> StudyResult:
    return measure(opened, Noise(**{"prompt": PROMPT, **settings}), Growing(Job()))


def _rows(result: StudyResult, name: str) -> list[dict[str, Any]]:
    table = result.table(name)
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names), "a view finds a column by its name"
    return [dict(zip(names, row, strict=True)) for row in table.rows]


# --- the slow way -----------------------------------------------------------------------------------------------------

Shift = Callable[[Tensor], Tensor]


def _run(scene: Scene, place: str | None = None, shift: Shift | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """What is at every place [T, d], and the next token's log-probabilities, with something else at one place."""
    seen: dict[str, Tensor] = {}
    handles = []
    for at in {p for part in scene.parts for p in (part.read, part.write)}:
        layer, kind = at.split("-")
        module = scene.model.hf.get_submodule(PLACES["llama"][kind].format(layer))

        def visited(x: Tensor, at: str) -> Tensor:
            new = shift(x[0])[None] if shift is not None and at == place else x
            seen[at] = new[0]
            return new

        def before(_: Any, args: Any, at: str = at) -> None:
            visited(args[0], at)

        def after(_: Any, __: Any, output: Any, at: str = at) -> Any:
            return (visited(output[0], at), *output[1:]) if isinstance(output, tuple) else visited(output, at)

        handles.append(
            module.register_forward_pre_hook(before) if kind == "mid" else module.register_forward_hook(after)
        )
    with torch.no_grad():
        logits = scene.model.hf(torch.tensor([scene.model.tokenizer.encode(PROMPT, bos=False)])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return seen, logits.log_softmax(0)


def _counted(x: Tensor) -> list[int]:
    norms = x.norm(dim=1)
    return [t for t in range(1, len(x)) if norms[t] <= 4 * norms.median()]


def _part(scene: Scene, source: str) -> Part:
    return next(part for part in scene.parts if part.source == source)


def _strongest(scene: Scene, source: str) -> int:
    part = _part(scene, source)
    seen, _ = _run(scene)
    peaks = part.sae.encode(seen[part.read])[_counted(seen[part.write])].amax(0)
    return int(peaks.argmax())


def _cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("source", [site[0] + "-" + site[1] for site in SITES[:4]] + ["2-res-topk"])
@pytest.mark.parametrize("errors", ["keep", "remove"])
def test_clamping_to_zero_equals_a_slow_loop(scene: Scene, opened: OpenSet, source: str, errors: str) -> None:
    part, index = _part(scene, source), _strongest(scene, source)
    result = _asked(opened, features=(f"{source}:{index}",), noise=(), errors=errors, changed=0.05)

    seen, _ = _run(scene)
    read, written = seen[part.read], seen[part.write]
    f = part.sae.encode(read)
    rebuilt = part.sae.decode(f) + (read @ part.sae.W_skip.T if hasattr(part.sae, "W_skip") else 0)
    counted = _counted(written)
    tokens = [t for t in counted if f[t, index] != 0]
    assert tokens, "the scene has something to clamp"
    reference = written.clone()
    if errors == "remove":
        reference[counted] = rebuilt[counted]
    c, _, _ = part.apart(read, written)
    changed = reference.clone()
    for t in tokens:
        changed[t] -= c[t, index] * part.sae.W_dec[index]
    before, p = _run(scene, part.write, lambda _: reference)
    after, q = _run(scene, part.write, lambda _: changed)

    zero = next(row for row in _rows(result, "reconstructions") if row["change"] == "zero")
    without = [rebuilt[t] - c[t, index] * part.sae.W_dec[index] for t in tokens]
    expected = {
        "tokens": len(tokens),
        "activation": float(f[tokens, index].mean()),
        "cosine": sum(_cos(rebuilt[t], w) for t, w in zip(tokens, without, strict=True)) / len(tokens),
        "mse": sum(float((rebuilt[t] - w).square().mean()) for t, w in zip(tokens, without, strict=True)) / len(tokens),
        "kl": float((p.exp() * (p - q)).sum()),
    }
    for name, value in expected.items():
        assert zero[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name

    sites = {row["source"]: row for row in _rows(result, "sites")}
    later = [other for other in scene.parts if _depth(other.read) >= _depth(part.write)]
    assert set(sites) == {other.source for other in later}
    for other in later:
        where = tokens if other.read == part.write else [t for t in _counted(seen[other.write]) if t >= tokens[0]]
        slow = _others(other, before[other.read], after[other.read], where, index if other.source == source else None)
        for name, value in slow.items():
            assert sites[other.source][name] == pytest.approx(value, rel=1e-4, abs=1e-5), (other.source, name)
    assert any(0 < row["changed"] < 1 for row in sites.values()) or len(sites) < 3, "the loop can tell shares"


def _depth(place: str) -> tuple[int, int]:
    layer, kind = place.split("-")
    return int(layer), ["att", "mid", "mlp", "res"].index(kind)


def _others(part: Part, before: Tensor, after: Tensor, where: list[int], skip: int | None) -> dict[str, float]:
    """Entry by entry: what happens to the other features of a dictionary."""
    old, new = part.sae.encode(before), part.sae.encode(after)
    active = changed = appeared = vanished = small = fired = 0
    change = relative = cosine = mse = 0.0
    for t in where:
        for i in range(old.shape[1]):
            a, b = float(old[t, i]), float(new[t, i])
            if i == skip or a == b == 0:
                continue
            active += 1
            change += abs(b - a)
            appeared += a == 0
            vanished += b == 0
            if a:
                fired += 1
                relative += abs(b - a) / a
            if abs(b - a) > 0.05 * a:
                changed += 1
                small += abs(b - a) < 1
        mask = [i for i in range(old.shape[1]) if i != skip]
        cosine += _cos(old[t, mask], new[t, mask])
    # SAELens keeps the norms of what it encoded last, so decoding follows encoding
    a_hat = part.sae(before)
    b_hat = part.sae(after)
    for t in where:
        mse += float((a_hat[t] - b_hat[t]).square().mean())
    n = len(where)
    found = {
        "active": active / n, "changed": changed / active, "new": appeared / active, "vanished": vanished / active,
        "mean change": change / active, "relative change": relative / fired, "others cosine": cosine / n,
        "rebuilt mse": mse / n,
    }  # fmt: skip
    return found | ({"small": small / changed} if changed else {})


# --- noise ------------------------------------------------------------------------------------------------------------


def _made_read(scene: Scene, source: str) -> Read:
    dictionary = next(b.dictionary for b in scene.bases if b.source == source)
    x = _run(scene)[0][_part(scene, source).read]
    features = dictionary.encode(x)
    return Read(dictionary, x, x, features, torch.tensor([False] + [True] * (len(x) - 1)), x)


def test_noise_has_the_size_that_was_asked_for_and_ends_at_zero(scene: Scene) -> None:
    read = _made_read(scene, "1-res-topk")
    index = int(read.features[1:].amax(0).argmax())
    ref = FeatureRef("1-res-topk", index)
    f, direction = read.features[:, index], read.dictionary.decoder[index]
    found = changes_of(read, ref, [0.1, 2.0], 4000, seed=3)
    zero, random = found[:2]
    silent = (f == 0) | ~read.counted
    torch.testing.assert_close(zero.added, -(f * read.counted)[:, None] * direction)
    other = random_direction(direction, 3, str(ref))
    torch.testing.assert_close(random.added, -(f * read.counted)[:, None] * other)
    torch.testing.assert_close(random.added.norm(dim=1), zero.added.norm(dim=1))
    for size in (0.1, 2.0):
        rows = torch.stack([change.added for change in found if change.size == size])
        assert len(rows) == 4000
        amounts = rows @ direction / direction.square().sum()
        torch.testing.assert_close(rows, amounts[..., None] * direction, msg="noise moves along the decoder row alone")
        assert not amounts[:, silent].any()
        relative = amounts[:, ~silent] / f[~silent]
        assert float(relative.min()) >= -1 - 1e-9
        if size == 0.1:
            assert float(relative.mean()) == pytest.approx(0, abs=0.01)
            assert float(relative.std()) == pytest.approx(0.1, rel=0.05)
        else:  # max(1 + 2ε, 0) − 1: a third of a normal lies below −1/2
            below = float((relative <= -1 + 1e-9).double().mean())
            assert below == pytest.approx(0.5 * math.erfc(0.5 / math.sqrt(2)), abs=0.02)


def test_the_same_seed_gives_the_same_noise(opened: OpenSet) -> None:
    one, same, other = (
        _rows(_asked(opened, count=2, noise=("0.5",), draws=2, seed=seed), "reconstructions") for seed in (1, 1, 2)
    )
    assert one == same
    pick = [n for n, row in enumerate(one) if row["change"] != "zero"]
    assert all(one[n]["kl"] != other[n]["kl"] for n in pick)


def test_more_noise_does_more(opened: OpenSet) -> None:
    result = _asked(opened, count=6, noise=("1", "0.01", "0.2"), draws=20)
    sizes = [row for row in _rows(result, "sizes") if row["change"] == "noise"]
    assert [row["noise"] for row in sizes] == [0.01, 0.2, 1.0]
    for name in ("mse", "relative error", "changed", "mean change"):
        values = [row[name] for row in sizes]
        assert values == sorted(values), name
        assert values[0] < values[-1], name
    assert sizes[0]["cosine"] > sizes[-1]["cosine"]


# --- features, ranking, growing ---------------------------------------------------------------------------------------


def test_the_strongest_are_taken_from_each_dictionary_in_turn(scene: Scene, opened: OpenSet) -> None:
    result = _asked(opened, count=8, noise=())
    shown = list(dict.fromkeys(row["feature"] for row in _rows(result, "reconstructions")))
    first = {f"{part.source}:{_strongest(scene, part.source)}" for part in scene.parts}
    assert len(shown) == 8
    assert first <= set(shown)
    grid = _rows(result, "affected")
    assert len(grid) == 8 * 20
    for row in grid:
        assert -1 <= row["balance"] <= 1
        assert row["relative change"] is None or row["before"]
    for view in result.views:
        names = {column.name for column in result.table(view.table).columns}
        asked = [getattr(view, name, None) for name in ("row", "column", "value", "x", "label")]
        assert {name for name in asked if name} | set(getattr(view, "y", ())) <= names


def test_the_ranking_is_that_of_measured_ablations(opened: OpenSet) -> None:
    result = _asked(opened, count=5, noise=(), target=(" the",), against=(" of",), top=1000)
    asked = RankAblations(id=1, prompt=PROMPT, target=(" the",), against=(" of",), top=5)
    expected = rank_ablations(opened, asked, Job())
    rows = _rows(result, "ranking")
    assert [row["feature"] for row in rows] == [str(row.feature) for row in expected.rows]
    assert result.figures["shared with activation"] == expected.shared_activation
    assert result.figures["correlation attribution"] == pytest.approx(expected.correlation_attribution, rel=1e-4)
    measured = {row["feature"]: row["kl"] for row in rows}
    for row in _rows(result, "reconstructions"):
        if row["change"] == "zero":  # the same question, asked in two ways
            assert measured[row["feature"]] == pytest.approx(row["kl"], rel=1e-3, abs=1e-7)


def test_what_is_there_is_shown_on_the_way(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", 0.0)
    events: list[Event] = []
    measure(opened, Noise(prompt=PROMPT, count=3, noise=()), Growing(Job(1, events.append)))
    grown = [len(_rows(e.result, "reconstructions")) for e in events if isinstance(e, StudyGrown)]
    assert grown[:3] == [2, 4, 6]


def test_one_dictionary_s_encodings_are_held_at_a_time(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dictionary reads without a change is let go when the next one's turn comes."""
    encode, held, most = Dictionary.encode, list[weakref.ref[Tensor]](), [0]

    def noted(self: Dictionary, x: Tensor) -> Tensor:
        found = encode(self, x)
        held.append(weakref.ref(found))
        return found

    def of(self: Comparison, old: Tensor, before: Tensor, after: Tensor) -> Any:
        most[0] = max(most[0], sum(one() is not None for one in held))
        return compare(self, old, before, after)

    study, compare = _Study.change, Comparison.of

    def change(self: _Study, *given: Any) -> None:
        held.clear()  # those of the prompt are kept by right
        study(self, *given)

    monkeypatch.setattr(Dictionary, "encode", noted)
    monkeypatch.setattr(Comparison, "of", of)
    monkeypatch.setattr(_Study, "change", change)
    _asked(opened, features=(f"0-res-jumprelu:{_strongest_of(opened)}",), noise=())
    assert most[0] == 1, "of five dictionaries that see the change"


def _strongest_of(opened: OpenSet) -> int:
    dictionary = opened.dictionaries["0-res-jumprelu"]
    ids = torch.tensor([opened.model.tokenizer.encode(PROMPT, bos=False)])
    x = opened.model.capture(ids, [dictionary.site])[dictionary.site][0].to(dictionary.precision)
    return int(dictionary.encode(x)[1:].amax(0).argmax())


def test_silent_features_are_left_out_and_said(scene: Scene, opened: OpenSet) -> None:
    source = "1-res-topk"
    part = _part(scene, source)
    f = part.sae.encode(_run(scene)[0][part.read])
    silent = int((f == 0).all(0).nonzero()[0])
    result = _asked(opened, features=(f"{source}:{silent}", f"{source}:{_strongest(scene, source)}"), noise=())
    assert any(f"{source}:{silent}" in note for note in result.notes)
    with pytest.raises(BadRequest, match="does not fire"):
        _asked(opened, features=(f"{source}:{silent}",))


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "a"}, "No feature fires"),
        ({"noise": ("much",)}, "'much' is not a size"),
        ({"noise": ("-1",)}, "'-1' is not a size"),
        ({"noise": ("nan",)}, "'nan' is not a size"),
        ({"features": ("1-res-topk",)}, "1-res-topk"),
        ({"features": ("1-res-topk:64",)}, "no feature 64"),
        ({"sources": ("9-res",)}, "9-res"),
        ({"target": ("several words here",)}, "not one"),
    ],
)
def test_what_cannot_be_asked_is_refused(opened: OpenSet, settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRequest, match=cause):
        _asked(opened, **settings)


def test_a_prompt_that_is_too_long_is_refused(opened: OpenSet) -> None:
    with pytest.raises(PromptTooLong):
        _asked(opened, prompt="in the end " * 200)


@pytest.mark.default_set
def test_the_command_on_the_default_set(default_set: Path) -> None:
    from main import app

    ran = CliRunner().invoke(
        app, ["study", "noise", "The keys to the cabinet", "--count", "6", "--draws", "3", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert 0.9 < result["figures"]["cosine"] < 1
    assert 0.4 < result["figures"]["changed"] <= 1, "the report: more than 40 % of other features change"
