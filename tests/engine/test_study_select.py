"""Mean effects and selection against plain loops: one pair after the other, the rules written out, sets as sets.

The truth of effects is `tests/circuit_truth.py`: plain torch, hooks on the Hugging Face model, SAELens' dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, Cancelled
from engine.events import StudyGrown
from engine.headless import Headless
from engine.headless_studies import study, study_settings
from engine.job import Job
from engine.opening import OpenSet
from engine.pairs import read_pairs
from engine.protocol import Event, Open, Pair, Trace, TraceGrown
from engine.studies import measure as measuring
from engine.studies.effects import MeanEffects, mean_effects
from engine.studies.measure import Growing, measure_study
from engine.study_results import StudyResult
from engine.study_settings.select import Select
from tests.circuit_scene import Scene, made_scene
from tests.circuit_truth import Plain
from tests.conftest import ROOT
from tests.engine.study_scene import numbers

SITES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("0-att", "topk", {}),
    ("1-res", "standard", {"normalize_activations": "layer_norm"}),
    ("2-mlp", "jumprelu", {}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True}),
)
TWICE: tuple[str, str, dict[str, Any]] = ("2-res", "jumprelu", {})
LETTERS = "bcdfghjklm"
PAIRS = tuple(
    Pair(f"{a} xyz{LETTERS[n % 10]}{'qr' * (n % 3)}", " a", f"{b} xyz{LETTERS[n % 10]}{'qr' * (n % 3)}", " of")
    for n, (a, b) in enumerate(zip(LETTERS * 2, "nprstvwxzN" * 2, strict=True))
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene("gpt2", tmp_path_factory.mktemp("select"), (*SITES, TWICE))


@pytest.fixture(scope="module")
def opened(scene: Scene) -> OpenSet:
    return OpenSet(scene.model, {basis.source: basis.dictionary for basis in scene.bases}, False, "sha")


def ids(scene: Scene, text: str) -> Tensor:
    return torch.tensor(scene.model.tokenizer.encode(text, bos=False))


def plains(scene: Scene, pairs: Sequence[Pair], parts: Sequence[Any]) -> list[Plain]:
    """One pair at a time; dictionaries of one site are never in the graph together."""
    found = []
    for pair in pairs:
        right, wrong = (int(ids(scene, text)) if text else None for text in (pair.answer, pair.patch_answer or ""))

        def metric(logits: Tensor, right: Any = right, wrong: Any = wrong) -> Tensor:
            value: Tensor = logits[right] - (logits[wrong] if wrong is not None else 0)
            return value

        patch = None if pair.patch is None else ids(scene, pair.patch)
        found.append(
            Plain(scene.model.hf, scene.family, parts, ids(scene, pair.clean), patch, metric, hold_sinks=patch is None)
        )
    return found


def truth(scene: Scene, pairs: Sequence[Pair], method: str) -> dict[str, tuple[Tensor, float]]:
    """By source the mean effect of every feature [F] and of the error, summed over tokens."""
    found = {}
    for part in scene.parts:
        features, errors = [], []
        for plain in plains(scene, pairs, [part]):
            if method == "attrib":
                own = plain.attrib()[part.source]
            else:
                own = plain.integrated(part.source, 10) if method == "ig" else plain.exact(part.source)
            features.append(own[0].sum(0))
            errors.append(own[1].sum())
        found[part.source] = (torch.stack(features).mean(0).detach(), float(torch.stack(errors).mean()))
    return found


def mean(opened: OpenSet, pairs: Sequence[Pair], method: Any = "attrib", **more: Any) -> MeanEffects:
    return mean_effects(opened, pairs, method, list(opened.dictionaries.values()), Growing(Job()), **more)


def agree(scene: Scene, found: MeanEffects, pairs: Sequence[Pair], method: str) -> None:
    expected = truth(scene, pairs, method)
    assert list(found.features) == list(expected)
    for source, (features, error) in expected.items():
        assert features.abs().max() > 1e-5, source
        torch.testing.assert_close(found.features[source].double(), features, rtol=1e-5, atol=1e-6)
        assert found.errors[source] == pytest.approx(error, rel=1e-5, abs=1e-6)


# --- mean effects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["attrib", "ig"])
def test_mean_effects_are_those_of_pair_after_pair(scene: Scene, opened: OpenSet, method: str) -> None:
    """Prompts of three lengths; one site has two dictionaries, each taken alone."""
    pairs = PAIRS[:5]
    found = mean(opened, pairs, method)
    agree(scene, found, pairs, method)
    assert (found.examples, found.total, found.finished, found.at_sink) == (5, 5, True, 5)
    truths = plains(scene, pairs, scene.parts[:1])
    clean = sum(plain.clean for plain in truths) / 5
    patch = (
        sum(float(p.run({}, ids(scene, pair.patch or "")).detach()) for p, pair in zip(truths, pairs, strict=True)) / 5
    )
    assert found.clean == pytest.approx(clean, rel=1e-6)
    assert found.patch == pytest.approx(patch, rel=1e-6)
    assert found.effect == pytest.approx(clean - patch, rel=1e-6)


def test_exact_effects_are_measured_one_by_one(scene: Scene, opened: OpenSet) -> None:
    found = mean(opened, PAIRS[:1], "exact", budget=10**6)
    agree(scene, found, PAIRS[:1], "exact")
    assert found.unmeasured == 0


def test_exact_beyond_its_budget_keeps_gradients_and_counts_them(opened: OpenSet) -> None:
    """One node of every site is measured, its strongest by gradient."""
    gradients, measured, all_of_them = (
        mean(opened, PAIRS[:1], "attrib"),
        mean(opened, PAIRS[:1], "exact", budget=1),
        mean(opened, PAIRS[:1], "exact", budget=10**6),
    )
    nodes = differing = 0
    for source, values in measured.features.items():
        mine = torch.cat([values, torch.tensor([measured.errors[source]])])
        plain = torch.cat([gradients.features[source], torch.tensor([gradients.errors[source]])])
        whole = torch.cat([all_of_them.features[source], torch.tensor([all_of_them.errors[source]])])
        differs = ~torch.isclose(mine, plain, rtol=1e-6, atol=1e-9)
        differing += int(differs.sum())
        nodes += int(plain.count_nonzero())
        assert differs.sum() <= 1
        if (
            values.count_nonzero() and not differs[-1]
        ):  # errors are one node a place, so their sum is never all measured
            torch.testing.assert_close(mine[differs], whole[differs], rtol=1e-5, atol=1e-7)
    assert differing > 0
    assert nodes - len(measured.features) <= measured.unmeasured <= nodes


def test_without_patch_prompts_the_baseline_is_zero(scene: Scene, opened: OpenSet) -> None:
    pairs = tuple(Pair(pair.clean, pair.answer) for pair in PAIRS[:3])
    found = mean(opened, pairs, "ig")
    agree(scene, found, pairs, "ig")
    assert (found.kind, found.patch, found.effect, found.at_sink) == ("logit", None, None, 0)


def test_what_is_shown_on_the_way_is_the_mean_so_far(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_APART", 0.0)
    pairs = [Pair(f"{a} is{b}", " a", f"{b} is{a}", " of") for a in LETTERS for b in "np"]
    shown: list[MeanEffects] = []
    whole = mean(opened, pairs, grown=shown.append)
    assert [(one.examples, one.total, one.finished) for one in shown] == [(16, 20, False)]
    first = mean(opened, pairs[:16])
    for source, values in first.features.items():
        torch.testing.assert_close(shown[0].features[source], values)
        assert not torch.allclose(whole.features[source], values)
    assert shown[0].clean == pytest.approx(first.clean)


def test_pairs_that_cannot_be_used_are_left_out_with_a_reason(opened: OpenSet) -> None:
    odd = (Pair("b xyz", " a", "bb xyz", " of"), Pair("b xyz", "Eiffel", "c xyz", " of"))
    found = mean(opened, (PAIRS[0], *odd))
    assert [s.pair for s in found.skipped] == list(odd)
    assert "The patch prompt has 6 tokens, the prompt 5." in found.skipped[0].reason
    assert "'Eiffel' is 6 tokens, not one: 'E' + 'i' + 'f'" in found.skipped[1].reason
    alone = mean(opened, PAIRS[:1])
    assert all(torch.equal(found.features[source], alone.features[source]) for source in alone.features)


def test_mean_effects_can_be_stopped(opened: OpenSet) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        mean_effects(opened, PAIRS, "ig", list(opened.dictionaries.values()), Growing(job))


# --- the study ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two data sets with some features in common."""
    import msgspec

    folder = tmp_path_factory.mktemp("pairs")
    found = []
    for name, pairs in (("men", PAIRS[:4]), ("women", PAIRS[2:7])):
        file = folder / f"{name}.jsonl"
        file.write_bytes(b"\n".join(map(msgspec.json.encode, pairs)))
        found.append(str(file))
    return found


def run(opened: OpenSet, settings: Select) -> StudyResult:
    events: list[Event] = []
    measure_study(opened, settings, Job(7, events.append))
    found = [event.result for event in events if isinstance(event, StudyGrown)]
    assert found[-1].finished
    return found[-1]


@pytest.fixture(scope="module")
def result(opened: OpenSet, files: list[str]) -> StudyResult:
    return run(opened, Select(pairs=tuple(files), method="attrib", count=10))


def refs(result: StudyResult, name: str) -> list[str]:
    return [str(m.feature) for one in result.sets if one.name == name for m in one.members]


def test_the_sets_are_those_of_the_loop(scene: Scene, result: StudyResult) -> None:
    tops = {}
    for name, pairs in (("men", PAIRS[:4]), ("women", PAIRS[2:7])):
        rows = [
            (abs(float(value)), f"{source}:{index}", float(value))
            for source, (features, _) in truth(scene, pairs, "attrib").items()
            for index, value in enumerate(features)
        ]
        tops[name] = sorted(rows, reverse=True)[:10]
    names = {name: {feature for _, feature, _ in rows} for name, rows in tops.items()}
    assert [one.name for one in result.sets] == ["men", "women", "men − women", "women − men", "men ∩ women"]
    for name, expected in names.items():
        assert set(refs(result, name)) == expected
        shown = [row for row in result.table("features").rows if row[0] == name]
        assert [row[2] for row in shown] == [feature for _, feature, _ in tops[name]]
        assert [row[3] for row in shown] == pytest.approx([effect for *_, effect in tops[name]], rel=1e-4)
    assert set(refs(result, "men − women")) == names["men"] - names["women"] != set()
    assert set(refs(result, "women − men")) == names["women"] - names["men"] != set()
    assert set(refs(result, "men ∩ women")) == names["men"] & names["women"] != set()


def test_the_overlap_shows_both_effects(result: StudyResult) -> None:
    table = result.table("overlap")
    where = dict(zip(table.column("feature"), table.column("chosen over"), strict=True))
    assert {f for f, w in where.items() if w == "both"} == set(refs(result, "men ∩ women"))
    assert {f for f, w in where.items() if w == "only women"} == set(refs(result, "women − men"))
    members = {str(m.feature): m.effect for one in result.sets if one.name == "women" for m in one.members}
    shown = dict(zip(table.column("feature"), table.column("effect, women"), strict=True))
    for feature, effect in members.items():
        assert shown[feature] == pytest.approx(effect, rel=1e-5)


def test_counts_and_curves_add_up(result: StudyResult) -> None:
    layers, kinds = result.table("layers"), result.table("kinds")
    for name in ("men", "women"):
        assert sum(numbers(layers, f"chosen, {name}")) == sum(numbers(kinds, f"chosen, {name}")) == 10
        rows = [row for row in result.table("cumulative").rows if row[0] == name]
        assert rows[-1][1] == result.figures[f"{name}: with an effect"]
        assert rows[-1][3] == 1.0
        assert rows[9][3] == pytest.approx(result.figures[f"{name}: share chosen"], rel=1e-4)
    by_layer: dict[str, int] = {}
    for feature in refs(result, "men"):
        by_layer[feature[0]] = by_layer.get(feature[0], 0) + 1
    assert {row[0]: row[1] for row in layers.rows} == {str(n): by_layer.get(str(n), 0) for n in range(3)}


def test_views_draw_columns_that_are_there(result: StudyResult) -> None:
    for view in result.views:
        table = result.table(view.table)
        for field in ("label", "x", "series"):
            if isinstance(name := getattr(view, field, None), str):
                table.column(name)
        for name in (*getattr(view, "values", ()), *getattr(view, "y", ())):
            table.column(name)
    assert {view.title for view in result.views} >= {"Effects side by side", "Cumulative |effect|"}
    assert set(result.figures) == set(result.meanings)


def test_errors_are_never_members(opened: OpenSet, files: list[str]) -> None:
    found = run(opened, Select(pairs=tuple(files[:1]), rule="threshold", threshold=0.0, method="attrib"))
    (one,) = found.sets
    assert one.members
    for member in one.members:
        assert 0 <= member.feature.index < opened.dictionaries[member.feature.source].d_sae
    assert any(row[-1] for row in found.table("dictionaries").rows)


def test_only_the_sources_asked_for(opened: OpenSet, files: list[str]) -> None:
    found = run(opened, Select(pairs=tuple(files[:1]), sources=("0-att-topk",), method="attrib"))
    assert {str(m.feature).partition(":")[0] for m in found.sets[0].members} == {"0-att-topk"}
    assert set(found.provenance.dictionaries) == {"0-att-topk"}


def test_three_data_sets_share_what_all_chose(opened: OpenSet, files: list[str]) -> None:
    pairs = (*files, f"again={files[0]}")
    found = run(opened, Select(pairs=pairs, method="attrib", count=10))
    assert refs(found, "men ∩ women ∩ again") == refs(found, "men ∩ women")
    assert refs(found, "men − again") == []
    assert set(found.table("overlap").column("chosen over")) >= {"all", "men, again"}


def test_a_file_says_less_of_its_means_while_it_grows(
    opened: OpenSet, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_APART", 0.0)
    events: list[Event] = []
    measure_study(opened, Select(pairs=tuple(files), method="attrib"), Job(7, events.append))
    growing = [e.result for e in events if isinstance(e, StudyGrown)]
    assert [one.finished for one in growing] == [False] * (len(growing) - 1) + [True]
    assert any("first " in note and "of 4 pairs" in note for one in growing for note in one.notes)
    assert not any("still to come" in note for note in growing[-1].notes)


# --- what can be typed wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Select(), "No data set of prompts was named."),
        (Select(pairs=("nowhere.jsonl",)), "There is no file 'nowhere.jsonl', nor a built-in data set of that name."),
        (Select(pairs=("names",), sources=("9-res",)), "No open dictionary reads 9-res."),
        (Select(pairs=("names", "names")), "Two data sets are called 'names'."),
        (Select(pairs=("prof_stereo",)), "prof_stereo: None of the 50 pairs can be used."),
    ],
)
def test_bad_requests(opened: OpenSet, settings: Select, said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRequest) as error:
        run(opened, settings)
    assert said in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize("given", [{"rule": "best"}, {"count": 0}, {"threshold": -1.0}, {"seed": -1}, {"examples": 0}])
def test_settings_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as error:
        study_settings("select", {"pairs": ["names"], **given})
    assert next(iter(given)) in str(error.value)


def test_no_dictionary_is_an_error(opened: OpenSet) -> None:
    with pytest.raises(BadRequest, match="No dictionary is open"):
        mean_effects(opened, PAIRS, "ig", [], Growing(Job()))


# --- the default set ----------------------------------------------------------------------------------------------

AGREEMENT = ROOT / "tests" / "data" / "agreement_train.jsonl"


@pytest.mark.default_set
def test_the_default_set_says_what_a_circuit_over_the_same_pairs_says(default_set: Path) -> None:
    """The features of number agreement; a circuit aggregates the same effects another way."""
    opening = Open(id=1, device="cpu", dtype="float32")
    found = study(
        opening, Select(pairs=(str(AGREEMENT),), method="attrib", examples=6, count=20), report=lambda *_: None
    )
    headless = Headless(lambda *_: None)
    headless.ask(opening)
    asked = Trace(id=2, pairs=read_pairs(AGREEMENT, 6), method="attrib", nodes_only=True, max_nodes=200)
    circuit = [e.circuit for e in headless.ask(asked) if isinstance(e, TraceGrown)][-1]
    nodes = {f"{n.ref.source}:{n.ref.index}": n.effect for n in circuit.nodes[1:] if not n.ref.is_error}
    strongest = sorted(nodes, key=lambda ref: -abs(nodes[ref]))[:20]
    (one,) = found.sets
    assert {str(m.feature) for m in one.members} == set(strongest) >= {"25-res-sc:3792", "21-res-sc:2038"}
    for member in one.members:
        assert member.effect == pytest.approx(nodes[str(member.feature)], rel=1e-3)
    assert found.figures["total effect"] == pytest.approx(circuit.nodes[0].effect, rel=1e-4)
    assert found.figures["clean"] == pytest.approx(circuit.metric.clean, rel=1e-4)
    assert all(m.neuronpedia is None for m in one.members), "the default set has no pages"
    assert "files" in str(found.table("features").column("label")[0])
