"""Logit effects against what the network's own last norm and unembedding make of a stream that was pushed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.events import StudyGrown
from engine.formats.saelens import read_dictionary
from engine.headless_studies import study, study_settings
from engine.hooked_model import HookedModel
from engine.job import Job
from engine.knowledge import feature_card
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Open, parse_feature
from engine.sites import Site
from engine.studies.logits.study import is_direct, logit_effects, measure
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.logits import Logits
from engine.tokenizer import TextTokenizer
from tests import tiny
from tests.engine.hooked import hooked

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "bloom")
NORMS = {"llama": "model.norm", "gemma2": "model.norm", "gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}  # fmt: skip  # noqa: E501
INDEX = 5


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    built = tiny.model(request.param)
    if request.param in NORMS:  # gains that are not all alike
        norm = built.get_submodule(NORMS[request.param])
        with torch.no_grad():
            norm.weight.copy_(torch.rand(tiny.D_MODEL, generator=torch.Generator().manual_seed(2)) + 0.2)
    return open_model(tiny.save_model(built, tmp_path_factory.mktemp("models") / request.param), "cpu")


def made(folder: Path, hook: str, d_in: int = tiny.D_MODEL) -> Dictionary:
    return read_dictionary(tiny.save_dictionary(folder / "tiny", "standard", hook=hook, d_in=d_in))


def opening(model: LanguageModel, dictionary: Dictionary) -> OpenSet:
    return OpenSet(model, {dictionary.source: dictionary}, False, "")


def measured(opened: OpenSet, *features: str, **more: Any) -> StudyResult:
    return measure(opened, Logits(features=features, **more), Growing(Job()))


def rows(result: StudyResult, name: str) -> list[dict[str, Any]]:
    table = result.table(name)
    return [dict(zip([column.name for column in table.columns], row, strict=True)) for row in table.rows]


def halves(values: Tensor) -> Tensor:
    """Less the median: half of the tokens lie above, half below."""
    ordered = values.double().sort().values
    middle = len(ordered) // 2
    median = (ordered[middle - 1] + ordered[middle]) / 2 if len(ordered) % 2 == 0 else ordered[middle]
    return values - median


def pushed(model: LanguageModel, direction: Tensor, stream: Tensor) -> Tensor:
    """How fast the logits [V] change as `direction` is added to a stream, through the model's own modules."""
    norm, unembed = model.hf.get_submodule(NORMS[model.hf.config.model_type]), model.hf.get_output_embeddings()
    change: Tensor = torch.autograd.functional.jvp(lambda x: unembed(norm(x)), stream, direction)[1]  # type: ignore[no-untyped-call]
    return change.detach()


def test_the_last_layer_is_the_rest_of_the_network(model: LanguageModel, tmp_path: Path) -> None:
    dictionary = made(tmp_path, f"blocks.{tiny.LAYERS - 1}.hook_resid_post")
    through, plain = logit_effects(model, dictionary, INDEX)
    if model.hf.config.model_type not in NORMS:  # no table names its final norm
        assert torch.equal(through, plain)
        with pytest.raises(BadRequest, match="final norm"):
            measured(opening(model, dictionary), f"tiny:{INDEX}", tokens=100)
        return
    direction = dictionary.decoder[INDEX]
    # A direction at right angles to the stream does not change the norm's size.
    stream = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(1))
    centred = "rms" not in type(model.hf.get_submodule(NORMS[model.hf.config.model_type])).__name__.lower()
    if centred:
        direction_seen = direction - direction.mean()
        stream = stream - stream.mean()
    else:
        direction_seen = direction
    stream = stream - (stream @ direction_seen) / (direction_seen @ direction_seen) * direction_seen
    change = pushed(model, direction, stream)
    size = stream.square().mean().sqrt()
    torch.testing.assert_close(through / size, halves(change).float(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plain, halves(model.hf.get_output_embeddings().weight @ direction).float(), atol=1e-4, rtol=1e-4)  # fmt: skip  # noqa: E501
    assert not torch.allclose(through, plain, atol=0.1)
    assert float(through.median().abs()) < float(through.std()) * 0.05
    assert rows(measured(opening(model, dictionary), f"tiny:{INDEX}"), "features")[0]["way"] == "direct"


def test_the_table_has_the_strongest_of_both_signs(model: LanguageModel, tmp_path: Path) -> None:
    dictionary = made(tmp_path, "blocks.1.hook_resid_post")
    opened = opening(model, dictionary)
    result = measured(opened, f"tiny:{INDEX}", "tiny:9", top=4)
    through, plain = logit_effects(model, dictionary, INDEX)
    own = [row for row in rows(result, "tokens") if row["feature"] == f"tiny:{INDEX}"]
    order = through.argsort(descending=True).tolist()
    assert [row["id"] for row in own] == order[:4] + order[::-1][:4]
    assert [row["direction"] for row in own] == ["promoted"] * 4 + ["suppressed"] * 4
    for row in own:
        assert row["effect"] == pytest.approx(float(through[row["id"]]), rel=1e-4)
        assert row["without gain"] == pytest.approx(float(plain[row["id"]]), rel=1e-4, abs=1e-5)
        assert row["token"] == model.tokenizer.token(row["id"]).text
    features = rows(result, "features")
    assert [row["way"] for row in features] == ["lens", "lens"]
    values = through.double()
    z = (values - values.mean()) / values.std(correction=0)
    assert features[0]["skewness"] == pytest.approx(float((z**3).mean()), rel=1e-3, abs=1e-5)
    assert features[0]["kurtosis"] == pytest.approx(float((z**4).mean() - 3), rel=1e-3, abs=1e-4)
    bins = rows(result, "distribution")
    for name in (f"tiny:{INDEX}", "tiny:9"):
        assert sum(row[name] for row in bins) == len(through)
    for row in bins[1:-1]:
        inside = ((through >= row["low"]) & (through < row["high"])).sum()
        assert abs(row[f"tiny:{INDEX}"] - int(inside)) <= 1  # edges are shown in six digits
    if model.hf.config.model_type not in NORMS:
        assert torch.equal(through, plain)
        assert any("is not known" in note for note in result.notes)


def test_promoted_tokens_without_gain_are_those_of_the_card(model: LanguageModel, tmp_path: Path) -> None:
    opened = opening(model, made(tmp_path, "blocks.1.hook_resid_post"))
    card = feature_card(opened, parse_feature(f"tiny:{INDEX}"))
    result = measured(opened, f"tiny:{INDEX}", top=tiny.VOCABULARY)
    ranked = sorted(rows(result, "tokens")[: tiny.VOCABULARY], key=lambda row: -row["without gain"])
    assert [row["token"] for row in ranked[:3]] == [promoted.text for promoted in card.promotes[:3]]


def test_behind_the_map_out_of_the_mlp(tmp_path: Path) -> None:
    built = tiny.model("llama")
    model = open_model(tiny.save_model(built, tmp_path / "llama"), "cpu")
    dictionary = made(tmp_path, f"blocks.{tiny.LAYERS - 1}.mlp.hook_post", d_in=64)
    last = built.model.layers[-1].mlp.down_proj.weight  # [d_model, d_mlp]
    added = last.detach() @ dictionary.decoder[INDEX]
    effect = built.lm_head.weight.detach() @ (added * built.model.norm.weight.detach())
    through, _ = logit_effects(model, dictionary, INDEX)
    torch.testing.assert_close(through, halves(effect).float(), atol=1e-3, rtol=1e-4)
    assert is_direct(model, dictionary.write_site)
    assert not is_direct(model, Site("mlp_post", 0))
    assert not is_direct(model, Site("attn_out", tiny.LAYERS - 1))  # the MLP comes after it


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_same_as_the_weights_that_transformer_lens_processes(family: str, tmp_path: Path, llama_folder: Path) -> None:  # fmt: skip  # noqa: E501
    """W_dec · W_out · W_U, as the 1L notebook has it: its model comes with the gain folded and weights centred."""
    plain = hooked(family, tiny.model(family))
    with torch.no_grad():
        plain.ln_final.w.copy_(torch.rand(tiny.D_MODEL, generator=torch.Generator().manual_seed(2)) + 0.2)
    model = HookedModel(plain, TextTokenizer(llama_folder), "tiny", llama_folder)
    last = tiny.LAYERS - 1
    dictionary = made(tmp_path, f"blocks.{last}.mlp.hook_post", d_in=plain.cfg.d_mlp)
    dictionary.b_enc[INDEX] = 1.0  # it fires on some tokens at least
    through, _ = logit_effects(model, dictionary, INDEX)
    processed = copy.deepcopy(plain)
    processed.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=True)
    effect = dictionary.decoder[INDEX] @ processed.W_out[last] @ processed.W_U
    torch.testing.assert_close(through, halves(effect.detach()).float(), atol=1e-3, rtol=1e-4)
    text = tmp_path / "words.txt"
    text.write_text("the man of the house in the end of the sea and the moon")
    result = measured(opening(model, dictionary), f"tiny:{INDEX}", tokens=1000, text=(str(text),), context=64)
    ids = torch.tensor([model.tokenizer.encode(text.read_text(), bos=False)])
    _, cache = plain.run_with_cache(ids, prepend_bos=False)
    fires = dictionary.encode(cache[f"blocks.{last}.mlp.hook_post"][0])[1:, INDEX] > 0
    assert fires.any()
    (row,) = rows(result, "features")
    assert row["norm size"] == pytest.approx(float(cache["ln_final.hook_scale"][0, 1:, 0][fires].median()), rel=1e-4)
    assert row["way"] == "direct"


def test_on_text_effects_are_divided_by_the_size_of_the_stream(tmp_path: Path) -> None:
    built = tiny.model("llama")
    model = open_model(tiny.save_model(built, tmp_path / "llama"), "cpu")
    dictionary = made(tmp_path, f"blocks.{tiny.LAYERS - 1}.hook_resid_post")
    file = tmp_path / "words.txt"
    file.write_text("the man of the house in the end of the sea and the moon " * 4)
    result = measured(opening(model, dictionary), f"tiny:{INDEX}", tokens=1000, text=(str(file),), context=64)
    ids = model.tokenizer.encode(file.read_text().strip() + " ", bos=False)
    sizes = []
    for start in range(0, len(ids), 64):
        piece = ids[start : start + 64]
        if len(piece) < 16:
            continue
        x = model.capture(torch.tensor([piece]), [dictionary.site])[dictionary.site][0, 1:]
        fires = dictionary.encode(x)[:, INDEX] > 0
        sizes.append((x.square().mean(1) + built.config.rms_norm_eps).sqrt()[fires])
    (row,) = rows(result, "features")
    assert row["norm size"] == pytest.approx(float(torch.cat(sizes).median()), rel=1e-4)
    through, _ = logit_effects(model, dictionary, INDEX)
    best = rows(result, "tokens")[0]
    assert best["effect"] == pytest.approx(float(through.max()) / row["norm size"], rel=1e-4)


def test_sizes_are_shown_while_text_is_read(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    """What is there so far is what shorter text gives."""
    monkeypatch.setattr("engine.studies.measure._APART", -1.0)
    opened = opening(open_model(llama_folder, "cpu"), made(tmp_path, "blocks.1.hook_resid_post"))
    file = tmp_path / "words.txt"
    file.write_text("the man of the house in the end of the sea and the moon in a bag " * 60)
    grown: list[StudyResult] = []
    job = Job(1, lambda event: grown.append(event.result) if isinstance(event, StudyGrown) else None)
    asked = Logits(features=("tiny:3", f"tiny:{INDEX}"), tokens=100_000, text=(str(file),), context=32)
    whole = measure(opened, asked, Growing(job))
    assert len(grown) >= 2
    assert not any(result.finished for result in grown)
    first = measured(opened, *asked.features, tokens=16 * 32, text=(str(file),), context=32)
    assert rows(grown[0], "features") == rows(first, "features")
    assert grown[-1].tables == whole.tables
    assert any("left out" in note for note in whole.notes)
    grown.clear()
    plain = measure(opened, Logits(features=asked.features), Growing(job))
    assert [len(rows(result, "features")) for result in grown] == [1, 2]
    assert grown[-1].tables == plain.tables


def test_what_may_be_wrong(tmp_path: Path, llama_folder: Path) -> None:
    model = open_model(llama_folder, "cpu")
    opened = opening(model, made(tmp_path, "blocks.1.hook_resid_post"))
    for features, match in (((), "No feature"), (("nonsense",), "nonsense"), (("9-res:1",), "9-res"), (("tiny:64",), "no feature 64")):  # fmt: skip  # noqa: E501
        with pytest.raises(BadRequest, match=match):
            measured(opened, *features)
    inside = opening(model, made(tmp_path / "inside", "blocks.1.ln2.hook_normalized"))
    with pytest.raises(BadRequest, match="does not write into the residual stream"):
        measured(inside, "tiny:1")
    with pytest.raises(BadRequest, match="no file"):
        measured(opened, "tiny:1", tokens=100, text=(str(tmp_path / "missing.txt"),))
    with pytest.raises(BadRequest, match="1000"):
        study_settings("logits", {"features": ("tiny:1",), "top": 1001})


@pytest.mark.default_set
def test_on_the_default_set(default_set: Path) -> None:
    settings = study_settings("logits", {"features": ("13-res-sc:3467",), "top": 5})
    result = study(Open(id=1), settings, report=lambda *_: None)
    assert len(result.table("tokens").rows) == 10
    assert result.finished
