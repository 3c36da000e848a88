"""Does a dictionary belong where it is read? Its figures on a sample of text, beside published ones and neighbours.

A dictionary at a wrong hook of the right width encodes and decodes without complaint; only its figures show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.checkup.published import L0, LOSS_MEAN, LOSS_ZERO, VARIANCE, Published, expected_site, published
from engine.checkup.results import CheckUp, Figure, HookReading, Losses, StoredComparison, Verdict
from engine.checkup.stored_activations import compare_stored
from engine.dictionary import Dictionary
from engine.errors import BadRequest, DictionaryMismatch
from engine.job import Job
from engine.model import LanguageModel
from engine.names.models import mismatch
from engine.opening import OpenSet, open_set
from engine.requests import Open
from engine.sites import Site
from engine.training.corpus import Context, Document, cut_contexts, read_documents
from engine.training.evaluate import Figures, evaluate
from engine.training.tally import Trial, tally

SAMPLE = Path(__file__).parent / "data" / "sample.txt"
"""Neutral text of many kinds, written for this purpose."""
_STRETCH = 128
_TOKENS = 4096
_SPLICED, _TRIED = 6, 8
"""Stretches that losses are measured on, which cost three passes per dictionary, and that neighbours are tried on."""
_TRIED_AT_ONCE = 4

L0_FACTOR, L0_FAR = 1.6, 3.0
"""Within the first factor an L0 agrees with a published one; beyond the second the hook is doubted."""
SHARE_APART, SHARE_FAR = 0.06, 0.25
"""The same for explained variance and loss recovered, as differences: samples differ, and so do conventions."""
BETTER, CLEARLY_BETTER = 0.02, 0.08
"""By how much more variance a neighbour must explain to bring the hook into doubt, and to be called the right one.
The streams of two layers are much alike: one off costs a good dictionary only .03 to .1, but nothing gains as much."""
_POOR = 0.3

_STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z")
_INPUTS = ("hook_mlp_in", "ln2_normalized", "mlp_in", "resid_mid", "resid_pre")


def examine(opening: Open, text: Path | None, activations: Path | None, job: Job) -> tuple[CheckUp, ...]:
    """Open what was asked for and check every dictionary of it.

    Raises:
        SaescopeError: something is missing or does not fit together; a wrong width is refused before any figure.
    """
    if text is not None and not text.is_file():
        raise BadRequest(f"There is no file {text}.", "Give a text file.")
    opened = open_set(opening, job)
    return check_up(opened, text, job, activations)


def check_up(opened: OpenSet, text: Path | None, job: Job, activations: Path | None = None) -> tuple[CheckUp, ...]:
    """Every open dictionary examined on `text`, or on the sample that ships with saescope."""
    contexts, bos = sample(opened, text, job)
    dictionaries = list(opened.dictionaries.values())
    stored = {  # first: a file that cannot be used is told before anything is measured
        d.source: compare_stored(opened, d, activations, job) for d in dictionaries if activations is not None
    }
    figures = evaluate(opened.model, dictionaries, contexts, _some(contexts, _SPLICED), job)
    tried = try_hooks(opened.model, dictionaries, _some(contexts, _TRIED), job)
    found = []
    for dictionary, readings in zip(dictionaries, tried, strict=True):
        name = "the sample that ships with saescope" if text is None else text.name
        source = dictionary.source
        found.append(_told(opened, dictionary, figures[source], readings, name, bos, stored.get(source)))
    return tuple(found)


def sample(opened: OpenSet, text: Path | None, job: Job) -> tuple[list[Context], bool]:
    """Stretches of text as the dictionaries read prompts, and whether each begins with BOS."""
    tokenizer = opened.model.tokenizer
    bos_id = tokenizer.bos_id
    bos = bos_id is not None and tokenizer.encode("a", bos=opened.bos)[:1] == [bos_id]
    length = min(_STRETCH, opened.model.context) - bos
    if text is None:
        parts = SAMPLE.read_text(encoding="utf-8").split("\n\n\n")
        documents = [Document("sample", part.strip()) for part in parts]
    else:
        documents = list(read_documents([text]))
    contexts = cut_contexts(documents, tokenizer, length, limit=_TOKENS, job=job)
    if bos:
        first = np.array([bos_id], dtype=np.int32)
        contexts = [Context(c.source, c.document, np.concatenate([first, c.ids])) for c in contexts]
    return contexts, bos


def _some(contexts: list[Context], count: int) -> list[Context]:
    """So many of them, evenly from the whole text."""
    return contexts[:: max(1, len(contexts) // count)][:count]


# --- neighbours -----------------------------------------------------------------------------------------------------


def try_hooks(
    model: LanguageModel, dictionaries: Sequence[Dictionary], contexts: list[Context], job: Job
) -> list[tuple[HookReading, ...]]:
    """What every dictionary makes of its own place, first, and of the neighbours, best first."""
    trials = [[Trial.own(d), *around] for d, around in zip(dictionaries, neighbours(model, dictionaries), strict=True)]
    tallies = iter(tally(model, [trial for some in trials for trial in some], contexts, job, rows=_TRIED_AT_ONCE))
    found = []
    for some in trials:
        own, *others = [
            HookReading(trial.read.hook, trial.write.hook, one.every.explained, one.l0)
            for trial, one in zip(some, tallies, strict=False)
        ]
        found.append((own, *sorted(others, key=lambda reading: -reading.explained_variance)))
    return found


def neighbours(model: LanguageModel, dictionaries: Sequence[Dictionary]) -> list[list[Trial]]:
    """Every dictionary one layer up and down, and at other places of its layer that are as wide."""
    wanted = [_around(dictionary) for dictionary in dictionaries]
    sites = {site for trials in wanted for trial in trials for site in (trial.read, trial.write)}
    there = [site for site in sites if _exists(model, site)]
    two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    widths = {site: x[0, 0].numel() for site, x in model.capture(two, there).items()} if there else {}
    return [
        [t for t in trials if (widths.get(t.read), widths.get(t.write)) == (t.dictionary.d_in, t.dictionary.d_out)]
        for trials in wanted
    ]


def _around(dictionary: Dictionary) -> list[Trial]:
    """Where else it might belong, whether or not the model has such places; no place twice."""
    own = Trial.own(dictionary)
    shifted = [
        Trial(dictionary, Site(own.read.kind, own.read.layer + step), Site(own.write.kind, own.write.layer + step))
        for step in (-1, 1)
        if own.read.kind != "embed"
    ]
    if own.read != own.write:
        others = [Trial(dictionary, Site(kind, own.read.layer), own.write) for kind in _INPUTS]
    else:
        places = [Site(kind, own.read.layer) for kind in _STREAM]
        places += [Site("embed", 0)] if own.read.layer == 0 else []
        others = [Trial(dictionary, place, place) for place in places]
    kept, seen = [], {(_place(own.read), _place(own.write))}
    for trial in (*shifted, *others):
        key = (_place(trial.read), _place(trial.write))
        if key not in seen:
            seen.add(key)
            kept.append(trial)
    return kept


def _exists(model: LanguageModel, site: Site) -> bool:
    if site.layer < 0:
        return False
    try:
        model.check_site(site)
    except DictionaryMismatch:
        return False
    return True


def _place(site: Site) -> Site:
    """One name for one place: what enters a block is what left the one before."""
    return Site("resid_post", site.layer - 1) if site.kind == "resid_pre" and site.layer else site


# --- what it means --------------------------------------------------------------------------------------------------


def _told(
    opened: OpenSet,
    dictionary: Dictionary,
    measured: Figures,
    readings: tuple[HookReading, ...],
    text: str,
    bos: bool,
    stored: StoredComparison | None,
) -> CheckUp:
    known = published(dictionary)
    figures = (
        _figure(L0, measured.l0, known),
        _figure(VARIANCE, measured.explained_variance, known),
        _figure(LOSS_ZERO, measured.loss_recovered_zero, known),
        _figure(LOSS_MEAN, measured.loss_recovered, known),
    )
    verdict, sentences = _judge(dictionary, figures, readings)
    if (other := mismatch(opened.model.name, dictionary.metadata.get("model_name"))) is not None:
        sentences.append(other)
    norms = dictionary.decoder_norm
    return CheckUp(
        source=dictionary.source,
        model=opened.model.name,
        hook=dictionary.site.hook,
        hook_out=dictionary.write_site.hook,
        form=dictionary.form,
        formula=dictionary.formula,
        features=dictionary.d_sae,
        sample=text,
        tokens=measured.tokens,
        bos=bos,
        figures=figures,
        losses=Losses(
            measured.loss_clean, measured.loss_spliced, measured.loss_mean_ablated, measured.loss_zero_ablated,
            measured.loss_tokens,
        ),
        silent=measured.dead_fraction,
        decoder_norms=(float(norms.min()), float(norms.median()), float(norms.max())),
        readings=readings,
        verdict=verdict,
        sentences=tuple(sentences),
        notes=dictionary.notes,
        stored=stored,
    )  # fmt: skip


def _figure(name: str, measured: float, known: dict[str, Published]) -> Figure:
    beside = known.get(name)
    if beside is None or not math.isfinite(measured):
        return Figure(name, measured)
    if name == L0:
        ratio = measured / beside.value if beside.value > 0 else math.inf
        agrees = 1 / L0_FACTOR <= ratio <= L0_FACTOR
        sentence = "" if agrees else _l0_sentence(ratio)
    else:
        apart = measured - beside.value
        agrees = abs(apart) <= SHARE_APART
        doubt = ": is the hook right?" if apart < -SHARE_FAR else "."
        word = "Explained variance" if name == VARIANCE else "Loss recovered"
        sentence = "" if agrees else f"{word} is {measured:.2f} where {beside.value:.2f} was published{doubt}"
    return Figure(name, measured, beside.value, beside.origin, agrees, sentence)


def _l0_sentence(ratio: float) -> str:
    doubt = ": is the hook right?" if ratio > L0_FAR or ratio < 1 / L0_FAR else "."
    if ratio == 0:
        return "Nothing fires: is the hook right?"
    times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
    share = f"1/{1 / ratio:.0f}" if ratio < 0.1 else f"{ratio:.2f}"
    return (
        f"L0 is {times} times the published one{doubt}" if ratio > 1 else f"L0 is {share} of the published one{doubt}"
    )


def _judge(
    dictionary: Dictionary, figures: Sequence[Figure], readings: Sequence[HookReading]
) -> tuple[Verdict, list[str]]:
    """One word, and sentences, the most important first."""
    told = [figure.sentence for figure in figures if figure.sentence]
    own, best = readings[0], max(readings, key=lambda reading: reading.explained_variance)
    expected = expected_site(dictionary)
    gain = best.explained_variance - own.explained_variance
    evs = f"(EV {best.explained_variance:.2f})", f"(EV {own.explained_variance:.2f})"
    if gain > CLEARLY_BETTER and best.explained_variance > _POOR:
        return "wrong hook", [f"It reads best at {_where(best)} {evs[0]}, not at {_where(own)} {evs[1]}.", *told]
    if expected is not None and _place(expected) != _place(dictionary.site):
        said = f"Its publishers say that it reads {expected.hook}; here it reads {dictionary.site.hook}."
        return "wrong hook", [said, *told]
    if gain > BETTER and best.explained_variance > _POOR:
        said = f"It reads better at {_where(best)} {evs[0]} than at {_where(own)} {evs[1]}: is the hook right?"
        return "doubtful hook", [said, *told]
    if told:
        return "differs", told
    if own.explained_variance < _POOR:
        return "poor", ["It reconstructs little here: is this its model, and are its settings whole?"]
    if any(figure.agrees for figure in figures):
        return "agrees", []
    return "nothing to compare", ["No published figures are known here; it reads no neighbouring hook better."]


def _where(reading: HookReading) -> str:
    return reading.hook if reading.hook == reading.hook_out else f"{reading.hook} → {reading.hook_out}"
