"""From text to a set one can open: harvest, train, measure, make cards, and write down how it was done."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.dictionary import Dictionary
from engine.formats.saelens import read_dictionary
from engine.hashes import model_sha256, sha256_of
from engine.job import Job
from engine.model import LanguageModel
from engine.sets import write_set
from engine.sites import Site
from engine.training.activations import ActivationStore
from engine.training.corpus import Context, cap_sources, cut_contexts, read_documents
from engine.training.evaluate import Figures, evaluate
from engine.training.feature_cards import make_cards
from engine.training.set_card import CARD, write_set_card
from engine.training.train import TrainSettings, train_dictionary


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run makes."""

    layers: tuple[int, ...]
    name: str
    """The Neuronpedia-style set, e.g. `res-sc`: dictionaries are called `{layer}-{name}`."""
    text: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    card_text: tuple[Path, ...] = ()
    """Text whose excerpts may be shipped; by default the held-out text."""
    card_sources: frozenset[str] | None = None
    caps: dict[str, int] = field(default_factory=dict)
    """Source → at most so many tokens of it; `*` for every other source."""
    tokens: int | None = None
    context: int = 256
    held_out_context: int = 128
    measured_tokens: int = 400_000
    """At most so many held-out tokens, taken evenly from all of them, for the variance; losses cost a pass each."""
    loss_tokens: int = 20_000
    card_tokens: int = 400_000
    """At most so many tokens of the card text, taken evenly."""
    rows: int = 16
    settings: TrainSettings = field(default_factory=TrainSettings)

    @property
    def sites(self) -> list[Site]:
        return [Site("resid_post", layer) for layer in self.layers]


def train_set(
    model: LanguageModel, recipe: Recipe, out: Path, work: Path, model_reference: str, job: Job
) -> dict[str, Figures]:
    """Train one dictionary per layer and write them, their cards and `set.json` into `out`.

    Each stage leaves its result on disk: run again after an interruption, what is whole is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    contexts = cut_contexts(
        read_documents(recipe.text), model.tokenizer, recipe.context, seed=recipe.settings.seed, job=job
    )
    contexts = cap_sources(contexts, recipe.caps, recipe.tokens)
    composition = token_counts(contexts)
    store = ActivationStore(work)
    identity: dict[str, object] = {
        "model": model_sha256(model.folder),
        "text": [sha256_of(path) for path in recipe.text],
        "composition": composition,
        "context": recipe.context,
        "seed": recipe.settings.seed,
    }
    store.write(model, recipe.sites, contexts, recipe.rows, identity, job)
    for site in recipe.sites:
        folder = out / f"{site.layer}-{recipe.name}"
        if (folder / "cfg.json").is_file():
            continue
        metadata: dict[str, Any] = {
            "model_name": model.name,
            "hook_name": site.hook,
            "prepend_bos": False,
            "context_size": recipe.context,
            "dataset_path": ", ".join(sorted(composition)),
            "model_sha256": identity["model"],
            "vocabulary_sha256": model.tokenizer.vocabulary_sha256,
        }
        train_dictionary(store.open(site, model.d_model), site, metadata, recipe.settings, folder, job)
    dictionaries = [read_dictionary(out / f"{layer}-{recipe.name}") for layer in recipe.layers]
    write_set(
        out,
        model_reference,
        [d.source for d in dictionaries],
        f"{model.name}, {len(dictionaries)} residual-stream dictionaries",
    )
    training = {"text": composition, "tokens": sum(composition.values()), **asdict(recipe.settings)}
    figures: dict[str, Figures] = {}
    if recipe.held_out:
        figures = measure(model, dictionaries, recipe, training, job)
        write_set_card(out, [d.source for d in dictionaries])
    cards_from_text(model, dictionaries, recipe, out, job)
    return figures


def measure(
    model: LanguageModel, dictionaries: list[Dictionary], recipe: Recipe, training: dict[str, Any], job: Job
) -> dict[str, Figures]:
    """Figures on the held-out text, written as `card.json` beside each dictionary's weights."""
    held_out, short = (
        cut_contexts(read_documents(recipe.held_out), model.tokenizer, recipe.held_out_context, limit=limit, job=job)
        for limit in (recipe.measured_tokens, recipe.loss_tokens)
    )
    for dictionary in dictionaries:
        dictionary.to(model.device, model.dtype)
    figures = evaluate(model, dictionaries, held_out, short, job, recipe.rows)
    for dictionary in dictionaries:
        measured = figures[dictionary.source]
        card = {
            "source": dictionary.source,
            "model": model.name,
            "hook": dictionary.site.hook,
            "formula": dictionary.formula,
            "context": recipe.context,
            "training": training,
            "held_out": {**asdict(measured), "loss_recovered": measured.loss_recovered},
        }
        (dictionary.folder / CARD).write_text(json.dumps(_rounded(card), indent=1) + "\n")
    return figures


def cards_from_text(
    model: LanguageModel, dictionaries: Sequence[Dictionary], recipe: Recipe, corpus_folder: Path, job: Job
) -> None:
    """Feature cards for every dictionary from the recipe's card text."""
    paths = recipe.card_text or recipe.held_out or recipe.text
    contexts = cut_contexts(
        read_documents(paths), model.tokenizer, recipe.held_out_context,
        limit=recipe.card_tokens, sources=recipe.card_sources, job=job,
    )  # fmt: skip
    for dictionary in dictionaries:
        dictionary.to(model.device, model.dtype)
    make_cards(model, list(dictionaries), contexts, corpus_folder, job, recipe.rows)


def token_counts(contexts: Sequence[Context]) -> dict[str, int]:
    """Tokens per source."""
    counts: dict[str, int] = {}
    for context in contexts:
        counts[context.source] = counts.get(context.source, 0) + len(context.ids)
    return dict(sorted(counts.items()))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value
