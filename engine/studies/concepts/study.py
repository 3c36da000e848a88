"""Concept coverage: which concepts of a list have a feature of their own, against how often they occur in text.

After Scaling Monosemanticity's "completeness": there a feature was looked for by prompting and by reading its examples;
here it has to fire on the concept in every template, more strongly than on all others of the list by a factor, and
seldom on any other text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.corpus.reading import Batch, read_batches
from engine.corpus.text import contexts_of, documents_of
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.studies.categories import DATA
from engine.studies.concepts.tables import concept_result
from engine.studies.concepts.text import OnText, candidates_of, read_text
from engine.studies.measure import Growing
from engine.studies.parts import chosen, pieces_of
from engine.studies.proxies import characters, words_in
from engine.study_results import StudyResult
from engine.study_settings.concepts import Concepts
from engine.training.corpus import Context

BUILT_IN = ("cities", "elements", "boroughs")
TEMPLATES = (
    "They were talking about {} again.",
    "In this book everything is about {}.",
    "The article about {} was short.",
    "I know nothing about {}, to be honest.",
)
_MOST = 2000


def measure(opened: OpenSet, settings: Concepts, growing: Growing) -> StudyResult:
    """For every dictionary the share of concepts that have a feature, and for every concept its best one.

    The activation of a feature on a concept is its largest over the tokens of the concept, in f, averaged over the
    templates. Occurrences are counted whole, in the case they are written in.
    """
    concepts = concept_list(settings.concepts)
    templates = settings.templates or TEMPLATES
    if wrong := next((t for t in templates if t.count("{}") != 1), None):
        raise BadRequest(f"{wrong!r} has no place for the concept, or several.", "Write {} once in each template.")
    if wrong := next((t for t in templates if t.lstrip().startswith("{}")), None):
        raise BadRequest(f"{wrong!r} begins with the concept.", "Begin with another word: first tokens do not count.")
    dictionaries = chosen(opened, settings.sources)
    mean, least = activations(opened, dictionaries, concepts, templates, growing)
    candidates = {source: candidates_of(mean[source], least[source], settings.margin) for source in mean}
    contexts = list(contexts_of(opened, documents_of(settings.text), settings.context, settings.tokens))
    if not contexts:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")

    def result(found: OnText) -> StudyResult:
        return concept_result(opened, dictionaries, settings, concepts, mean, candidates, found)

    return result(
        read_text(
            opened, dictionaries, contexts, concepts, candidates, growing, lambda found: growing.grown(result(found))
        )
    )


def concept_list(given: Sequence[str]) -> list[str]:
    """Concepts by the names of built-in lists and by files, each concept once.

    Raises:
        BadRequest: a file cannot be read, or there are fewer than two concepts to tell apart, or too many.
    """
    found: list[str] = []
    for name in given:
        found += words_in(DATA / f"{name}.txt" if name in BUILT_IN and not Path(name).exists() else Path(name))
    concepts = list(dict.fromkeys(found))
    if not 2 <= len(concepts) <= _MOST:
        raise BadRequest(
            f"The list has {len(concepts)} concepts; 2 to {_MOST} can be told apart.", f"Use {', '.join(BUILT_IN)}."
        )
    return concepts


def activations(
    opened: OpenSet,
    dictionaries: Sequence[Dictionary],
    concepts: Sequence[str],
    templates: Sequence[str],
    growing: Growing,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By source [concepts, d_sae]: mean and least, over templates, of the largest activation on a concept's tokens."""
    sentences = [template.replace("{}", concept) for concept in concepts for template in templates]
    spans = [
        (len(template.partition("{}")[0]), len(template.partition("{}")[0]) + len(concept))
        for concept in concepts
        for template in templates
    ]
    contexts = [
        Context("", number, np.array(opened.checked_ids(sentence, False), dtype=np.int32))
        for number, sentence in enumerate(sentences)
    ]
    per = len(templates)
    total = {d.source: torch.zeros(len(concepts), d.d_sae) for d in dictionaries}
    least = {d.source: torch.full((len(concepts), d.d_sae), math.inf) for d in dictionaries}
    for batch in read_batches(opened.model, dictionaries, contexts, growing.job):
        for number in range(len(batch.contexts)):
            sentence = batch.start + number
            on = _tokens_of(opened, batch, number, spans[sentence])
            for source, read in batch.reads.items():
                peak = torch.zeros(read.dictionary.d_sae)
                inside = on[read.entries.rows.cpu()]
                features = read.entries.features.cpu()[inside]
                peak.scatter_reduce_(0, features, read.entries.values.cpu()[inside].float(), "amax")
                total[source][sentence // per] += peak / per
                least[source][sentence // per] = torch.minimum(least[source][sentence // per], peak)
        growing.progress("reading sentences", batch.start + len(batch.contexts), len(contexts))
        growing.rest()
    return total, least


def _tokens_of(opened: OpenSet, batch: Batch, number: int, span: tuple[int, int]) -> Tensor:
    """bool [n]: the tokens of a batch that are of the concept in one of its contexts."""
    _, starts, ends = characters(pieces_of(opened, batch.contexts[number].ids.tolist()))
    inside = (starts < span[1]) & (ends > span[0]) & (ends > starts)
    found = torch.zeros(len(batch.ids), dtype=torch.bool)
    found[torch.from_numpy(np.flatnonzero(batch.context == number)[inside])] = True
    return found
