"""Rankings by activation, attribution and ablation equal a slow loop of plain hooks, and what was planted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, Cancelled, OutOfMemory
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import Event, Progress
from engine.requests import Open, RankAblations
from engine.results import FeatureRef
from engine.steering.ranking import pearson, rank_ablations, ranks
from engine.steering_results import AblationResult
from engine.tokenizer import TextTokenizer
from tests import planted
from tests.circuit_scene import FAMILIES, SITES, Scene, made_scene
from tests.circuit_truth import Plain
from tests.planted import A_FEATURE, B_FEATURE, C_FEATURE, E_FEATURE

PROMPT = "in the end of the"
TWICE = (*SITES[:5], ("1-res", "topk", {}), *SITES[5:])
"""Two dictionaries read the residual stream of layer 1."""
TRANSCODING: Any = (
    ("0-res", "topk", {}),
    ("1-mlp", "transcoder", {"read": "1-mid"}),
    ("1-res", "jumprelu", {}),
    ("2-mlp", "skip_transcoder", {"read": "2-mid"}),
)
SCENES: dict[str, tuple[str, Any]] = {
    **{family: (family, TWICE) for family in FAMILIES},
    "transcoders": ("llama", TRANSCODING),
}


def _asked(opened: OpenSet, prompt: str = PROMPT, job: Job | None = None, **settings: Any) -> AblationResult:
    return rank_ablations(opened, RankAblations(id=1, prompt=prompt, **settings), job or Job())


def _in(scene: Scene) -> OpenSet:
    return OpenSet(scene.model, {b.source: b.dictionary for b in scene.bases}, False, "")


# --- a slow loop ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(SCENES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    family, sites = SCENES[request.param]
    return made_scene(family, tmp_path_factory.mktemp(request.param), sites)


@pytest.mark.parametrize("keep_sinks", [False, True])
def test_every_figure_is_that_of_a_slow_loop(scene: Scene, keep_sinks: bool) -> None:
    """One feature after the other, a whole pass each, with hooks of our own and SAELens' dictionaries."""
    result = _asked(_in(scene), target=(" the",), against=(" of",), candidates=25, keep_sinks=keep_sinks)
    assert result.measured == len(result.rows) >= 25
    plain, metric = _plain(scene, keep_sinks)
    activation, position, attribution = _by_feature(plain, keep_sinks)
    by_activation = _places(activation)
    by_attribution = _places({ref: abs(value) for ref, value in attribution.items()})
    expected = {ref for ref in activation if by_activation[ref] <= 25 or by_attribution[ref] <= 25}
    assert {row.feature for row in result.rows} == expected
    largest = max(map(abs, attribution.values()))
    for row in result.rows:
        assert row.activation == pytest.approx(activation[row.feature], rel=10 * scene.tolerance)
        assert row.position == position[row.feature]
        assert row.attribution == pytest.approx(attribution[row.feature], abs=scene.tolerance * max(largest, 1))
        assert (row.by_activation, row.by_attribution) == (by_activation[row.feature], by_attribution[row.feature])
        without, kl = _without(plain, metric, row.feature)
        assert row.ablation == pytest.approx(plain.clean - without, abs=scene.tolerance * max(largest, 1))
        assert row.kl == pytest.approx(kl, abs=scene.tolerance)
    _consistent(result)
    assert max(abs(row.ablation - row.attribution) for row in result.rows) > 1e-3 * largest, "the loop can tell them"
    assert result.metric.clean == pytest.approx(plain.clean, rel=1e-4)
    assert result.metric.kind == "difference"


def _plain(scene: Scene, keep_sinks: bool) -> tuple[Plain, Any]:
    tokenizer = scene.model.tokenizer
    target, against = (tokenizer.encode(text, bos=False)[0] for text in (" the", " of"))

    def metric(logits: Tensor) -> Tensor:
        return logits[target] - logits[against]

    ids = torch.tensor(tokenizer.encode(PROMPT, bos=False))
    return Plain(scene.model.hf, scene.family, scene.parts, ids, None, metric, hold_sinks=not keep_sinks), metric


def _by_feature(
    plain: Plain, keep_sinks: bool
) -> tuple[dict[FeatureRef, float], dict[FeatureRef, int], dict[FeatureRef, float]]:
    """Largest activation, where it is, and Σ of the effects, of every feature that fires at a place that counts."""
    activation, position, attribution = {}, {}, {}
    effects = plain.attrib()
    for source, state in plain.states.items():
        f = plain.parts[source].sae.encode(state.read)
        norms = state.x.norm(dim=1)
        held = norms > 4 * norms.median()
        held[0] = True
        if not keep_sinks:
            f = f * ~held[:, None]
        for index in (f > 0).any(0).nonzero()[:, 0].tolist():
            ref = FeatureRef(source, index)
            activation[ref], position[ref] = float(f[:, index].max()), int(f[:, index].argmax())
            attribution[ref] = float(effects[source][0][:, index].sum())
    return activation, position, attribution


def _without(plain: Plain, metric: Any, feature: FeatureRef) -> tuple[float, float]:
    """The metric without a feature at any token, and KL(clean ‖ without)."""
    state, part = plain.states[feature.source], plain.parts[feature.source]
    x = state.x + state.delta[:, feature.index, None] * part.sae.W_dec[feature.index]
    plain.metric = lambda logits: logits
    with torch.no_grad():
        clean, without = plain.run({}), plain.run({feature.source: lambda *_: x})
    plain.metric = metric
    p, q = clean.log_softmax(0), without.log_softmax(0)
    return float(metric(without)), float((p.exp() * (p - q)).sum())


def _places(sizes: dict[FeatureRef, float]) -> dict[FeatureRef, int]:
    return {ref: place for place, ref in enumerate(sorted(sizes, key=sizes.__getitem__, reverse=True), 1)}


def _consistent(result: AblationResult) -> None:
    """Rows are in order of ablation, and what is said of all of them follows from the rows."""
    rows = result.rows
    sizes = [abs(row.ablation) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert [row.by_ablation for row in rows] == list(range(1, len(rows) + 1))
    top = {row.feature for row in rows[: result.top]}
    for shared, rank in ((result.shared_activation, "by_activation"), (result.shared_attribution, "by_attribution")):
        first = {row.feature for row in sorted(rows, key=lambda row: getattr(row, rank))[: result.top]}
        assert {getattr(row, rank) for row in rows} >= set(range(1, result.top + 1)), "the whole top was measured"
        assert shared == len(top & first)
    assert result.correlation_activation == pytest.approx(_corrcoef([r.activation for r in rows], sizes))
    expected = _corrcoef([r.attribution for r in rows], [r.ablation for r in rows])
    assert result.correlation_attribution == pytest.approx(expected)


def _corrcoef(a: list[float], b: list[float]) -> float:
    return float(torch.corrcoef(torch.tensor([a, b], dtype=torch.float64))[0, 1])


# --- what was planted -------------------------------------------------------------------------------------------------


@pytest.fixture
def grown(tmp_path: Path) -> OpenSet:
    """The planted model with a tokenizer of its four words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    built = Tokenizer(models.WordLevel({"A": 0, "B": 1, "D": 2, "Y": 3}, unk_token="B"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.save(str(tmp_path / "tokenizer.json"))
    model = planted.model()
    model.tokenizer = TextTokenizer(tmp_path)
    return OpenSet(model, {b.source: b.dictionary for b in planted.bases()}, False, "")


@pytest.mark.parametrize("keep_sinks", [True, False])
def test_a_linear_model_loses_what_was_planted(grown: OpenSet, keep_sinks: bool) -> None:
    """A B D A: b is 6, 3, 2, 3, each worth 5/4 of the logit; a at position s is worth Σ 6/(t + 1) of them."""
    through = {s: sum(6 / (t + 1) for t in range(s, 4)) * 5 / 4 for s in (0, 3)}
    effects = {
        FeatureRef("embed", A_FEATURE): 7 + through[3] + (through[0] if keep_sinks else 0),
        FeatureRef("0-res", A_FEATURE): 7.0,
        FeatureRef("0-res", B_FEATURE): (14 if keep_sinks else 8) * 5 / 4,
        FeatureRef("1-res", C_FEATURE): 17.5,
        FeatureRef("1-res", E_FEATURE): 7.0,
        FeatureRef("1-res", A_FEATURE): 0.0,
        FeatureRef("1-res", B_FEATURE): 0.0,
    }
    activations = {
        FeatureRef("embed", A_FEATURE): 2.0,
        FeatureRef("0-res", A_FEATURE): 2.0,
        FeatureRef("0-res", B_FEATURE): 6.0 if keep_sinks else 3.0,
        FeatureRef("1-res", C_FEATURE): 5 * 6.0 if keep_sinks else 5 * (6 + 3) / 2,
        FeatureRef("1-res", E_FEATURE): 14.0,
        FeatureRef("1-res", A_FEATURE): 2.0,
        FeatureRef("1-res", B_FEATURE): 6.0 if keep_sinks else 3.0,
    }
    result = _asked(grown, "A B D A", target=("Y",), keep_sinks=keep_sinks, top=3)
    found = {row.feature: row for row in result.rows if row.activation > 1e-9}
    assert {ref: row.ablation for ref, row in found.items()} == pytest.approx(effects, rel=1e-9, abs=1e-9)
    assert {ref: row.attribution for ref, row in found.items()} == pytest.approx(effects, rel=1e-9, abs=1e-9)
    assert {ref: row.activation for ref, row in found.items()} == pytest.approx(activations, rel=1e-9)
    for ref, effect in effects.items():
        assert found[ref].kl == pytest.approx(_kl(24.5, 24.5 - effect), rel=1e-6, abs=1e-12)
    assert result.metric.clean == pytest.approx(24.5)
    assert result.correlation_attribution == pytest.approx(1)
    first = FeatureRef("embed", A_FEATURE) if keep_sinks else FeatureRef("1-res", C_FEATURE)
    assert result.rows[0].feature == first
    assert result.shared_attribution == 3
    _consistent(result)


def _kl(clean: float, without: float) -> float:
    """KL of two distributions over four tokens, the other three with a logit of 0."""
    norms = [math.log(3 + math.exp(logit)) for logit in (clean, without)]
    yes = math.exp(clean - norms[0]) * ((clean - norms[0]) - (without - norms[1]))
    return yes + 3 * math.exp(-norms[0]) * (norms[1] - norms[0])


def test_the_error_is_kept(grown: OpenSet) -> None:
    """D last: what the dictionaries do not know stays, whatever is taken out."""
    result = _asked(grown, "A D", target=("Y",), keep_sinks=True)
    assert result.metric.clean == pytest.approx(4 + 5 * (6 + 3) / 2)
    effects = {row.feature: row.ablation for row in result.rows}
    assert effects[FeatureRef("1-res", C_FEATURE)] == pytest.approx(5 * (6 + 3) / 2)


# --- the request ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> OpenSet:
    return _open(llama_folder, dictionary_folders)


def _open(model: Path, dictionaries: tuple[Path, ...], dtype: str = "float32") -> OpenSet:
    places = tuple(map(str, dictionaries))
    return open_set(Open(id=1, model=str(model), dictionaries=places, device="cpu", dtype=dtype), Job())


def test_without_a_target_the_likeliest_token_counts(opened: OpenSet) -> None:
    with torch.no_grad():
        logits = opened.model.hf(torch.tensor([opened.ids(PROMPT, False)])).logits[0, -1]
    metric = _asked(opened).metric
    assert (metric.kind, [t.id for t in metric.targets], metric.against) == ("logit", [int(logits.argmax())], ())
    assert metric.clean == pytest.approx(float(logits.max()), rel=1e-5)
    assert metric.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-5)


def test_a_few_candidates_of_one_dictionary(opened: OpenSet) -> None:
    result = _asked(opened, candidates=3, top=3, sources=("2-res-tiny",))
    assert {row.feature.source for row in result.rows} == {"2-res-tiny"}
    assert 3 <= result.measured <= 6
    assert set(result.provenance.dictionaries) == {"2-res-tiny"}
    _consistent(result)


def test_the_top_is_measured_even_where_candidates_are_fewer(opened: OpenSet) -> None:
    _consistent(_asked(opened, candidates=1, top=8))


def test_a_model_in_lower_precision_is_measured_in_float32(
    llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    low, high = (_open(llama_folder, dictionary_folders, dtype) for dtype in ("bfloat16", "float32"))
    high.model.hf.load_state_dict(low.model.hf.state_dict())
    rounded, same = _asked(low), _asked(high)
    assert rounded.rows == same.rows
    assert rounded.provenance.dtype == "float32"
    assert low.model.dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [3, 0])
def test_out_of_memory_fewer_rows_are_run_together(opened: OpenSet, rows: int) -> None:
    whole = _asked(opened, candidates=20)
    with _at_most(opened, rows):
        if rows == 0:
            with pytest.raises(OutOfMemory, match="does not fit in memory"):
                _asked(opened, candidates=20)
            return
        pieces = _asked(opened, candidates=20)
    assert {r.feature: r.ablation for r in pieces.rows} == pytest.approx(
        {r.feature: r.ablation for r in whole.rows}, abs=1e-4
    )


@contextmanager
def _at_most(opened: OpenSet, rows: int) -> Iterator[None]:
    """A device on which a pass over more rows runs out of memory."""

    def full(_: Any, args: Any) -> None:
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handles = [layer.register_forward_pre_hook(full) for layer in opened.model.hf.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_progress_is_told_and_the_work_can_be_stopped(opened: OpenSet) -> None:
    seen: list[Progress] = []

    def emit(event: Event) -> None:
        assert isinstance(event, Progress)
        seen.append(event)
        if event.text == "taking features out" and event.done:
            job.cancel()

    job = Job(1, emit)
    with pytest.raises(Cancelled):
        _asked(opened, job=job)
    assert 0 < seen[-1].done < seen[-1].total
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in opened.model.hf.modules())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"target": ("nosuchtoken",)}, "tokens, not one"),
        ({"target": (" the",), "against": (" the",)}, "compared with itself"),
        ({"sources": ("9-res",)}, "No dictionary called 9-res"),
        ({"top": 0}, "0 is not a number of features for top"),
        ({"candidates": -1}, "-1 is not a number of features for candidates"),
    ],
)
def test_what_cannot_be_asked(opened: OpenSet, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        _asked(opened, **asked)


def test_the_likeliest_token_is_not_compared_with_itself(grown: OpenSet) -> None:
    with pytest.raises(BadRequest, match="The likeliest next token is 'Y'"):
        _asked(grown, "A B D A", against=("Y",))


def test_without_dictionaries_nothing_can_be_ranked(opened: OpenSet) -> None:
    with pytest.raises(BadRequest, match="No dictionary is open"):
        _asked(OpenSet(opened.model, {}, None, ""))


def test_one_token_has_no_sink(opened: OpenSet) -> None:
    assert {row.position for row in _asked(opened, "a").rows} == {0}


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_ranks_count_from_one_and_ties_keep_their_order() -> None:
    assert ranks(torch.tensor([2.0, 5.0, 2.0, 7.0])).tolist() == [3, 2, 4, 1]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], [1.0, -1.0, -1.0, 1.0], 0.0),
        ([1.0, 1.0], [1.0, 2.0], None),
        ([1.0], [1.0], None),
        ([], [], None),
    ],
)
def test_correlation(a: list[float], b: list[float], expected: float | None) -> None:
    assert pearson(a, b) == (expected if expected is None else pytest.approx(expected, abs=1e-12))
