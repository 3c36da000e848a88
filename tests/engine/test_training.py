"""Training end to end on a tiny model, and the figures against the obvious computation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.cards import has_cards, read_card
from engine.errors import BadRequest, Cancelled
from engine.formats.saelens import read_dictionary
from engine.headless import Headless
from engine.job import Job
from engine.loading import open_model
from engine.protocol import Event, FeaturesFound, Open, Progress, Run
from engine.sites import Site
from engine.training.activations import ActivationStore, shuffled_batches
from engine.training.corpus import cut_contexts, read_documents
from engine.training.evaluate import evaluate
from engine.training.pipeline import Recipe, train_set
from engine.training.sinks import part_sinks, refit_sink_row
from engine.training.train import TrainSettings
from tests import tiny

_TEXT = "in the end of the other thing a man of the sea and the moon in a house"
WORDS = _TEXT.split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    lines = []
    for number in range(60):
        picks = torch.randint(0, len(WORDS), (80,), generator=generator).tolist()
        lines.append(json.dumps({"source": f"s{number % 3}", "text": " ".join(WORDS[p] for p in picks)}))
    file = tmp_path / "text.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_from_text_to_a_set_that_opens(tmp_path: Path, llama_folder: Path, text: Path) -> None:
    model = open_model(llama_folder, "cpu")
    settings = TrainSettings(latents=48, k=6, samples=30_000, batch=256, lr=3e-3)
    recipe = Recipe(
        layers=(1, 2), name="res-own", text=(text,), held_out=(text,), caps={"s2": 2000}, context=64,
        loss_tokens=2000, settings=settings,
    )  # fmt: skip
    out = tmp_path / "set"
    figures = train_set(model, recipe, out, tmp_path / "work", str(llama_folder), Job())
    assert set(figures) == {"1-res-own", "2-res-own"}
    for name, measured in figures.items():
        assert measured.explained_variance > 0.5, name
        assert measured.l0 <= 6
        assert measured.loss_spliced < measured.loss_mean_ablated
        folder = out / name
        card = json.loads((folder / "card.json").read_text())
        assert card["training"]["samples"] == 30_000
        assert card["training"]["text"]["s2"] < 2100
        assert card["held_out"]["explained_variance"] == pytest.approx(measured.explained_variance, abs=1e-4)
        assert has_cards(folder)
        assert read_card(folder, 0).corpus_tokens > 1000
        dictionary = read_dictionary(folder)
        torch.testing.assert_close(dictionary.decoder.norm(dim=1), torch.ones(48), atol=2e-3, rtol=0)
        assert dictionary.formula.startswith("top 6 of")
    assert not list(out.glob("*.partial"))
    page = (out / "README.md").read_text()
    assert all(f"| {source} | `blocks.{source[0]}.hook_resid_post` | " in page for source in figures)
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=str(llama_folder), dictionaries=(str(out),)))
    result = next(
        e.result for e in headless.ask(Run(id=2, prompt="the sea of the moon")) if isinstance(e, FeaturesFound)
    )
    assert {h.source for h in result.features} == {"1-res-own", "2-res-own"}


def test_an_interrupted_harvest_goes_on_where_it_stopped(tmp_path: Path, llama_folder: Path, text: Path) -> None:
    model = open_model(llama_folder, "cpu")
    contexts = cut_contexts(read_documents([text]), model.tokenizer, 64, seed=0)
    sites = [Site("resid_post", 1), Site("resid_post", 2)]
    whole = ActivationStore(tmp_path / "whole")
    whole.write(model, sites, contexts, 4, {"run": 1}, Job())

    batches = 0

    def stop_midway(event: Event) -> None:
        nonlocal batches
        if isinstance(event, Progress):
            batches += 1
            if batches == 5:
                job.cancel()

    job = Job(1, stop_midway)
    broken = ActivationStore(tmp_path / "broken")
    with pytest.raises(Cancelled):
        broken.write(model, sites, contexts, 4, {"run": 1}, job)
    with (tmp_path / "broken" / f"{sites[0].hook}.bf16").open("ab") as file:
        file.write(b"half a batch that was being written")
    broken.write(model, sites, contexts, 4, {"run": 1}, Job())
    for site in sites:
        assert torch.equal(broken.open(site, tiny.D_MODEL), whole.open(site, tiny.D_MODEL))
    with pytest.raises(BadRequest, match="another run"):
        broken.write(model, sites, contexts, 4, {"run": 2}, Job())


def test_sinks_are_fitted_at_their_full_length_and_nothing_else_moves() -> None:
    generator = torch.Generator().manual_seed(5)
    d, latents, k = 16, 40, 6
    decoder = torch.nn.functional.normalize(torch.randn(latents, d, generator=generator), dim=1)
    weights = {
        "W_enc": decoder.T.clone(),
        "W_dec": decoder,
        "b_enc": torch.zeros(latents),
        "b_dec": torch.randn(d, generator=generator),
    }
    x = torch.randn(400, d, generator=generator)
    x[::10] = 100 * decoder[7] + 30 * torch.randn(d, generator=generator) + x[::10]
    sinks, ordinary = part_sinks(x)
    assert len(sinks) == 40

    def reconstructed(w: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        top = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).topk(k, dim=1)
        dense = torch.zeros(len(rows), latents).scatter_(1, top.indices, top.values.relu())
        return dense @ w["W_dec"] + w["b_dec"]

    fitted = refit_sink_row(weights, sinks, ordinary, k)
    error = {name: (reconstructed(w, sinks) - sinks).norm() for name, w in (("before", weights), ("after", fitted))}
    assert error["after"] < 0.5 * error["before"]
    torch.testing.assert_close(fitted["W_dec"].norm(dim=1), torch.ones(latents))
    changed = (fitted["W_dec"] != weights["W_dec"]).any(1).nonzero().flatten()
    assert len(changed) == 1
    torch.testing.assert_close(
        torch.nn.functional.normalize(fitted["W_enc"].T, dim=1), torch.nn.functional.normalize(decoder, dim=1)
    )
    assert refit_sink_row(weights, sinks[:3], ordinary, k) is weights


def test_every_activation_is_seen_before_any_is_seen_twice() -> None:
    data = torch.arange(512 * 6, dtype=torch.float32)[:, None].bfloat16()
    batches = shuffled_batches(torch.arange(512 * 6)[:, None].float(), 512, seed=0)
    seen = torch.cat([next(batches) for _ in range(6)]).flatten()
    assert sorted(seen.tolist()) == list(range(512 * 6))
    again = torch.cat([b for b, _ in zip(shuffled_batches(data, 512, seed=0), range(6), strict=False)])
    assert again.dtype == torch.float32


def test_figures_follow_their_definitions(tmp_path: Path, llama_folder: Path, text: Path) -> None:
    model = open_model(llama_folder, "cpu")
    dictionary = read_dictionary(tiny.save_dictionary(tmp_path / "1-res-tiny", "topk"))
    contexts = cut_contexts(read_documents([text]), model.tokenizer, 40)[:20]
    measured = evaluate(model, [dictionary], contexts, contexts, Job(), rows=4)["1-res-tiny"]

    kept, losses = [], {"clean": [], "spliced": [], "ablated": []}
    for context in contexts:
        ids = torch.tensor([context.ids.tolist()])
        kept.append(model.capture(ids, [dictionary.site])[dictionary.site][0, 1:])
    x = torch.cat(kept)
    mean = x.mean(0)
    activations = dictionary.encode(x)
    error = (x - dictionary.decode(activations, x)).square().sum()
    assert measured.explained_variance == pytest.approx(float(1 - error / (x - mean).square().sum()), rel=1e-4)
    assert measured.dead_fraction == pytest.approx(float((activations > 0).any(0).logical_not().float().mean()))

    def replaced(kind: str) -> object:
        def hook(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
            new = out.clone()
            flat = out[0, 1:]
            new[0, 1:] = mean if kind == "ablated" else dictionary.decode(dictionary.encode(flat), flat)
            return new

        return hook

    for kind, collected in losses.items():
        handle = None if kind == "clean" else model.hf.model.layers[1].register_forward_hook(replaced(kind))
        for context in contexts:
            ids = torch.tensor([context.ids.tolist()])
            with torch.no_grad():
                logits = model.hf(ids).logits[0, :-1]
            collected += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        if handle is not None:
            handle.remove()
    for kind, value in (
        ("clean", measured.loss_clean),
        ("spliced", measured.loss_spliced),
        ("ablated", measured.loss_mean_ablated),
    ):
        assert value == pytest.approx(sum(losses[kind]) / len(losses[kind]), rel=1e-4), kind
