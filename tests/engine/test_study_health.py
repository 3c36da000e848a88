"""Dictionary health against plain torch, a context at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.identity import neurons
from engine.errors import BadRequest
from engine.events import StudyGrown
from engine.headless_studies import study, study_settings
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Open
from engine.sites import Site
from engine.studies.health import study as health
from engine.studies.health.state import Spread
from engine.studies.health.study import measure
from engine.studies.health.weights import excess_kurtosis, rare_cosines
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.health import Health
from engine.training.corpus import Context
from tests.engine.health_scene import RARE, made, measured, opening, plain_contexts, settings_for, write_text
from tests.engine.study_scene import figure, numbers


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LanguageModel:
    return open_model(llama_folder, "cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "words.jsonl")


def row_of(result: StudyResult, name: str, key: str) -> dict[str, Any]:
    table = result.table(name)
    names = [column.name for column in table.columns]
    return next(dict(zip(names, row, strict=True)) for row in table.rows if row[0] == key)


def seen(opened: OpenSet, dictionary: Dictionary, settings: Health) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, what was to be rebuilt and what was, on all tokens that count, a context at a time."""
    sites = {dictionary.site, dictionary.write_site}
    read = [opened.model.capture(torch.tensor([ids]), sites) for ids in plain_contexts(opened, settings)]
    found = []
    for start in range(0, len(read), health.ROWS):  # the median that sinks are told by is that of a batch
        part = read[start : start + health.ROWS]
        limit = 4 * torch.cat([c[dictionary.site][0, 1:].norm(dim=1) for c in part]).median()
        for caught in part:
            x, target = caught[dictionary.site][0], caught[dictionary.write_site][0]
            acts = dictionary.encode(x, whole=True)
            keep = (x.norm(dim=1) <= limit) & (torch.arange(len(x)) > 0)
            found.append((acts[keep], target[keep], dictionary.decode(acts, x)[keep]))
    activations, target, rebuilt = (torch.cat(part) for part in zip(*found, strict=True))
    return activations, target, rebuilt


KINDS: dict[str, dict[str, Any]] = {
    "topk": {},
    "standard": {},
    "jumprelu": {},
    "gated": {},
    "abstopk": {},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 6},
    "temporal": {},
    "transcoder": {
        "hook": "blocks.1.ln2.hook_normalized",
        "metadata": {"prepend_bos": False, "hook_name_out": "blocks.1.hook_mlp_out"},
    },
    "neurons": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_counted_as_by_hand(kind: str, tmp_path: Path, model: LanguageModel, text: Path) -> None:
    if kind == "neurons":
        dictionary = neurons(Site("mlp_post", 1), 64, source="1-neurons", folder=tmp_path)
    else:
        dictionary = made(tmp_path, kind, **KINDS[kind])
    opened, settings = opening(model, dictionary), settings_for(text)
    result = measured(opened, settings)
    activations, target, rebuilt = seen(opened, dictionary, settings)
    fires = activations != 0
    counted = len(activations)
    own = row_of(result, "dictionaries", dictionary.source)
    assert own["tokens"] == counted > 500
    assert own["L0"] == pytest.approx(float(fires.sum() / counted), rel=1e-5)
    error = (target - rebuilt).square().sum() / (target - target.mean(0)).square().sum()
    assert own["explained variance"] == pytest.approx(float(1 - error), rel=1e-3, abs=1e-4)
    assert own["dead"] == int((~fires.any(0)).sum())
    rare = fires.double().mean(0) < RARE
    assert own["rare"] == int(rare.sum())
    bins = numbers(result.table("frequencies"), dictionary.source)
    logs = (fires.double().mean(0) + 10**-6.5).log10()
    assert sum(bins) == dictionary.d_sae
    assert bins[-1] == int((logs >= -0.25).sum())
    for index in (0, 7, 30):
        feature = row_of(result, "features", f"{dictionary.source}:{index}")
        values = activations[:, index].abs()
        assert feature["frequency"] == pytest.approx(float(fires[:, index].float().mean()), rel=1e-5)
        assert feature["maximum"] == pytest.approx(float(values.max()), rel=1e-4)
        if fires[:, index].any():
            assert feature["mean"] == pytest.approx(float(values[values != 0].mean()), rel=1e-4)
        else:
            assert feature["mean"] is None
        if kind in {"neurons", "transcoder", "matching_pursuit"}:
            assert feature["encoder–decoder"] is None
        else:
            e, d = dictionary.encoder[index], dictionary.decoder[index]
            assert feature["encoder–decoder"] == pytest.approx(float(e @ d / e.norm() / d.norm()), abs=1e-5)
        if kind not in {"neurons", "matching_pursuit"} and rare.any():
            mean = torch.stack([row for row, is_rare in zip(dictionary.encoder, rare, strict=True) if is_rare]).mean(0)
            e = dictionary.encoder[index]
            assert feature["rare cosine"] == pytest.approx(float(e @ mean / e.norm() / mean.norm()), abs=1e-5)


def test_losses_follow_their_definition(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    dictionary = made(tmp_path, "topk")
    opened, settings = opening(model, dictionary), settings_for(text, tokens=600, loss_tokens=100_000)
    result = measured(opened, settings)
    contexts = plain_contexts(opened, settings)
    _, target, _ = seen(opened, dictionary, settings)

    def loss(change: Any) -> float:
        def hook(_module: object, _args: object, out: Tensor) -> Tensor:
            return out if change is None else torch.cat([out[:, :1], change(out[0, 1:])[None]], dim=1)

        handle = model.hf.model.layers[1].register_forward_hook(hook)
        losses = []
        with torch.no_grad():
            for ids in contexts:
                logits = model.hf(torch.tensor([ids])).logits[0, :-1]
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
        handle.remove()
        return float(torch.cat(losses).mean())

    plain, zero = loss(None), loss(torch.zeros_like)
    rebuilt = loss(lambda x: dictionary.decode(dictionary.encode(x), x))
    mean = loss(lambda x: target.mean(0).expand_as(x))
    expected = {"plain loss": plain, "reconstructed": rebuilt, "zero-ablated": zero, "mean-ablated": mean}
    for name, value in expected.items():
        assert result.figures[name] == pytest.approx(value, rel=1e-4), name
    assert result.figures["score"] == pytest.approx((zero - rebuilt) / (zero - plain), rel=1e-2)
    assert result.figures["tokens for losses"] == sum(len(ids) - 1 for ids in contexts)
    assert set(result.meanings) == set(result.figures)


def test_views_name_columns_that_are_there(model: LanguageModel, text: Path, tmp_path: Path) -> None:
    pair = [replace(made(tmp_path / str(n), "topk", seed=n), source=f"{n}-res") for n in (1, 2)]
    result = measured(opening(model, *pair), settings_for(text, top=3))
    assert len(result.table("dictionaries").rows) == 2
    for view in result.views:
        names = {column.name for column in result.table(view.table).columns}
        used = [getattr(view, key) for key in ("low", "high", "x", "y", "label", "group") if hasattr(view, key)]
        assert names >= {*used, *getattr(view, "counts", ())}
    assert [chosen.name for chosen in result.sets] == ["rare of 1-res", "rare of 2-res"]
    for chosen in result.sets:
        shares = [row_of(result, "features", str(m.feature))["frequency"] for m in chosen.members]
        assert shares == sorted(shares)
        assert 0 < len(shares) <= 3
        assert all(0 < share < RARE for share in shares)


def test_kurtosis_and_the_rare_direction() -> None:
    one_hot = torch.zeros(1, 100)
    one_hot[0, 3] = 2.0
    # of 100 entries one is not zero: p = 1/100, kurtosis (1 − 3p(1 − p)) / (p(1 − p)) − 3
    p = 0.01
    assert float(excess_kurtosis(one_hot)) == pytest.approx((1 - 3 * p * (1 - p)) / (p * (1 - p)) - 3, rel=1e-5)
    assert float(excess_kurtosis(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))) == pytest.approx(-2)
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    site = Site("resid_post", 0)
    made_up = Dictionary("x", site, site, "standard", "standard", rows, rows, rows[:, 0], rows[0], Path("."), "")
    cosines = rare_cosines(made_up, torch.tensor([True, True, False]))  # their mean is (2, 2)
    assert cosines is not None
    assert cosines.tolist() == pytest.approx([0.5**0.5, 7 / 5 * 0.5**0.5, 0.5**0.5], rel=1e-5)
    assert rare_cosines(made_up, torch.zeros(3, dtype=torch.bool)) is None


def test_contexts_for_losses_lie_evenly_over_the_whole_text() -> None:
    spread = Spread(limit=100)
    ids = torch.arange(10).int().numpy()
    for number in range(95):
        spread.offer(number, Context("", number, ids))
        assert sum(len(c.ids) for c in spread.contexts) <= 100
    assert [context.document for context in spread.contexts] == list(range(0, 95, 16))


# --- what may be wrong ------------------------------------------------------------------------------------------------


def test_text_that_cannot_be_read(tmp_path: Path, model: LanguageModel) -> None:
    opened = opening(model, made(tmp_path, "topk"))
    short = tmp_path / "short.txt"
    short.write_text("the sea")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("für die Öffnung".encode("latin-1"))
    for name, match in ((tmp_path / "missing.txt", "no file"), (short, "no stretch of 16"), (latin, "UTF-8")):
        with pytest.raises(BadRequest, match=match):
            measured(opened, settings_for(name))
    with pytest.raises(BadRequest, match="No open dictionary reads"):
        measured(opened, Health(sources=("9-res",)))
    for given in ({"rare": 0.0}, {"tokens": 3}, {"loss_tokens": -1}, {"top": 0}):
        with pytest.raises(BadRequest):
            study_settings("health", given)


def test_unfinished_results_are_there_while_it_reads(tmp_path: Path, model: LanguageModel, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setattr("engine.studies.measure._APART", -1.0)
    grown: list[StudyResult] = []
    job = Job(1, lambda event: grown.append(event.result) if isinstance(event, StudyGrown) else None)
    measure(opening(model, made(tmp_path, "topk")), settings_for(text), Growing(job))
    counts = [figure(result, "tokens read") for result in grown]
    assert counts == sorted(set(counts))
    assert len(counts) >= 2
    assert not any(result.finished for result in grown)


@pytest.mark.default_set
def test_on_the_default_set(default_set: Path) -> None:
    settings = study_settings("health", {"sources": ("4-res-sc",), "tokens": 700, "loss_tokens": 120})
    result = study(Open(id=1), settings, report=lambda *_: None)
    assert result.finished
    assert result.figures["L0"] == 32
    assert 0.7 < figure(result, "explained variance") < 0.95
    assert 0.9 < figure(result, "score") < 1
    assert result.figures["features"] == 4096
